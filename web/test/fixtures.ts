/** The frames that Rust and TypeScript both read. */

import { readdirSync, readFileSync } from "node:fs";
import type { Frame } from "./socket-server.js";

const FOLDER = new URL("../../../tests/fixtures/wire/", import.meta.url);

/** One recorded frame. */
export interface Fixture {
  readonly name: string;
  readonly direction: "client" | "server";
  readonly dialect: "D" | "N" | "P" | "*";
  readonly frame: Frame;
}

function read(name: string): unknown {
  return JSON.parse(readFileSync(new URL(name, FOLDER), "utf8"));
}

const NAMES = readdirSync(FOLDER).filter((name) => name.endsWith(".json"));

/** Every frame of both directions. */
export const FIXTURES: readonly Fixture[] = NAMES.flatMap((name) => {
  const content = read(name) as Partial<Fixture>;
  return content.frame === undefined ? [] : [{ ...(content as Fixture), name }];
});

/** One row of the close-code table. */
export interface CloseCodeFixture {
  readonly code: number;
  readonly reason: string;
  readonly client: string;
}

export const CLOSE_CODE_FIXTURES = (read("close_codes.json") as { codes: readonly CloseCodeFixture[] }).codes;

/** The client frame of that name. */
export function clientFixture(name: string): Frame {
  const fixture = FIXTURES.find((one) => one.name === `${name}.json`);
  if (fixture?.direction !== "client") throw new Error(`no client fixture ${name}`);
  return fixture.frame;
}

/** The server frame of that name. */
export function serverFixture(name: string): Frame {
  const fixture = FIXTURES.find((one) => one.name === `${name}.json`);
  if (fixture?.direction !== "server") throw new Error(`no server fixture ${name}`);
  return fixture.frame;
}
