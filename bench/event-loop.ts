/** How long the thread of the engine, which deals out all tasks, is held up by one request. */
import { type IntervalHistogram, monitorEventLoopDelay } from 'node:perf_hooks';
import { forwardJob } from '../src/engine/forward-job.js';
import { gradientJob } from '../src/engine/gradient-job.js';
import type { WorkerPool } from '../src/pool/worker-pool.js';
import { randomProblem } from '../test/kernels/problems.js';
import type { AttentionProblem } from '../workers/problem.js';
import { Lease } from '../workers/tensor/shared-memory.js';
import type { Bench, Question, Run, Section } from './question.js';
import { digits, durationSpread, table } from './support/format.js';
import type { Measurement } from './support/rounds.js';
import { startPool } from './support/subject.js';

const METHODS = ['exact', 'low_rank', 'sampled', 'auto', 'forward'] as const;

interface LoopSetting {
  readonly [name: string]: number | string;
  readonly method: (typeof METHODS)[number];
  readonly rank: number;
  readonly heads: number;
  readonly inputs: number;
  readonly length: number;
}

const WANTED_MS = 50;
const FEATURES = 64;
/** Drawn for a block, on average. */
const KEYS = 64;
const ROUNDS = 2;

/** The job of a request whose tensors are decoded. */
function job(problem: AttentionProblem, method: LoopSetting['method'], pool: WorkerPool) {
  const options = {
    ...{ tolerance: 0.05, toleranceStated: false, seed: 1, correction: false, rates: pool.rates },
    attentionOutput: false,
    encode: { gradients: true, batched: true, outputsDtype: 'same' as const },
    ...((method === 'low_rank' || method === 'forward') && { features: FEATURES }),
    ...(method === 'sampled' && { keys: KEYS }),
  };
  const place = { clock: () => {}, memory: new Lease() };
  return method === 'forward'
    ? forwardJob(problem, [], { ...options, method: 'low_rank' }, place)
    : gradientJob(problem, [], { ...options, method }, place);
}

async function run(bench: Bench): Promise<Measurement<LoopSetting>[]> {
  const ranks = bench.quick ? [2] : [8, 64];
  const size = bench.quick
    ? { heads: 4, inputs: 64, length: 256 }
    : { heads: 32, inputs: 4096, length: 2048 };
  bench.progress.begin('eventloop', ranks.length * METHODS.length);
  const pool = await startPool(bench.cpus);
  const measurements: Measurement<LoopSetting>[] = [];
  try {
    for (const rank of ranks) {
      const { heads, inputs, length } = size;
      const problem = randomProblem({
        ...{ seed: 1, queryLength: length, headDim: inputs / heads, inFeatures: inputs, heads },
        ...{ ranks: { q: rank, k: rank, v: rank }, spread: 0.05 },
      });
      for (const method of METHODS) {
        const setting = { method, rank, ...size };
        bench.progress.step(setting, 'run');
        measurements.push({ setting, ...(await measure(pool, problem, method)) });
      }
    }
  } finally {
    await pool.close();
  }
  return measurements;
}

async function measure(pool: WorkerPool, problem: AttentionProblem, method: LoopSetting['method']) {
  const { signal } = new AbortController();
  const seconds: number[] = [];
  const delays: IntervalHistogram = monitorEventLoopDelay({ resolution: 1 });
  for (let round = 0; round < ROUNDS; round++) {
    delays.enable();
    const start = performance.now();
    await pool.run<unknown>(job(problem, method, pool), { signal });
    seconds.push((performance.now() - start) / 1000);
    delays.disable();
  }
  return {
    seconds: { request: seconds },
    details: { longestMs: delays.max / 1e6, p99Ms: delays.percentile(99) / 1e6 },
  };
}

function tell({ measurements }: Run<LoopSetting>): Section {
  const [{ setting }] = measurements;
  const longest = Math.max(...measurements.map(({ details }) => details!.longestMs));
  const text = [
    `Requests of ${setting.heads} heads, ${setting.inputs} input features and ${setting.length} rows whose tensors are decoded, one at a`,
    `time. Low-rank and forward take ${FEATURES} features, sampled draws ${KEYS} keys. A delay is the time for which no other request could be`,
    'answered, by `monitorEventLoopDelay`; it holds the millisecond of its own timer.',
    '',
    table(
      ['method', 'rank', 'request', '99 % of delays', 'longest delay'],
      measurements.map(({ setting: { method, rank }, seconds, details }) => [
        method,
        String(rank),
        durationSpread(seconds.request),
        `${digits(details!.p99Ms)} ms`,
        `${digits(details!.longestMs)} ms`,
      ]),
    ),
  ];
  const target = {
    wanted: `No request holds up the others for more than ${WANTED_MS} ms (32 heads, 4096 input features)`,
    measured: setting.heads === 32 ? `${digits(longest)} ms` : null,
    met: setting.heads === 32 && longest <= WANTED_MS,
  };
  return { text: text.join('\n'), plots: [], targets: [target] };
}

export const eventLoop: Question<LoopSetting> = {
  name: 'eventloop',
  title: 'How long others wait while one computes',
  run,
  tell,
};
