/** How does the time of the low-rank kernel grow with the length, and where is the exact one? */
import type { AttentionProblem } from '../src/lora/problem.js';
import type { WorkerPool } from '../src/pool/worker-pool.js';
import { distance, makeProblem, norm, type Recipe } from '../test/kernels/low-rank-support.js';
import { exactJob } from '../workers/kernels/exact/gradient.js';
import { lowRankJob } from '../workers/kernels/low-rank/job.js';
import { planLowRank } from '../workers/kernels/low-rank/plan.js';
import type { GradientResult } from '../workers/kernels/result.js';
import type { Bench, Question, Run, Section, Target } from './question.js';
import { duration, durationSpread, table, times } from './support/format.js';
import { linePlot } from './support/plot.js';
import { type Measurement, type Side, takeTurns } from './support/rounds.js';
import { median } from './support/statistics.js';
import { startPool } from './support/subject.js';

interface GrowthSetting {
  readonly [name: string]: number | string;
  readonly length: number;
  readonly tail: 'normal' | 't4';
}

const TOLERANCE = 0.01;
/** Beyond, the exact kernel is left out: its time grows sixteenfold from one length to the next. */
const LONGEST_EXACT = 65_536;
const [LOW_RANK, EXACT] = ['low-rank', 'exact'];
const MIB = 2 ** 20;

/** One head, d = 64, adapters of rank 8 on q and v, logits of deviation 0.2 with falling spectrum. */
const recipe = ({ length, tail }: GrowthSetting): Recipe => ({
  ...{ seed: 1, d: 64, rank: 8, deviation: 0.2, single: true, adapted: 'qv' },
  ...{ queryLength: length, tail, spectrum: 'exponential' },
});

class Subject {
  #key = '';
  #problem: AttentionProblem | null = null;
  /** Of the last low-rank run. */
  details: Record<string, number> = {};
  #last: Partial<Record<string, GradientResult>> = {};

  constructor(private readonly pool: WorkerPool) {}

  problem(setting: GrowthSetting): AttentionProblem {
    const key = JSON.stringify(setting);
    if (!this.#problem || key !== this.#key) {
      this.#problem = makeProblem(recipe(setting));
      this.#last = {};
    }
    this.#key = key;
    return this.#problem;
  }

  async lowRank(setting: GrowthSetting): Promise<number> {
    const problem = this.problem(setting);
    const { signal } = new AbortController();
    const start = performance.now();
    const { rates } = this.pool;
    const options = { seed: 1, tolerance: TOLERANCE, rates };
    const plan = await this.pool.run(planLowRank(problem, options), { signal });
    const planned = performance.now();
    const result = await this.pool.run(
      lowRankJob(problem, plan, {
        ...{ seed: 1, correction: false, certificate: true, single: true, attentionOutput: false },
      }),
      { signal },
    );
    const end = performance.now();
    this.#last[LOW_RANK] = result;
    this.details = {
      features: plan.features,
      outlier_queries: plan.outlierQueries,
      outlier_keys: plan.outlierKeys,
      plan_share: (planned - start) / (end - start),
      upper: Math.max(...Object.values(result.errors).map(({ estimate }) => estimate.upper)),
      resident_mib: process.memoryUsage().rss / MIB,
    };
    return (end - start) / 1000;
  }

  async exact(setting: GrowthSetting): Promise<number> {
    const problem = this.problem(setting);
    const start = performance.now();
    this.#last[EXACT] = await this.pool.run(exactJob(problem, { attentionOutput: false }), {
      signal: new AbortController().signal,
    });
    return (performance.now() - start) / 1000;
  }

  /** Largest relative error of a gradient tensor against the exact kernel; NaN without that. */
  trueError(): number {
    const [low, exact] = [this.#last[LOW_RANK], this.#last[EXACT]];
    if (!low || !exact) return Number.NaN;
    const errors = (['q_proj', 'v_proj'] as const).flatMap((name) =>
      (['lora_A', 'lora_B'] as const).map((part) => {
        const [x, y] = [low.gradients[name], exact.gradients[name]];
        return x && y ? distance(x[part], y[part]) / norm(y[part]) : 0;
      }),
    );
    return Math.max(...errors);
  }
}

async function run(bench: Bench): Promise<Measurement<GrowthSetting>[]> {
  const lengths = bench.quick ? [2048, 4096] : [16_384, 65_536, 262_144, 1_048_576];
  const settings = lengths.flatMap((length) =>
    (length <= LONGEST_EXACT ? (['normal', 't4'] as const) : (['normal'] as const)).map((tail) => ({
      length,
      tail,
    })),
  );
  bench.progress.begin('growth', settings.length);
  const pool = await startPool(bench.cpus, bench.revectorize);
  const measurements: Measurement<GrowthSetting>[] = [];
  try {
    for (const setting of settings) {
      const subject = new Subject(pool);
      const sides: Side<GrowthSetting>[] = [
        { name: LOW_RANK, seconds: (at) => subject.lowRank(at) },
        {
          name: EXACT,
          covers: ({ length }) => length <= LONGEST_EXACT,
          seconds: (at) => subject.exact(at),
        },
      ];
      const rounds = {
        least: setting.length > 16_384 ? 1 : 3,
        budgetSeconds: 5,
        // What is long enough needs no warm-up of its own.
        warmUp: (at: GrowthSetting) => ({ ...at, length: Math.min(at.length, 4096) }),
      };
      const measured = await takeTurns(sides, setting, rounds, bench.progress);
      const error = subject.trueError();
      const details = { ...subject.details, ...(Number.isFinite(error) && { error }) };
      measurements.push({ ...measured, details });
    }
  } finally {
    await pool.close();
  }
  return measurements;
}

function target(
  measurements: readonly Measurement<GrowthSetting>[],
  length: number,
  tail: GrowthSetting['tail'],
  wanted: number,
): Target {
  const data = tail === 'normal' ? 'normal rows' : 'Student-t4 rows';
  const found = measurements.find(
    ({ setting }) => setting.length === length && setting.tail === tail,
  );
  const sentence = `Low-rank at least ${times(wanted)} as fast as exact at L = ${length}, ${data}, error at most 1 %`;
  if (!found?.seconds[EXACT]) return { wanted: sentence, measured: null, met: false };
  const ratio = median(found.seconds[EXACT]) / median(found.seconds[LOW_RANK]);
  const error = found.details?.error ?? Number.NaN;
  return {
    wanted: sentence,
    measured: `${times(ratio)}, error ${percent(error)}`,
    met: ratio >= wanted && error <= TOLERANCE,
  };
}

const percent = (x: number | undefined) =>
  x === undefined || Number.isNaN(x) ? '' : `${(100 * x).toPrecision(2)} %`;

function tell({ measurements }: Run<GrowthSetting>): Section {
  const text = [
    'One head, d = 64, adapters of rank 8 on q and v, logits of deviation 0.2 with an exponentially falling',
    'spectrum; tolerance 1 %. The time of low-rank holds everything: plan, chain, certificate, estimate.',
    '`upper` is the 99 % limit that the answer states, `error` the true one against the exact kernel.',
    '',
    table(
      [
        'L',
        'rows',
        'features',
        'outliers',
        'low-rank',
        'of it plan',
        'exact',
        'faster',
        'upper',
        'error',
        'resident',
      ],
      measurements.map(({ setting, seconds, details = {} }) => {
        const [low, exact] = [seconds[LOW_RANK], seconds[EXACT]];
        return [
          String(setting.length),
          setting.tail,
          String(details.features),
          `${details.outlier_queries} + ${details.outlier_keys}`,
          durationSpread(low),
          percent(details.plan_share),
          exact ? durationSpread(exact) : '',
          exact ? times(median(exact) / median(low)) : '',
          percent(details.upper),
          percent(details.error),
          `${Math.round(details.resident_mib)} MiB`,
        ];
      }),
      2,
    ),
  ];
  const normal = measurements.filter(({ setting }) => setting.tail === 'normal');
  const points = (side: string) =>
    normal
      .filter(({ seconds }) => seconds[side])
      .map(({ setting, seconds }): [number, number] => [setting.length, median(seconds[side])]);
  const low = points(LOW_RANK);
  const [first, last] = [low[0], low[low.length - 1]];
  const exponent = Math.log(last[1] / first[1]) / Math.log(last[0] / first[0]);
  const caption =
    'Time against length, low-rank and exact: one head, d = 64, {q, v}, tolerance 1 %';
  const svg = linePlot({
    title: caption,
    x: { label: 'sequence length L', scale: 'log', ticks: normal.map((m) => m.setting.length) },
    y: { label: 'time of one gradient', scale: 'log', format: duration },
    series: [
      { name: LOW_RANK, points: low },
      { name: EXACT, points: points(EXACT) },
    ],
  });
  const targets: Target[] = [
    target(measurements, 16_384, 'normal', 10),
    target(measurements, 65_536, 'normal', 40),
    target(measurements, 16_384, 't4', 5),
    target(measurements, 65_536, 't4', 15),
    {
      wanted: `Time grows with an exponent of at most 1.05 from L = ${first[0]} to ${last[0]}`,
      measured: exponent.toFixed(2),
      met: exponent <= 1.05,
    },
  ];
  return { text: text.join('\n'), plots: [{ file: 'growth', caption, svg }], targets };
}

export const growth: Question<GrowthSetting> = {
  name: 'growth',
  title: 'Low-rank against exact, by length',
  run,
  tell,
};
