/** Do the error bars hold, and does auto keep its tolerance? Random problems against the true gradients. */

import type { Bench, Question } from '../question.js';
import type { Measurement } from '../support/rounds.js';
import { startPool } from '../support/subject.js';
import { count, type Tally } from './count.js';
import { tell } from './report.js';
import { drawTrial, type Outcome, runTrial, type Scale, type Trial } from './trial.js';

/** One group of problems: those whose property `by` has this value. */
export interface CoverageSetting {
  readonly [name: string]: number | string;
  readonly scale: Scale;
  readonly by: string;
  readonly value: string;
  readonly seed: number;
}

/** The problems are always the same ones; another seed, other problems. */
const SEED = Number(process.env.BENCH_SEED ?? 1);
/** PyTorch is asked about one in so many. */
const TORCH_EVERY = 10;
/** Problems between two lines of progress. */
const BLOCK = 50;

/** What the problems differ in, and are counted by. */
function properties(
  { recipe, structure, tolerance }: Trial,
  { ratio }: Outcome,
): Record<string, string> {
  const { deviation, tail, spectrum, d, adapted, causal, kind, related, mean } = recipe;
  return {
    all: 'all problems',
    structure,
    'logit deviation': String(deviation),
    'Γ/√ln L': ratio < 1 ? '0 to 1' : ratio < 3 ? '1 to 3' : '3 and more',
    rows: tail ?? 'normal',
    spectrum: spectrum ?? 'exponential',
    d: String(d),
    adapters: [...(adapted ?? '')].join(', '),
    mask: causal ? 'causal' : 'none',
    objective: kind ?? 'grad_output',
    gradient: related ? 'rows add up' : 'noise',
    means: String(mean),
    tolerance: String(tolerance),
  };
}

async function run(bench: Bench): Promise<Measurement<CoverageSetting>[]> {
  const counts = bench.quick ? { short: 24, long: 4 } : { short: 1500, long: 500 };
  const tallies = new Map<string, Tally>();
  const pool = await startPool(bench.cpus);
  try {
    for (const scale of ['short', 'long'] as const) {
      bench.progress.begin(`coverage, ${scale}`, Math.ceil(counts[scale] / BLOCK));
      let next = 0;
      let block = { problems: 0 };
      const lane = async () => {
        while (next < counts[scale]) {
          const k = next++;
          if (k % BLOCK === 0) block = { problems: k };
          bench.progress.step(block, `problem ${k + 1} of ${counts[scale]}`);
          const trial = drawTrial(scale, SEED * 100_000 + k);
          const torch = scale === 'short' && k % TORCH_EVERY === 0 ? bench.torch : null;
          const outcome = await runTrial(pool, trial, scale, torch);
          for (const [by, value] of Object.entries(properties(trial, outcome))) {
            const key = JSON.stringify({ scale, by, value, seed: SEED });
            tallies.set(key, count(tallies.get(key), outcome));
          }
          report(bench, trial, outcome);
        }
      };
      await Promise.all(Array.from({ length: bench.cpus }, lane));
    }
  } finally {
    await pool.close();
  }
  return [...tallies].map(([key, tally]) => ({
    setting: JSON.parse(key) as CoverageSetting,
    seconds: {},
    details: tally.figures(),
  }));
}

/** What was not as promised, with all that it takes to see it again. */
function report({ progress }: Bench, trial: Trial, { forced, auto }: Outcome): void {
  const problem = JSON.stringify(trial);
  for (const { tensor, error, upper, certificate } of forced ?? []) {
    if (!(error <= upper)) progress.say(`${tensor}: error ${error}, upper ${upper}: ${problem}`);
    if (certificate !== null && error > certificate) {
      progress.say(`${tensor}: error ${error}, CERTIFICATE ${certificate}: ${problem}`);
    }
  }
  if (auto.overTolerance > 1) {
    progress.say(`auto (${auto.way}): ${auto.overTolerance} times the tolerance: ${problem}`);
  }
}

export const coverage: Question<CoverageSetting> = {
  name: 'coverage',
  title: 'Do the error bars hold?',
  needsTorch: true,
  run,
  tell,
};
