/**
 * node dist/bench/scaling.js [length]
 *
 * One large request by 1, 2 and 4 worker processes of one thread: time, bytes, efficiency; what a part costs beside its
 * computation; and from these figures a model of many nodes. Needs valkey-server or redis-server.
 */
import { randomUUID } from 'node:crypto';
import type { QueueExecutor } from '../src/cluster/queue-executor.js';
import { knows, startNode, startWorker } from '../test/cluster/nodes.js';
import { startStore } from '../test/cluster/store.js';
import { randomProblem } from '../test/kernels/problems.js';
import { exactWork } from '../workers/kernels/exact/cost.js';
import { cutsOf, exactParts } from '../workers/kernels/exact/gradient.js';

const LENGTH = Number(process.argv[2] ?? 12_288);
const { signal } = new AbortController();
const OPTIONS = { attentionOutput: false, estimate: { rows: 16, seed: 1 } };

const layer = (queryLength: number) => {
  const size = { heads: 8, headDim: 64, inFeatures: 512, ranks: { q: 8, v: 8 }, causal: true };
  return randomProblem({ ...size, queryLength, seed: 1 });
};

async function seconds(work: () => Promise<unknown>): Promise<number> {
  const start = performance.now();
  await work();
  return (performance.now() - start) / 1000;
}

const table = (head: readonly string[], rows: readonly (readonly (string | number)[])[]) =>
  [head, head.map(() => '---'), ...rows].map((row) => `| ${row.join(' | ')} |`).join('\n');

interface Measured {
  /** Bytes a second into the store and out of it, digests included. */
  readonly put: number;
  readonly get: number;
  /** Seconds from a part that is sent to its result, without its computation. */
  readonly message: number;
}

async function transfer(node: QueueExecutor): Promise<Measured> {
  const bytes = new Uint8Array(new SharedArrayBuffer(2 ** 27));
  new DataView(bytes.buffer).setFloat64(0, performance.now());
  const put = await seconds(() => node.blobs.put(bytes));
  const name = await node.blobs.put(bytes);
  const get = await seconds(() => node.blobs.get(name));
  const channel = randomUUID();
  const message = await seconds(async () => {
    for (let k = 0; k < 50; k++) await node.store.set(channel, k, 'PX', 1000);
  });
  // A part takes a dozen commands on its way and back.
  return { put: bytes.length / put, get: bytes.length / get, message: (12 * message) / 50 };
}

/** What nodes of `threads` threads make of a layer of `heads` heads, from what one thread does in `rate` flops a second. */
function model(measured: Measured, rate: number): string {
  const [length, heads, width, inputs, rank, threads, network] = [
    32_768, 32, 128, 4096, 16, 16, 1.25e9,
  ];
  const work = heads * (length * length) * 0.5 * (2 * (2 * width + 4 * rank) + 100);
  const shared = 4 * length * inputs;
  const upload = 4 * (length * heads * width + inputs * 3 * heads * width) + shared;
  const part = work / 32;
  const result = 8 * 2 * rank * (2 * inputs + (4 * heads * width) / 32);
  const rows = [1, 2, 4, 8, 16, 32, 128, 512].map((nodes) => {
    const useful = Math.min(nodes, 32);
    const compute = (Math.ceil(32 / useful) * part) / (rate * threads);
    const speed = Math.min(network, measured.put);
    const fetch = (useful * shared + upload) / Math.min(network, measured.get);
    const latency = upload / speed + fetch + compute + (32 * result) / speed + measured.message;
    const perSecond = Math.min(
      (nodes * rate * threads) / work,
      network / (nodes > 1 ? upload + shared : upload),
    );
    return [
      nodes,
      latency.toFixed(1),
      `${Math.round((100 * work) / (rate * threads * useful * latency))} %`,
      (60 * perSecond).toFixed(1),
    ];
  });
  return table(['nodes of 16 threads', 'one request, s', 'efficiency', 'requests a minute'], rows);
}

const store = await startStore();
const node = await startNode(store.url);
const workers: Awaited<ReturnType<typeof startWorker>>[] = [];
try {
  const problem = layer(LENGTH);
  const parts = cutsOf(problem, OPTIONS).length;
  const here = await seconds(() => node.pool.run(exactParts(problem, OPTIONS), { signal }));
  const rows: (string | number)[][] = [['none: the node itself', here.toFixed(1), '100 %', '0']];
  for (const count of [1, 2, 4]) {
    while (workers.length < count) workers.push(await startWorker(store.url));
    await knows(node, count);
    const before = node.figures();
    const time = await seconds(() => node.run(exactParts(problem, OPTIONS), { signal }));
    const after = node.figures();
    const bytes = after.bytesSent - before.bytesSent + after.bytesReceived - before.bytesReceived;
    const efficiency = `${Math.round((100 * here) / (count * time))} %`;
    rows.push([count, time.toFixed(1), efficiency, (bytes / 1e6).toFixed(1)]);
  }
  console.log(`L ${LENGTH}, 8 heads of 64, causal, ${parts} parts\n`);
  console.log(table(['workers', 's', 'efficiency', 'MB of the API node'], rows));
  const measured = await transfer(node);
  const needs = { output: false, gradients: true, inputGradients: false };
  const rate = exactWork(problem, needs) / here;
  console.log(
    `\n${(measured.put / 1e9).toFixed(2)} GB/s put, ${(measured.get / 1e9).toFixed(2)} GB/s got, `,
  );
  console.log(
    `${(1000 * measured.message).toFixed(1)} ms a part, ${(rate / 1e9).toFixed(0)} GFLOP/s a thread\n`,
  );
  console.log(model(measured, rate));
} finally {
  await Promise.all(workers.map((worker) => worker.end()));
  await node.close();
  await store.close();
}
