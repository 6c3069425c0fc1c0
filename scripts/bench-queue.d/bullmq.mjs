// BullMQ's side of scripts/bench-queue: `node bullmq.mjs work` and `node bullmq.mjs push|tick|hold N`.
// Everything is BullMQ's default but the concurrency and the finished jobs, which no system of the table keeps.
import { appendFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { setTimeout as sleep } from 'node:timers/promises';

const require = createRequire(`${process.env.BENCH_MODULES}/`);
const { Queue, Worker } = require('bullmq');
const { hostname: host, port } = new URL(process.env.BENCH_REDIS);
const connection = { host, port: Number(port), maxRetriesPerRequest: null };
const [what, count] = process.argv.slice(2);

const nowNs = () => BigInt(Math.round((performance.timeOrigin + performance.now()) * 1e3)) * 1000n;
const note = (line) => appendFileSync(process.env.BENCH_SEEN, `${line}\n`);

async function run({ data: { payload } }) {
  if (payload[0] === 't') note(nowNs() - BigInt(payload.split(' ')[0].slice(1)));
  else if (payload[0] === 's') {
    await sleep(100);
    note(payload.split(' ')[0].slice(1));
  }
}

if (what === 'work') {
  const worker = new Worker('bench', run, { connection, concurrency: 50, removeOnComplete: { count: 0 } });
  process.on('SIGTERM', () => worker.close().then(() => process.exit(0)));
} else {
  const queue = new Queue('bench', { connection });
  await queue.waitUntilReady();
  const begun = performance.now();
  const job = (text) => ({ name: 'nop', data: { payload: text.padEnd(86, 'x') } });
  if (what === 'tick') {
    for (let k = 0; k < Number(count); k += 1) {
      await sleep(Math.max(0, begun + k * 20 - performance.now()));
      const { name, data } = job(`t${nowNs()} `);
      await queue.add(name, data);
    }
  } else {
    for (let from = 0; from < Number(count); from += 1000) {
      const some = Math.min(1000, Number(count) - from);
      await queue.addBulk(Array.from({ length: some }, (_, k) => job(what === 'hold' ? `s${from + k} ` : 'x')));
    }
  }
  console.log((performance.now() - begun) / 1000);
  await queue.close();
}
