import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { clampPosition, insertImages, segmentsOf } from "../src/index.js";

const at = (position: number, url = `/${position}.jpg`): { url: string; position: number } => ({ url, position });
const mark = ({ url }: { url: string }): string => `[${url}]`;

/** What the first front end did, by which every position in every database was made. */
function asWritten(content: string, images: readonly { url: string; position: number }[]): string {
  let offset = 0;
  let text = content;
  for (const image of [...images].sort((a, b) => a.position - b.position)) {
    const position = image.position + offset;
    const markdown = `![图片](${image.url})`;
    text = text.substring(0, position) + markdown + text.substring(position);
    offset += markdown.length;
  }
  return text;
}

describe("insertImages", () => {
  it("puts each picture at its position, whatever order they come in", () => {
    assert.equal(insertImages("abcdef", [at(4), at(2)], mark), "ab[/2.jpg]cd[/4.jpg]ef");
  });

  it("writes Markdown, as the first front end did", () => {
    assert.equal(insertImages("ab", [at(1, "/x.jpg")]), "a![图片](/x.jpg)b");
  });

  it("equals the first front end wherever that tore nothing apart", () => {
    const contents = ["", "a", "plain text", "夜里的海，有光。", "one\ntwo\r\nthree", "a🌊b🌙c", "👩‍👩‍👧 family"];
    for (const content of contents) {
      for (let p = 0; p <= content.length + 2; p += 1) {
        for (let q = 0; q <= content.length + 2; q += 3) {
          const images = [at(p), at(q, "/q.jpg")];
          if (images.some(({ position }) => clampPosition(content, position) !== Math.min(position, content.length))) continue;
          assert.equal(insertImages(content, images), asWritten(content, images), `${content} ${p} ${q}`);
        }
      }
    }
  });

  it("keeps the order of pictures at one position", () => {
    assert.equal(insertImages("ab", [at(1, "x"), at(1, "y"), at(1, "z")], mark), "a[x][y][z]b");
  });

  it("appends what lies beyond the end", () => {
    assert.equal(insertImages("ab", [at(99), at(2), at(Infinity, "∞"), at(NaN, "?")], mark), "ab[/2.jpg][/99.jpg][∞][?]");
  });

  it("puts what lies before the beginning at the beginning", () => {
    assert.equal(insertImages("ab", [at(-3, "x"), at(-Infinity, "y")], mark), "[y][x]ab");
  });

  it("counts UTF-16 code units: a wave is two, a character of Chinese is one", () => {
    assert.equal(insertImages("🌊海", [at(2, "x")], mark), "🌊[x]海");
    assert.equal(insertImages("海🌊", [at(1, "x"), at(3, "y")], mark), "海[x]🌊[y]");
  });

  it("never splits a surrogate pair", () => {
    const content = "a🌊🌙b";
    for (let position = 0; position <= content.length; position += 1) {
      const text = insertImages(content, [at(position, "x")], mark);
      // Throws for a lone surrogate.
      encodeURIComponent(text);
      assert.equal(text.replace("[x]", ""), content);
    }
    assert.equal(insertImages(content, [at(2, "x")], mark), "a[x]🌊🌙b");
    assert.equal(insertImages(content, [at(4, "x")], mark), "a🌊[x]🌙b");
  });

  it("leaves lone surrogates and fractions in peace", () => {
    assert.equal(insertImages("\ud83c-\udf0a", [at(1, "x"), at(2.9, "y")], mark), "\ud83c[x]-[y]\udf0a");
  });

  it("does not change what it is given", () => {
    const images = Object.freeze([at(2), at(1)]);
    insertImages("abc", images);
    assert.deepEqual(images, [at(2), at(1)]);
  });
});

describe("segmentsOf", () => {
  it("gives the whole text and every picture, without empty stretches", () => {
    const segments = segmentsOf("ab", [at(0), at(1), at(2)]);
    assert.deepEqual(
      segments.map((segment) => (segment.kind === "text" ? segment.text : segment.image.position)),
      [0, "a", 1, "b", 2],
    );
    assert.deepEqual(segmentsOf("", []), []);
  });
});
