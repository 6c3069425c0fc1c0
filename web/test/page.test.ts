import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { movedPosition, wordsBefore } from "../demo/placement.js";
import { decodeThumbhash } from "../demo/thumbhash.js";

const web = (path: string): string => readFileSync(new URL(`../../${path}`, import.meta.url), "utf8");

describe("movedPosition", () => {
  const before = "The sea was warm.";

  it("keeps a photo with its words, wherever the edit is", () => {
    for (let at = 0; at <= before.length; at += 1) {
      for (const typed of ["x", "🌊", "two words", "\n"]) {
        const after = before.slice(0, at) + typed + before.slice(at);
        for (let position = 0; position <= before.length; position += 1) {
          const moved = movedPosition(before, after, position);
          // Where the typed text repeats its surroundings, several readings of the edit are right.
          assert.equal(after.slice(0, moved).replace(typed, "").length <= position, true);
          assert.ok(moved === position || moved === position + typed.length, `${at} ${typed} ${position} ${moved}`);
          if (position < at) assert.equal(moved, position);
        }
      }
    }
  });

  it("goes to the edge of what was cut out, and behind what replaced it", () => {
    assert.equal(movedPosition(before, "The warm.", 6), 4);
    assert.equal(movedPosition(before, "The lake was warm.", 6), 8);
    assert.equal(movedPosition(before, "", 9), 0);
    assert.equal(movedPosition("", before, 0), 0);
  });

  it("never ends up inside a character", () => {
    assert.equal(movedPosition("ab🌊", "a🌊", 1), 1);
    assert.equal(movedPosition("🌊🌙", "🌙", 2), 0);
    // Both are written with the same first half.
    assert.equal(movedPosition("x🌊", "x🌙", 3), 3);
  });
});

describe("wordsBefore", () => {
  it("tells the last words, whole characters only", () => {
    assert.equal(wordsBefore("The sea", 0), "");
    assert.equal(wordsBefore("The\n sea ", 8), "The sea");
    assert.equal(wordsBefore("🌊🌙🌊🌙", 8, 7), "…🌙🌊🌙");
    assert.equal(wordsBefore("only the end of it tells", 24, 8), "…it tells");
    assert.equal(wordsBefore("月亮站在水里", 6, 8), "…站在水里");
    assert.equal(wordsBefore("月亮站在水里", 6, 12), "月亮站在水里");
  });
});

describe("thumbhashes", () => {
  /** A hash of nothing but its constant terms: `l`, `p`, `q` in 6 bits each, and every wave at its middle. */
  function flat(l: number, p: number, q: number, isLandscape: boolean): string {
    const head = l | (p << 6) | (q << 12);
    const shape = 5 | (isLandscape ? 0x8000 : 0);
    const bytes = [head & 255, (head >> 8) & 255, head >> 16, shape & 255, shape >> 8, ...new Array<number>(24).fill(0x77)];
    return btoa(String.fromCharCode(...bytes));
  }

  it("without waves are one colour", () => {
    const white = decodeThumbhash(flat(63, 31, 31, true));
    assert.ok(white);
    assert.deepEqual([white.width, white.height], [32, 23]);
    for (let at = 0; at < white.rgba.length; at += 4) {
      for (let channel = 0; channel < 4; channel += 1) assert.ok((white.rgba[at + channel] ?? 0) > 240);
    }
    const dark = decodeThumbhash(flat(6, 31, 31, false));
    assert.ok(dark);
    assert.deepEqual([dark.width, dark.height], [23, 32]);
    assert.ok((dark.rgba[0] ?? 255) < 45 && dark.rgba[3] === 255);
  });

  it("know red from blue", () => {
    const red = decodeThumbhash(flat(21, 47, 63, true))?.rgba;
    const blue = decodeThumbhash(flat(21, 0, 31, true))?.rgba;
    assert.ok(red && blue);
    assert.ok((red[0] ?? 0) > (red[2] ?? 0) + 80, String(red.slice(0, 3)));
    assert.ok((blue[2] ?? 0) > (blue[0] ?? 0) + 80, String(blue.slice(0, 3)));
  });

  it("of the fixture decodes to a picture of its shape", () => {
    const picture = decodeThumbhash("1QcSHQRnh493V4dIh4eXh1h4kJUI");
    assert.deepEqual([picture?.width, picture?.height], [23, 32]);
  });

  it("that are none are refused", () => {
    for (const text of ["", "AAAA", "not base64!", "1QcSHQRnh4"]) assert.equal(decodeThumbhash(text), null);
  });
});

describe("the page", () => {
  const html = web("demo/index.html");

  it("needs no exception from its content security policy", () => {
    assert.doesNotMatch(html, /<style|\sstyle=|\son\w+=|javascript:|https?:/i);
    for (const [, attributes = "", body = ""] of html.matchAll(/<script([^>]*)>([^<]*)</g)) {
      assert.match(attributes, /src="app\.js"/);
      assert.equal(body, "");
    }
    assert.doesNotMatch(web("demo/app.css"), /@import|url\(/);
  });

  it("has the elements that its tests and readers rely on", () => {
    for (const id of ["user-id", "username", "token", "sign-in", "title", "content", "files", "submit"]) {
      assert.match(html, new RegExp(`id="${id}"`));
      assert.match(web("README.md"), new RegExp(`#${id}\\b`));
    }
    const card = web("demo/card-view.ts");
    const testids = ["dream", "connection-state", "dream-text", "dream-error", "delete-dream", "confirm-delete", "retry-dream"];
    for (const testid of testids) {
      assert.match(card, new RegExp(`testid: "${testid}"`));
      assert.match(web("README.md"), new RegExp(`data-testid=${testid}\\b`));
    }
  });

  it("labels every field", () => {
    for (const [, id = ""] of html.matchAll(/<(?:input|textarea) id="([^"]+)"/g)) {
      const isWrapped = new RegExp(`<label class="field">\\s*<span[^>]*>[^<]*</span>\\s*<\\w+ id="${id}"`).test(html);
      assert.ok(isWrapped || html.includes(`for="${id}"`), id);
    }
  });
});
