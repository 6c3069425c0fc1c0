// Builds the page into dist/, which is committed so that a Rust-only build can serve it.
//   node build.mjs            writes dist/
//   node build.mjs --check    builds elsewhere and fails where dist/ differs
// The output depends on the sources and the locked esbuild alone: no hashes of time, no paths, no source maps.

import { build } from "esbuild";
import { copyFile, mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const web = fileURLToPath(new URL(".", import.meta.url));
const dist = join(web, "dist");

async function buildInto(folder) {
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true });
  await build({
    absWorkingDir: web,
    entryPoints: [
      { in: "demo/main.ts", out: "app" },
      { in: "demo/app.css", out: "app" },
    ],
    outdir: folder,
    bundle: true,
    minify: true,
    format: "esm",
    target: ["es2022", "chrome111", "firefox113", "safari16.4"],
    charset: "utf8",
    legalComments: "none",
    logLevel: "warning",
  });
  for (const name of ["index.html", "favicon.svg"]) await copyFile(join(web, "demo", name), join(folder, name));
}

async function filesOf(folder) {
  const names = (await readdir(folder).catch(() => [])).sort();
  return new Map(await Promise.all(names.map(async (name) => [name, await readFile(join(folder, name))])));
}

if (process.argv.includes("--check")) {
  const folder = await mkdtemp(join(tmpdir(), "oneiro-web-"));
  try {
    await buildInto(folder);
    const [fresh, committed] = [await filesOf(folder), await filesOf(dist)];
    const names = [...new Set([...fresh.keys(), ...committed.keys()])];
    const stale = names.filter((name) => !fresh.get(name)?.equals(committed.get(name) ?? Buffer.alloc(0)));
    if (stale.length > 0) {
      console.error(`dist/ is not what the sources build: ${stale.join(", ")}. Run: npm run build`);
      process.exitCode = 1;
    } else {
      console.log(`dist/ is fresh (${names.join(", ")})`);
    }
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
} else {
  await buildInto(dist);
}
