import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Replay } from "../src/replay.js";
import type { Positioned } from "../src/wire/frame.js";

const at = (seq: number, epoch = "e", channel = "c"): Positioned => ({ channel, epoch, seq });
const seqs = (events: readonly Positioned[]): unknown[] => events.map(({ seq }) => seq);
const announced = (seq: number) => ({ type: "resumed", channel: "c", epoch: "e", seq, recovered: 0 }) as const;
const lost = (seq: number, epoch = "e") =>
  ({ type: "resume_failed", channel: "c", epoch, seq, reason: "history_lost" }) as const;

describe("a replay", () => {
  it("lets every event through once, by channel and epoch", () => {
    const replay = new Replay();
    const events = [at(1), at(2), at(2), at(1), at(1, "f"), at(1, "e", "d"), at(3, "f"), {}, {}];
    assert.deepEqual(events.map((event) => replay.judge(event)), [
      ..."deliver deliver stale stale deliver deliver deliver deliver deliver".split(" "),
    ]);
  });

  it("holds new events back until the missed ones are through", () => {
    const replay = new Replay();
    replay.judge(at(5));
    replay.begin("c");
    assert.equal(replay.judge(at(9)), "held");
    replay.resumed(announced(8));
    assert.equal(replay.judge(at(6)), "deliver");
    assert.equal(replay.judge(at(10)), "held");
    assert.equal(replay.judge(at(8)), "deliver");
    assert.equal(replay.judge(at(7)), "stale");
    assert.deepEqual(seqs(replay.finish("c")), [9, 10]);
    assert.equal(replay.judge(at(11)), "deliver");
    assert.deepEqual(replay.point("c"), { epoch: "e", seq: 11 });
  });

  it("lets through at once what came before the place that is resumed from, and was not delivered", () => {
    const replay = new Replay();
    replay.joined("c", { epoch: "e", seq: 4 });
    replay.begin("c");
    const unread = [at(3), at(4), at(5)].map((event) => replay.judge(event));
    assert.deepEqual(unread, ["deliver", "deliver", "held"]);
    replay.resumed(announced(5));
    assert.equal(replay.judge(at(5)), "deliver");
    assert.deepEqual(replay.finish("c"), []);
  });

  it("puts in order what it held back", () => {
    const replay = new Replay();
    replay.begin("c");
    for (const seq of [7, 4, 5, 6, 5]) replay.judge(at(seq));
    assert.deepEqual(seqs(replay.finish("c")), [4, 5, 6, 7]);
  });

  it("holds back no other channel", () => {
    const replay = new Replay();
    replay.begin("c");
    assert.equal(replay.judge(at(1, "e", "d")), "deliver");
  });

  it("goes on from where the server says when the missed ones are lost", () => {
    const replay = new Replay();
    replay.judge(at(5));
    replay.begin("c");
    replay.failed(lost(40, "f"));
    assert.deepEqual(replay.finish("c"), []);
    assert.deepEqual(replay.point("c"), { epoch: "f", seq: 40 });
    assert.deepEqual(replay.channels(), ["c"]);
    assert.equal(replay.judge(at(41, "f")), "deliver");
    assert.deepEqual(replay.point("c"), { epoch: "f", seq: 41 });
  });

  it("loses nothing that was on its way when the server said that the rest is lost", () => {
    const replay = new Replay();
    replay.judge(at(5));
    replay.begin("c");
    replay.judge(at(39, "f"));
    replay.failed(lost(40, "f"));
    replay.judge(at(40, "f"));
    assert.deepEqual(seqs(replay.finish("c")), [39, 40]);
  });

  it("delivers what was held though the server knows no replays", () => {
    const replay = new Replay();
    replay.judge(at(5));
    replay.begin("c");
    replay.judge(at(6));
    replay.judge(at(7));
    assert.deepEqual(seqs(replay.finish("c")), [6, 7]);
  });

  it("of a lost connection leaves nothing behind but where to resume", () => {
    const replay = new Replay();
    replay.judge(at(5));
    replay.begin("c");
    replay.judge(at(9));
    replay.abandon();
    assert.deepEqual(replay.point("c"), { epoch: "e", seq: 5 });
    assert.deepEqual(replay.finish("c"), []);
    assert.equal(replay.judge(at(6)), "deliver");
  });

  it("waits for all that were asked for", () => {
    const replay = new Replay();
    replay.begin("c");
    replay.begin("c");
    replay.judge(at(9));
    assert.deepEqual(replay.finish("c"), []);
    assert.deepEqual(seqs(replay.finish("c")), [9]);
  });

  it("is given up where more piles up than it has room for", () => {
    const replay = new Replay();
    replay.judge(at(2));
    replay.begin("c");
    replay.resumed(announced(6));
    const live = Array.from({ length: 10_000 }, (_, index) => 7 + index);
    for (const seq of [...live].reverse()) assert.equal(replay.judge(at(seq)), "held");
    assert.equal(replay.giveUpIfFull("c"), null);
    assert.equal(replay.judge(at(10_007)), "held");
    const givenUp = replay.giveUpIfFull("c");
    assert.deepEqual(givenUp?.failure, { ...lost(6), reason: "overflow" });
    assert.deepEqual(seqs(givenUp?.events ?? []), [...live, 10_007]);
    assert.equal(replay.judge(at(3)), "stale");
    assert.equal(replay.judge(at(10_008)), "deliver");
    assert.equal(replay.giveUpIfFull("c"), null);
    assert.deepEqual(replay.finish("c"), []);
    assert.deepEqual(replay.point("c"), { epoch: "e", seq: 10_008 });
  });

  it("that was given up may be followed by another", () => {
    const replay = new Replay();
    replay.begin("c");
    for (let seq = 1; seq <= 10_001; seq++) replay.judge(at(seq));
    replay.giveUpIfFull("c");
    replay.begin("c");
    assert.equal(replay.judge(at(10_003)), "held");
    // The ping of the first one is answered.
    assert.deepEqual(replay.finish("c"), []);
    replay.resumed(announced(10_002));
    assert.equal(replay.judge(at(10_002)), "deliver");
    assert.deepEqual(seqs(replay.finish("c")), [10_003]);
  });
});
