/** How does the time of the low-rank kernel grow with the length, and where are the others? */

import type { WorkerPool } from '../../src/pool/worker-pool.js';
import { makeProblem } from '../../test/kernels/low-rank/support.js';
import type { GradientResult } from '../../workers/kernels/result.js';
import type { AttentionProblem } from '../../workers/problem.js';
import type { Tensor } from '../../workers/tensor/tensor.js';
import type { Bench, Question } from '../question.js';
import { exact, type LowRankRun, lowRank, statedErrors, trueError } from '../support/low-rank.js';
import { collectGarbage, withPeakMemory } from '../support/memory.js';
import { type Measurement, type Side, takeTurns } from '../support/rounds.js';
import { median } from '../support/statistics.js';
import { startPool } from '../support/subject.js';
import type { Torch } from '../support/torch.js';
import { EXACT, LOW_RANK, TOLERANCE, tell } from './report.js';

export interface GrowthSetting {
  readonly [name: string]: number | string;
  readonly length: number;
  readonly tail: 'normal' | 't4';
}

const DIM = 64;
const RANK = 8;
/** Beyond, the others are left out: their time grows sixteenfold from one length to the next. */
const LONGEST_QUADRATIC = 65_536;
/** Autograd as written is slower than both and keeps matrices of L x L: question exact. */
const TORCH_WAYS = ['sdpa', 'blocked'];
/** The other sides take minutes for a round, so low-rank gets more than one run in each. */
const RUNS_A_ROUND = 3;
const MIB = 2 ** 20;

function problemOf({ length, tail }: GrowthSetting): AttentionProblem {
  return makeProblem({
    ...{ seed: 1, d: DIM, rank: RANK, deviation: 0.2, adapted: 'qv' },
    ...{ queryLength: length, tail, spectrum: 'exponential' },
  });
}

class Subject {
  #key = '';
  #problem: AttentionProblem | null = null;
  #run: LowRankRun | null = null;
  #truth: GradientResult | null = null;
  #details: Record<string, number> = {};

  constructor(private readonly pool: WorkerPool) {}

  #of(setting: GrowthSetting): AttentionProblem {
    const key = JSON.stringify(setting);
    if (!this.#problem || key !== this.#key) {
      this.#problem = null;
      collectGarbage();
      this.#problem = problemOf(setting);
      this.#truth = null;
    }
    this.#key = key;
    return this.#problem;
  }

  async lowRank(setting: GrowthSetting): Promise<number> {
    const problem = this.#of(setting);
    const seconds: number[] = [];
    const shares: LowRankRun[] = [];
    for (let k = 0; k < RUNS_A_ROUND; k++) {
      const { result: run, resident } = await withPeakMemory(() =>
        lowRank(this.pool, problem, { tolerance: TOLERANCE }),
      );
      seconds.push(run.seconds);
      shares.push(run);
      this.#run = run;
      this.#details.resident_mib = resident / MIB;
    }
    const share = (of: (run: LowRankRun) => number) =>
      median(shares.map((run) => of(run) / run.seconds));
    const { plan, result } = this.#run!;
    this.#details = {
      ...this.#details,
      features: plan.features,
      drawn_features: plan.sampledFeatures,
      drawn_rows: plan.sampledRows,
      outlier_queries: plan.outlierQueries,
      outlier_keys: plan.outlierKeys,
      plan_share: share((run) => run.planSeconds),
      estimate_share: share((run) => run.estimateSeconds),
      upper: statedErrors(result.errors).upper,
      inputs_mib: inputBytes(problem) / MIB,
    };
    return median(seconds);
  }

  async exact(setting: GrowthSetting): Promise<number> {
    const problem = this.#of(setting);
    const start = performance.now();
    this.#truth = await exact(this.pool, problem);
    return (performance.now() - start) / 1000;
  }

  details(): Record<string, number> {
    if (!this.#run || !this.#truth) return this.#details;
    return { ...this.#details, error: trueError(this.#run.result, this.#truth) };
  }
}

function inputBytes({ inputs, objective }: AttentionProblem): number {
  const tensors = new Set<Tensor>([...Object.values(inputs), objective.tensor]);
  return [...tensors].reduce((sum, { data }) => sum + data.byteLength, 0);
}

function theirs(torch: Torch, threads: number): Side<GrowthSetting>[] {
  return torch.ways
    .filter((way) => TORCH_WAYS.includes(way))
    .map((way) => ({
      name: `PyTorch ${way}`,
      // Its time does not depend on the rows.
      covers: ({ length, tail }) => length <= LONGEST_QUADRATIC && tail === 'normal',
      seconds: ({ length }) =>
        torch.seconds({ way, length, dim: DIM, rank: RANK, adapters: 'qv', threads }),
    }));
}

async function run(bench: Bench): Promise<Measurement<GrowthSetting>[]> {
  const lengths = bench.quick
    ? [2048, 4096]
    : [4096, 16_384, LONGEST_QUADRATIC, 262_144, 1_048_576];
  const heavy = bench.quick ? [4096] : [16_384, LONGEST_QUADRATIC];
  const settings = [
    ...lengths.map((length): GrowthSetting => ({ length, tail: 'normal' })),
    ...heavy.map((length): GrowthSetting => ({ length, tail: 't4' })),
  ].sort((a, b) => a.length - b.length);
  bench.progress.begin('growth', settings.length);
  const measurements: Measurement<GrowthSetting>[] = [];
  for (const setting of settings) {
    // Memory that a thread once took for a longer exact run it does not give back.
    const pool = await startPool(bench.cpus);
    try {
      const subject = new Subject(pool);
      const sides: Side<GrowthSetting>[] = [
        { name: LOW_RANK, seconds: (at) => subject.lowRank(at) },
        {
          name: EXACT,
          covers: ({ length }) => length <= LONGEST_QUADRATIC,
          seconds: (at) => subject.exact(at),
        },
        ...(bench.torch ? theirs(bench.torch, bench.cpus) : []),
      ];
      const rounds = {
        least: setting.length > 16_384 ? 1 : 3,
        budgetSeconds: 5,
        // What is long enough needs no warm-up of its own.
        warmUp: (at: GrowthSetting) => ({ ...at, length: Math.min(at.length, 4096) }),
      };
      const measured = await takeTurns(sides, setting, rounds, bench.progress);
      measurements.push({ ...measured, details: subject.details() });
    } finally {
      await pool.close();
    }
  }
  return measurements;
}

export const growth: Question<GrowthSetting> = {
  name: 'growth',
  title: 'Low-rank, exact and PyTorch, by length',
  needsTorch: true,
  run,
  tell,
};
