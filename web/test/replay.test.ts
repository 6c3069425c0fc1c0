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

  it("never lets more pile up than it has room for", () => {
    const replay = new Replay();
    replay.begin("c");
    const verdicts = Array.from({ length: 10_001 }, (_, seq) => replay.judge(at(seq)));
    assert.equal(verdicts.filter((verdict) => verdict === "held").length, 10_000);
    assert.equal(verdicts.at(-1), "deliver");
  });
});
