/** What browsers and Node 20 have and Node 18, Debian 12's, lacks: loaded before the tests. */
import { File as NodeFile } from "node:buffer";
import { webcrypto } from "node:crypto";

const missing: Record<string, unknown> = { File: NodeFile, crypto: webcrypto };
for (const [name, value] of Object.entries(missing)) {
  if (!(name in globalThis)) {
    Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  }
}
