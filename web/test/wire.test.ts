import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { CLOSE_CODES, parseDreamFrame, parseNotificationsFrame, parsePresenceFrame } from "../src/index.js";
import type { Parsed } from "../src/connection-types.js";
import { CLOSE_CODE_FIXTURES, FIXTURES, type Fixture } from "./fixtures.js";

type Parser = (text: string) => Parsed<{ readonly type: string }>;

/** Events under a custom name exist on the dialects with channels; a dream's socket has one channel of its own. */
const PARSERS: { readonly [dialect in Fixture["dialect"]]: readonly Parser[] } = {
  D: [parseDreamFrame],
  N: [parseNotificationsFrame],
  P: [parsePresenceFrame],
  "*": [parseNotificationsFrame, parsePresenceFrame],
};

const serverFixtures = FIXTURES.filter(({ direction }) => direction === "server");

describe("server frames", () => {
  it("exist for every dialect", () => {
    for (const dialect of Object.keys(PARSERS)) {
      assert.ok(serverFixtures.some((fixture) => fixture.dialect === dialect), dialect);
    }
  });

  for (const { name, dialect, frame } of serverFixtures) {
    it(`${name} is understood and loses nothing`, () => {
      for (const parse of PARSERS[dialect]) {
        const parsed = parse(JSON.stringify(frame));
        assert.ok(parsed.ok, `${name}: ${JSON.stringify(parsed)}`);
        if (parsed.frame.type === "custom") {
          assert.deepEqual(parsed.frame, { ...frame, type: "custom", name: frame["type"] });
        } else if (parsed.frame.type === "history") {
          assert.equal((parsed.frame as unknown as { events: unknown[] }).events.length, (frame["events"] as unknown[]).length);
        } else {
          assert.deepEqual(parsed.frame, frame);
        }
      }
    });

    it(`${name} with any field missing or of another type never throws`, () => {
      for (const parse of PARSERS[dialect]) {
        for (const broken of mutations(frame)) parse(JSON.stringify(broken));
      }
    });
  }

  it("refuse what lacks a promised field", () => {
    const update = { type: "image_update", dream_id: 1, status: "completed", images: [], timestamp: 1 };
    assert.ok(parseDreamFrame(JSON.stringify(update)).ok);
    for (const broken of [
      { ...update, status: "melted" },
      { ...update, images: [{ id: 1, url: 5, position: 1 }] },
      { ...update, images: null },
      { ...update, dream_id: {} },
    ]) {
      assert.equal(reason(parseDreamFrame(JSON.stringify(broken))), "malformed");
    }
  });

  it("skip noise by its kind", () => {
    for (const noise of ["", "{", "5", "null", "[]", '"text"']) assert.equal(reason(parseDreamFrame(noise)), "not_json");
    for (const noise of ["{}", '{"type":5}', '{"type":"dance"}', '{"type":"toString"}', '{"type":"__proto__"}']) {
      assert.equal(reason(parseDreamFrame(noise)), "unknown_type");
    }
  });

  it("cannot smuggle in the library's own wrapper for custom events", () => {
    assert.equal(reason(parseNotificationsFrame('{"type":"custom","data":1}')), "malformed");
  });

  it("inside a history are read one by one, leaving out what is not understood", () => {
    const parsed = parseNotificationsFrame(
      JSON.stringify({
        type: "history",
        channel: "c",
        epoch: "e",
        seq: 3,
        events: [{ type: "edited", data: 1, channel: "c", epoch: "e", seq: 2 }, { type: "material_update", data: {} }, 7, null],
      }),
    );
    assert.ok(parsed.ok && parsed.frame.type === "history");
    assert.deepEqual(parsed.frame.events, [{ type: "custom", name: "edited", data: 1, channel: "c", epoch: "e", seq: 2 }]);
  });
});

describe("close codes", () => {
  it("are those of the server, with the same consequence", () => {
    // 1005 and 1006 never travel: the browser makes them up.
    const ours = CLOSE_CODES.filter(({ code }) => code !== 1005 && code !== 1006);
    assert.deepEqual(
      ours.map(({ code, action }) => [code, action as string]),
      CLOSE_CODE_FIXTURES.map(({ code, client }) => [code, client]),
    );
  });
});

function reason(parsed: Parsed<unknown>): string | null {
  return parsed.ok ? null : parsed.ignored.because;
}

/** `value` with, one at a time, each part of it removed or replaced. */
function* mutations(value: unknown): Generator<unknown> {
  for (const other of [null, 7, "text", true, [], {}, [null], { type: "x" }]) yield other;
  if (Array.isArray(value)) {
    for (const [index, item] of value.entries()) {
      for (const changed of mutations(item)) yield [...value.slice(0, index), changed, ...value.slice(index + 1)];
    }
  } else if (typeof value === "object" && value !== null) {
    for (const [key, item] of Object.entries(value)) {
      yield Object.fromEntries(Object.entries(value).filter(([other]) => other !== key));
      for (const changed of mutations(item)) yield { ...value, [key]: changed };
    }
  }
}
