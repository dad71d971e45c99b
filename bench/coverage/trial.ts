/** One random problem of bench/coverage/coverage.ts: answered by low-rank and by auto, compared with the truth. */
import { Problem } from '../../src/errors.js';
import type { WorkerPool } from '../../src/pool/worker-pool.js';
import { choose } from '../../src/solver/choose.js';
import { judge } from '../../src/solver/choose-low-rank.js';
import type { Solution, SolveOptions } from '../../src/solver/solution.js';
import { solve } from '../../src/solver/solve.js';
import type { Recipe } from '../../test/kernels/low-rank/support.js';
import {
  makeStructured,
  STRUCTURE_NAMES,
  type StructureName,
} from '../../test/kernels/structures.js';
import type { Job } from '../../workers/job.js';
import { planLowRank } from '../../workers/kernels/low-rank/plan/plan.js';
import { Random } from '../../workers/kernels/random.js';
import type { GradientResult } from '../../workers/kernels/result.js';
import type { AttentionProblem } from '../../workers/problem.js';
import { compare, exact, reference, run, thresholdRatio, trueError } from '../support/low-rank.js';
import type { Torch } from '../support/torch.js';

export type Scale = 'short' | 'long';

export interface Trial {
  readonly recipe: Recipe & { readonly deviation: number };
  readonly structure: StructureName;
  readonly tolerance: number;
  /** Given to the forced run; absent: the plan looks for them. */
  readonly features?: number;
}

export interface Outcome {
  /** Gamma over sqrt(ln L). */
  readonly ratio: number;
  /** By low_rank as it was asked for; null: refused with 422. */
  readonly forced: readonly Covered[] | null;
  /** What auto did, and its largest true error over the tolerance. */
  readonly auto: {
    readonly way: Solution['method'] | 'fallback' | 'refused';
    readonly overTolerance: number;
  };
  /** Largest relative difference between the truth and PyTorch's; null: not asked. */
  readonly torchDifference: number | null;
}

/** One tensor: Frobenius norms relative to that of the answer, as the answer states them. */
export interface Covered {
  readonly tensor: string;
  readonly error: number;
  readonly upper: number;
  readonly certificate: number | null;
}

/** Lengths at which the truth can be had in float64, and one at which auto really plans. */
const LONG = 8192;

export function drawTrial(scale: Scale, seed: number): Trial {
  const random = new Random(seed);
  const any = <T>(list: readonly T[]): T => list[random.integer(list.length)];
  const length = () => (scale === 'short' ? 150 + random.integer(350) : LONG);
  const features = any(scale === 'short' ? [undefined, 16, 64, 256] : [undefined, 32, 128, 512]);
  return {
    recipe: {
      seed,
      queryLength: length(),
      keyLength: length(),
      d: any(scale === 'short' ? [4, 8, 16, 32, 64, 128] : [8, 16, 32, 64]),
      deviation: any([0.02, 0.05, 0.1, 0.3, 1, 4]),
      tail: any(['normal', 't4', 'few huge rows', 'one huge key'] as const),
      spectrum: any(['flat', 'harmonic', 'exponential'] as const),
      adapted: any(['qkv', 'qkv', 'qv', 'q', 'k', 'v']),
      causal: random.uniform() < 0.2,
      kind: any(['target', 'grad_output'] as const),
      related: random.uniform() < 0.5,
      mean: any([0, 0.5]),
    },
    structure: any(STRUCTURE_NAMES),
    tolerance: any([0.1, 0.02, 0.005]),
    ...(features !== undefined && { features }),
  };
}

/** For short inputs low-rank never pays, so auto would not even try: here it costs nothing. */
const LOW_RANK_FOR_NOTHING = { exact: 1e6, lowRank: 1e12 };

function* auto(problem: AttentionProblem, options: SolveOptions, scale: Scale): Job<Solution> {
  if (scale === 'long') return yield* solve(problem, yield* choose(problem, options), options);
  const { tolerance, seed } = options;
  const lowRank = yield* planLowRank(problem, { tolerance, seed, rates: LOW_RANK_FOR_NOTHING });
  return yield* solve(problem, { ...judge(lowRank, options), lowRank, sampled: null }, options);
}

function* forced(problem: AttentionProblem, options: SolveOptions): Job<Solution> {
  return yield* solve(problem, yield* choose(problem, options), options);
}

/** A tolerance that cannot be kept, a number that its dtype cannot hold. */
const REFUSALS = new Set(['tolerance-missed', 'not-finite']);

async function refusedIsNull(answer: Promise<Solution>): Promise<Solution | null> {
  try {
    return await answer;
  } catch (error) {
    if (error instanceof Problem && REFUSALS.has(error.kind)) return null;
    throw error;
  }
}

function covered({ result, error }: Solution, truth: GradientResult): Covered[] {
  return compare(result, truth).map((tensor) => {
    const { estimate, certificate } = error[tensor.name];
    return {
      tensor: tensor.name,
      error: tensor.error / tensor.answer,
      upper: estimate?.upper ?? Number.NaN,
      certificate: certificate?.relative ?? null,
    };
  });
}

async function torchDifference(torch: Torch, problem: AttentionProblem, truth: GradientResult) {
  const theirs = await torch.gradients(problem);
  const differences = compare(truth, {
    gradients: Object.fromEntries(
      Object.keys(truth.gradients).map((name) => [
        name,
        {
          lora_A: Float64Array.from(theirs[`${name}.lora_A`]),
          lora_B: Float64Array.from(theirs[`${name}.lora_B`]),
        },
      ]),
    ),
  });
  return Math.max(...differences.map(({ error, truth }) => error / truth));
}

/** @param torch null: not asked about this problem. */
export async function runTrial(
  pool: WorkerPool,
  { recipe, structure, tolerance, features }: Trial,
  scale: Scale,
  torch: Torch | null,
): Promise<Outcome> {
  const problem = makeStructured(recipe, structure);
  // Under massive channels float32 itself may be off by more than the tolerance.
  const needsFloat64 = scale === 'short' || structure === 'massive channels';
  const truth = await (needsFloat64 ? reference : exact)(pool, problem);
  const options = {
    ...{ tolerance, seed: recipe.seed, rates: pool.rates, toleranceStated: false },
    ...{ correction: false, attentionOutput: false },
    encode: { gradients: true, batched: true, outputsDtype: 'same' as const },
  };
  // PyTorch's script knows one head, of one batch item.
  const isSingle = problem.dims.heads * problem.dims.batch === 1;
  const given = { ...options, method: 'low_rank', features } as const;
  const low = await refusedIsNull(run(pool, forced(problem, given)));
  const chosen = await refusedIsNull(
    run(pool, auto(problem, { ...options, method: 'auto' }, scale)),
  );
  return {
    ratio: thresholdRatio(truth, problem),
    forced: low && covered(low, truth),
    auto: {
      way: chosen ? (chosen.fallback ? 'fallback' : chosen.method) : 'refused',
      overTolerance: chosen ? trueError(chosen.result, truth) / tolerance : 0,
    },
    torchDifference: torch && isSingle ? await torchDifference(torch, problem, truth) : null,
  };
}
