/** How fast is the exact kernel, against each of PyTorch's ways to the same gradients? */
import { usableMemory } from '../../src/machine/resources.js';
import type { WorkerPool } from '../../src/pool/worker-pool.js';
import type { Bench, Question } from '../question.js';
import { type Measurement, type Side, takeTurns } from '../support/rounds.js';
import { exactSeconds, makeProblem, problems, RANK, startPool } from '../support/subject.js';
import type { Torch } from '../support/torch.js';
import { bestWay, tell, US } from './report.js';

export interface ExactSetting {
  readonly [name: string]: number | string;
  readonly length: number;
  readonly dim: number;
  readonly adapters: 'qv' | 'qkv';
  readonly threads: number;
}

/** Longer ones would take their warm-up's time for nothing: by then everything is warm. */
const LONGEST_WARM_UP = 4096;
/** V8 compiles what has run some hundred times, as in a service: a problem of one task, and one of many. */
const COMPILED_LENGTHS = [256, 1024];
const COMPILE_SECONDS = 2;
/** L x L matrices in float32 that autograd holds at its peak, and the part of the memory for them. */
const AUTOGRAD_MATRICES = 5;
const MEMORY_PART = 0.7;

/** The build that the service chooses, and the others of this machine by their names. */
async function startPools(threads: number): Promise<Map<string, WorkerPool>> {
  const chosen = await startPool(threads);
  const pools = new Map([[US, chosen]]);
  for (const kernels of ['avx2', 'wasm'] as const) {
    const pool = await startPool(threads, kernels).catch(() => null);
    if (pool && ![...pools.values()].some((other) => other.kernels === pool.kernels)) {
      pools.set(`${US}, ${pool.kernels}`, pool);
    } else await pool?.close();
  }
  return pools;
}

async function compile(pool: WorkerPool): Promise<void> {
  for (const length of COMPILED_LENGTHS) {
    const problem = makeProblem({ length, dim: 64, adapters: 'qv' });
    for (let left = COMPILE_SECONDS; left > 0; ) left -= await exactSeconds(pool, problem);
  }
}

function ours([name, pool]: readonly [string, WorkerPool]): Side<ExactSetting> {
  const problem = problems();
  return { name, seconds: (setting) => exactSeconds(pool, problem(setting)) };
}

function theirs(torch: Torch): Side<ExactSetting>[] {
  return torch.ways.map((way) => ({
    name: `PyTorch ${way}`,
    covers: ({ length }) =>
      way !== 'autograd' || AUTOGRAD_MATRICES * 4 * length ** 2 < MEMORY_PART * usableMemory(),
    seconds: ({ length, dim, adapters, threads }) =>
      torch.seconds({ way, length, dim, rank: RANK, adapters, threads }),
  }));
}

const LENGTHS = [256, 512, 1024, 2048, 4096, 8192, 16384];

function settings({ quick, cpus }: Bench): ExactSetting[] {
  const lengths = quick ? [256, 512, 1024] : LENGTHS;
  const all: ExactSetting[] = [];
  for (const threads of new Set([1, cpus])) {
    for (const length of lengths) {
      // No target depends on the longest wide ones, which would take half of the time of all.
      for (const dim of length > 8192 ? [64] : [64, 128]) {
        for (const adapters of ['qv', 'qkv'] as const) all.push({ length, dim, adapters, threads });
      }
    }
  }
  return all;
}

/** Five rounds, and fewer where a round takes longest. */
const leastRounds = ({ length, dim }: ExactSetting) =>
  length > 8192 || (dim > 64 && length >= 8192) ? 3 : 5;

async function run(bench: Bench): Promise<Measurement<ExactSetting>[]> {
  const all = settings(bench);
  bench.progress.begin('exact', all.length);
  const measurements: Measurement<ExactSetting>[] = [];
  for (const threads of new Set(all.map((setting) => setting.threads))) {
    const pools = await startPools(threads);
    try {
      for (const pool of pools.values()) await compile(pool);
      const sides = [...[...pools].map(ours), ...(bench.torch ? theirs(bench.torch) : [])];
      for (const setting of all.filter((one) => one.threads === threads)) {
        const rounds = {
          least: leastRounds(setting),
          budgetSeconds: 3,
          warmUp: (at: ExactSetting) => ({ ...at, length: Math.min(at.length, LONGEST_WARM_UP) }),
        };
        const measured = await takeTurns(sides, setting, rounds, bench.progress);
        bench.progress.say(summary(measured));
        measurements.push(measured);
      }
    } finally {
      for (const pool of pools.values()) await pool.close();
    }
  }
  return measurements;
}

function summary({ setting, seconds }: Measurement<ExactSetting>): string {
  const best = bestWay(seconds);
  const { length, dim, adapters, threads } = setting;
  const what = `L ${length}, d ${dim}, ${adapters}, ${threads} thr.`;
  return best === null ? what : `${what}: ${best.ratio.median.toFixed(2)}x ${best.name}`;
}

export const exact: Question<ExactSetting> = {
  name: 'exact',
  title: 'The exact kernel against PyTorch',
  needsTorch: true,
  run,
  tell,
};
