import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { backoffCeilingMs, backoffDelayMs, parseRetryAfterS } from "../src/index.js";

const OPTIONS = { baseMs: 1_000, capMs: 30_000 };
const ALMOST_ONE = 1 - Number.EPSILON;

describe("backoff", () => {
  it("doubles its ceiling up to the cap, forever", () => {
    const ceilings = [0, 1, 2, 3, 4, 5, 6, 1_000, Number.MAX_SAFE_INTEGER].map((n) => backoffCeilingMs(n, OPTIONS));
    assert.deepEqual(ceilings, [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000, 30_000]);
  });

  it("draws from zero to the ceiling, and from nothing else", () => {
    for (let attempt = 0; attempt < 40; attempt += 1) {
      assert.equal(backoffDelayMs(attempt, OPTIONS, null, () => 0), 0);
      const largest = backoffDelayMs(attempt, OPTIONS, null, () => ALMOST_ONE);
      assert.ok(largest <= backoffCeilingMs(attempt, OPTIONS) && largest >= backoffCeilingMs(attempt, OPTIONS) - 1);
    }
  });

  it("spreads a herd evenly over the ceiling", () => {
    const tenths = new Array<number>(10).fill(0);
    for (let client = 0; client < 10_000; client += 1) {
      const tenth = Math.floor(backoffDelayMs(10, OPTIONS) / 3_000);
      tenths[tenth] = (tenths[tenth] ?? 0) + 1;
    }
    for (const count of tenths) assert.ok(count > 800 && count < 1_200, tenths.join(" "));
  });

  it("never comes before the time that the server names, and spreads after it", () => {
    assert.equal(backoffDelayMs(0, OPTIONS, 7, () => 0), 7_000);
    assert.equal(backoffDelayMs(0, OPTIONS, 7, () => 0.5), 7_500);
  });

  it("does not believe in hours", () => {
    assert.equal(backoffDelayMs(0, OPTIONS, 86_400, () => 0), 600_000);
  });

  it("reads the pause out of a close reason", () => {
    const cases: readonly (readonly [string, number | null])[] = [
      ["retry_after=5", 5],
      ["restart; retry_after=2.5", 2.5],
      ["draining retry_after=30 please", 30],
      ["retry_after=0", 0],
      ["", null],
      ["retry_after=", null],
      ["retry_after=-5", null],
      ["no_retry_after=5", null],
      ["retry_after=soon", null],
    ];
    for (const [text, seconds] of cases) assert.equal(parseRetryAfterS(text), seconds, text);
  });
});
