// One engine of scripts/bench-pipeline: sharp, the way its documentation teaches. Arguments: JOB SECONDS OUT_DIR|- FILE...
import fs from 'node:fs';
import path from 'node:path';
import { createRequire } from 'node:module';

const require = createRequire(path.resolve(process.env.ONEIRO_VAR ?? 'var', 'bench/node/package.json'));
const sharp = require('sharp');
sharp.concurrency(1);
sharp.cache(false);

const [job, seconds, out, ...files] = process.argv.slice(2);
// `avif1-quality50`: the quality that makes it as much like the original as the others are.
const [kind, quality] = job.split('-quality');
const sizes = { thumb: [320], avif1: [1024] }[kind] ?? [2048, 1024, 320];
const suffix = { webp3: 'webp', avif1: 'avif' }[kind] ?? 'jpg';
const inputs = files.map((file) => [path.parse(file).name, fs.readFileSync(file)]);

async function run(bytes) {
  const whole = sharp(bytes).rotate();
  return Promise.all(
    sizes.map((size) => {
      const sized = whole.clone().resize(size, size, { fit: 'inside', withoutEnlargement: true });
      if (suffix === 'webp') return sized.webp({ quality: 80, effort: 4 }).toBuffer();
      if (suffix === 'avif') return sized.avif({ quality: Number(quality), effort: 4 }).toBuffer();
      return sized.flatten({ background: '#ffffff' }).jpeg({ quality: 82 }).toBuffer();
    }),
  );
}

if (out !== '-') {
  for (const [name, bytes] of inputs) {
    const buffers = await run(bytes);
    buffers.forEach((buffer, index) => fs.writeFileSync(path.join(out, `${name}_${sizes[index]}.${suffix}`), buffer));
  }
} else {
  await run(inputs[0][1]);
  const started = process.hrtime.bigint();
  const before = process.cpuUsage();
  let images = 0;
  while (Number(process.hrtime.bigint() - started) / 1e9 < Number(seconds)) {
    await run(inputs[images % inputs.length][1]);
    images += 1;
  }
  const used = process.cpuUsage(before);
  const peak = Number(/VmHWM:\s+(\d+)/.exec(fs.readFileSync('/proc/self/status', 'utf8'))[1]) * 1024;
  const version = `sharp ${sharp.versions.sharp ?? require('sharp/package.json').version}, libvips ${sharp.versions.vips}`;
  console.log(JSON.stringify({ version, images, cpu_ms: (used.user + used.system) / 1000 / images, peak_mb: peak / 1e6 }));
}
