/**
 * node dist/bench/scaling.js [share]
 *
 * One large request of each method by 1, 2 and 4 worker processes of one thread: time, processor time and bytes; what a
 * queue costs small requests; and from these figures a model of many nodes. share scales the lengths (1: some
 * minutes). Needs Linux, and valkey-server or redis-server.
 */
import { readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import type { QueueExecutor } from '../src/cluster/queue-executor.js';
import { knows, large, startNode, startWorker, type WorkerProcess } from '../test/cluster/nodes.js';
import { startStore } from '../test/cluster/store.js';
import { randomProblem } from '../test/kernels/problems.js';
import type { Job } from '../workers/job.js';
import { exactWork } from '../workers/kernels/exact/cost.js';
import { exactForwardJob } from '../workers/kernels/exact/forward.js';
import { exactJob, exactParts } from '../workers/kernels/exact/gradient.js';
import { lowRankParts } from '../workers/kernels/low-rank/job.js';
import { planLowRank } from '../workers/kernels/low-rank/plan/plan.js';
import { referenceParts } from '../workers/kernels/reference/parts.js';
import { sampledParts } from '../workers/kernels/sampled/job.js';
import { planSampled } from '../workers/kernels/sampled/plan/stages.js';
import type { AttentionProblem } from '../workers/problem.js';
import { modelOf } from './support/cluster-model.js';
import { table } from './support/format.js';

const SHARE = Number(process.argv[2] ?? 1);
const WORKERS = [1, 2, 4];
/** Nobody cancels it. */
const context = () => ({ signal: new AbortController().signal });
const SEED = 1;
const OUTPUTS = { attentionOutput: false };
const GRADIENTS = { output: false, gradients: true, inputGradients: false };

function layer(length: number, heads = 8): AttentionProblem {
  const queryLength = 64 * Math.round((SHARE * length) / 64);
  const size = { heads, headDim: 64, inFeatures: 512, ranks: { q: 8, v: 8 }, causal: true };
  return randomProblem({ ...size, queryLength, spread: 0.5, seed: SEED });
}

const exact = (problem: AttentionProblem) =>
  exactJob(problem, { ...OUTPUTS, estimate: { rows: 16, seed: SEED } });

interface Subject {
  readonly length: number;
  readonly heads?: number;
  /** What comes before the parts, by the API node in any case. */
  prepare(node: QueueExecutor, problem: AttentionProblem): Promise<() => Job<unknown>>;
}

const SUBJECTS: Record<string, Subject> = {
  exact: { length: 11_264, prepare: async (_, problem) => () => exact(problem) },
  'the output alone': {
    length: 11_264,
    prepare: async (_, problem) => () => exactForwardJob(problem, { seed: SEED }),
  },
  float64: {
    ...{ length: 1280, heads: 4 },
    prepare: async (_, problem) => () => referenceParts(problem, OUTPUTS),
  },
  sampled: {
    length: 24_576,
    prepare: async ({ pool }, problem) => {
      const options = { ...OUTPUTS, tolerance: 0.1, keys: 256, needs: GRADIENTS, seed: SEED };
      const { plan } = await pool.run(planSampled(problem, options), context());
      return () => sampledParts(problem, plan, { ...OUTPUTS, seed: SEED });
    },
  },
  low_rank: {
    length: 24_576,
    prepare: async ({ pool, rates }, problem) => {
      const options = { tolerance: 0.1, features: 64, seed: SEED, rates };
      const plan = await pool.run(planLowRank(problem, options), context());
      const run = { ...OUTPUTS, correction: false, certificate: false, seed: SEED };
      return () => lowRankParts(problem, plan, run);
    },
  },
};

/** Seconds that the processors have spent on another process. */
function processorSeconds({ child }: WorkerProcess): number {
  const fields = readFileSync(`/proc/${child.pid}/stat`, 'utf8').split(') ')[1]!.split(' ');
  // utime and stime, in hundredths.
  return (Number(fields[11]) + Number(fields[12])) / 100;
}

interface Cost {
  readonly seconds: number;
  readonly processor: number;
}

async function costOf(work: () => Promise<unknown>, workers: WorkerProcess[] = []): Promise<Cost> {
  const spent = () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6 + workers.reduce((sum, one) => sum + processorSeconds(one), 0);
  };
  const [start, before] = [performance.now(), spent()];
  await work();
  return { seconds: (performance.now() - start) / 1000, processor: spent() - before };
}

const percent = (x: number) => `${Math.round(100 * x)} %`;
const megabytes = (x: number) => (x / 1e6).toFixed(1);

/** Bytes a second of processor time, which the network must not exceed. */
async function transferOf(node: QueueExecutor): Promise<{ put: number; get: number }> {
  const bytes = new Uint8Array(new SharedArrayBuffer(2 ** 27));
  new DataView(bytes.buffer).setFloat64(0, performance.now());
  const put = await costOf(() => node.blobs.put(bytes));
  const name = await node.blobs.put(bytes);
  const get = await costOf(() => node.blobs.getAll(name));
  return { put: bytes.length / put.processor, get: bytes.length / get.processor };
}

/** Processor time of this node for a part, which is computed elsewhere. */
async function messageOf(node: QueueExecutor): Promise<number> {
  const problem = layer(1024 / SHARE);
  const job = () => large(exactParts(problem, OUTPUTS));
  const times: number[] = [];
  for (let k = 0; k < 9; k++) {
    const sent = await costOf(() => node.run(job(), context()));
    times.push(sent.processor);
  }
  return median(times);
}

const median = (x: readonly number[]) => [...x].sort((a, b) => a - b)[x.length >> 1]!;

const store = await startStore();
const node = await startNode(store.url);
const workers: WorkerProcess[] = [];
try {
  while (workers.length < Math.max(...WORKERS)) workers.push(await startWorker(store.url));
  const cores = cpus().length;
  console.log(`${cores} cores, kernels ${node.kernels}\n`);
  const rows: string[][] = [];
  const measured: Record<string, Cost> = {};
  const jobs = new Map<string, () => Job<unknown>>();
  for (const [name, { length, heads, prepare }] of Object.entries(SUBJECTS)) {
    const job = await prepare(node, layer(length, heads));
    jobs.set(name, job);
    measured[name] = await costOf(() => node.pool.run(job(), context()));
  }
  for (const count of [...WORKERS].reverse()) {
    await Promise.all(workers.splice(count).map((worker) => worker.end()));
    await knows(node, count);
    for (const [name, job] of jobs) {
      const before = node.figures();
      const cost = await costOf(() => node.run(job(), context()), workers);
      const after = node.figures();
      const alone = measured[name]!;
      rows.push([
        name,
        String(count),
        String(after.partsSent - before.partsSent),
        `${alone.seconds.toFixed(1)} to ${cost.seconds.toFixed(1)}`,
        `${alone.processor.toFixed(1)} to ${cost.processor.toFixed(1)}`,
        percent(alone.seconds / (Math.min(cores, count) * cost.seconds)),
        `${megabytes(after.bytesSent - before.bytesSent)}, ${megabytes(after.bytesReceived - before.bytesReceived)}`,
      ]);
    }
  }
  rows.sort(([a], [b]) => Object.keys(SUBJECTS).indexOf(a!) - Object.keys(SUBJECTS).indexOf(b!));
  console.log(
    table(
      [
        ...['request', 'workers', 'parts', 's, alone to queue', 'CPU s, alone to queue'],
        ...['efficiency per core', 'MB put, got'],
      ],
      rows,
      1,
    ),
  );
  const small = layer(512 / SHARE);
  const ratios: number[] = [];
  for (let k = 0; k < 100; k++) {
    const by = await costOf(() => node.run(exact(small), context()));
    const without = await costOf(() => node.pool.run(exact(small), context()));
    ratios.push(by.seconds / without.seconds);
  }
  console.log(
    `\nsmall requests (512 rows): ${median(ratios).toFixed(3)} of the time without a queue`,
  );
  const rate = exactWork(layer(SUBJECTS.exact!.length), GRADIENTS) / measured.exact!.processor;
  const figures = { ...(await transferOf(node)), message: await messageOf(node), rate };
  console.log(
    `${(figures.put / 1e9).toFixed(2)} GB/s put, ${(figures.get / 1e9).toFixed(2)} GB/s got, ` +
      `${(1000 * figures.message).toFixed(0)} ms a part, ${(rate / 1e9).toFixed(0)} GFLOP/s a thread\n`,
  );
  const assumed = { heads: 32, headDim: 128, inFeatures: 4096, rank: 16, threads: 16 };
  const layers = [32_768, 131_072].map((length) => ({ ...assumed, length, network: 1.25e9 }));
  const model = layers.flatMap((one) =>
    [1, 2, 4, 8, 16, 32, 128, 512].map((nodes) => {
      const { latency, efficiency, perMinute, limit } = modelOf(figures, one, nodes);
      const seconds = Object.values(latency);
      return [
        ...[String(one.length), String(nodes), seconds.map((x) => x.toFixed(1)).join(' + ')],
        seconds.reduce((a, b) => a + b).toFixed(1),
        ...[percent(efficiency), `${perMinute.toPrecision(2)} (${limit})`],
      ];
    }),
  );
  console.log(
    table(
      [
        ...['L', 'nodes', 'transfer + compute + join, s', 'one request, s', 'efficiency'],
        'requests a minute (limited by)',
      ],
      model,
      0,
    ),
  );
} finally {
  await Promise.all(workers.map((worker) => worker.end()));
  await node.close();
  await store.close();
}
