import assert from "node:assert/strict";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { describe, it } from "node:test";

interface Manifest {
  readonly name: string;
  readonly exports: { readonly [entry: string]: { readonly types: string; readonly default: string } };
  readonly dependencies?: object;
}

const root = new URL("../../", import.meta.url);
const manifest = JSON.parse(readFileSync(new URL("package.json", root), "utf8")) as Manifest;

describe("the npm package", () => {
  it("offers its entries with types", async () => {
    const expected: { readonly [entry: string]: string } = {
      ".": "DreamImagesSocket",
      "./react": "useDreamImages",
      "./vue": "useDreamImages",
    };
    assert.deepEqual(Object.keys(manifest.exports), Object.keys(expected));
    for (const [entry, name] of Object.entries(expected)) {
      const module = (await import(manifest.name + entry.slice(1))) as { readonly [name: string]: unknown };
      assert.equal(typeof module[name], "function", entry);
      assert.ok(existsSync(new URL(manifest.exports[entry]?.types ?? "", root)), entry);
    }
  });

  it("needs nothing at run time", () => {
    assert.equal(manifest.dependencies, undefined);
  });

  it("has no `any`, no silenced error and no file too long to read", () => {
    const names = ["src/", "demo/", "test/"].flatMap((folder) =>
      readdirSync(new URL(folder, root), { recursive: true, encoding: "utf8" }).map((name) => folder + name),
    );
    const sources = names.filter((name) => name.endsWith(".ts"));
    assert.ok(sources.length > 50);
    for (const name of sources) {
      const text = readFileSync(new URL(name, root), "utf8");
      assert.doesNotMatch(text, /[:<(|&] ?any\b(?! )|\bas any\b|\bas never\b|@ts-(?:ignore|expect|nocheck)/, name);
      // Tests and texts are lists, and may be longer.
      if (name.startsWith("src/")) assert.ok(text.split("\n").length <= 301, name);
    }
  });

  it("is locked without naming where packages came from", () => {
    assert.doesNotMatch(readFileSync(new URL("package-lock.json", root), "utf8"), /"resolved"/);
  });
});
