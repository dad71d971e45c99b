/**
 * From the blocks that were measured to the figures in the answer.
 *
 * Blocks are drawn independently: the error e of a tensor is a sum of e_b with the mean 0, and E |e|^2 = sum E |e_b|^2, which the
 * measured blocks estimate. Its limit is that of a sum of squares with so many degrees of freedom (F. E. Satterthwaite
 * 1946): V chi^2_f / f with f = 2 V^2 / Var, where Var is how far |e|^2 and the estimate V are from each other,
 *
 *     Var = Var V + sum_b E |e_b|^4 + 2 sum_{b != c} E (e_b . e_c)^2
 *
 * and V^2 times the relative variance of the square of the gradient's norm, where that is an estimate, too.
 *
 * What the measured blocks cannot show are keys so unlikely that they were hardly drawn there. Their variance
 * follows from the design: sum (1 / pi_j - 1) a_j, where a_j is what these keys would have added.
 *
 * Of an answer that is the weighted mean of two runs, e is the sum of both runs' e_b, each times its weight: their draws are
 * independent, of the same block too, and everything above holds for all of them together.
 */
import type { AttentionProblem } from '../../../problem.js';
import type { ErrorEstimate } from '../../estimate/estimate.js';
import { type ErrorEstimates, vanishes } from '../../exact/error/estimate.js';
import { ROWS } from '../../inner/block.js';
import { ROLES } from '../../result.js';
import { rareSizes, runningSums, varianceAt } from '../plan/scale.js';
import type { MeasuredBlock, Measurements } from './measure.js';
import type { Norm } from './norms.js';
import type { Role } from './tables.js';

/** What was measured while the gradients of one run were made. */
export interface MeasuredRun extends Measurements {
  /** Weight of the run in the answer. */
  readonly share: number;
  /** c of the draws. */
  readonly scale: number;
  /** Blocks that were drawn, or might have been. */
  readonly all: number;
}

/** What is known of an answer. */
export interface Measured {
  readonly runs: readonly MeasuredRun[];
  /** Norms of the gradients, in the space in which they are measured, by name. */
  readonly norms: Readonly<Record<string, Norm>>;
  /** What rounding does, relative to these norms. */
  readonly rounding: ErrorEstimates;
}

/** The estimate of a tensor about which no row says anything. */
const ALL = { relative: 1, upper: 1, standard_error: 1, rows_sampled: 0 };

/** Draws that a class of keys must have in the measured blocks to show itself there. */
const SHOWN = 30;

export function drawErrors(
  problem: AttentionProblem,
  { runs, norms, rounding }: Measured,
): ErrorEstimates {
  const unseen = unseenShares(runs);
  const all = runs.flatMap(({ blocks }) => blocks);
  const blind = runs.some(isBlind);
  const figures = { confidence: 0.99, rows_sampled: all.length * ROWS } as const;
  const estimate = (name: string, { norm, variance: ofNorm }: Norm): ErrorEstimate => {
    if (!(norm > 0)) {
      const zero = isState(name)
        ? all.every(({ tensors }) => !tensors[name])
        : vanishes(problem, name);
      const off = zero ? 0 : 1;
      return { relative: off, upper: off, standard_error: 0, ...figures };
    }
    if (blind) return { ...ALL, ...figures };
    const { variance, limit } =
      name === 'sinks' ? squareOfSinks(runs) : squareOfError(runs, name, ofNorm);
    const more = Math.sqrt(1 + (unseen[roleOf(name)] ?? 0));
    const drawn = (more * Math.sqrt(variance)) / norm;
    const { relative, upper, standard_error, rows_sampled } = rounding[name] ?? ALL;
    return {
      relative: Math.hypot(drawn, relative),
      upper: (more * Math.sqrt(limit)) / norm + upper,
      standard_error: Math.hypot(drawn, standard_error),
      confidence: 0.99,
      rows_sampled: figures.rows_sampled + rows_sampled,
    };
  };
  return Object.fromEntries(
    Object.entries(norms).map(([name, norm]) => [name, estimate(name, norm)]),
  );
}

/** Drawn blocks that are measured, at least, where others are not. */
const FEWEST_MEASURED = 8;

/** Whether too few of the measured blocks speak for others. */
function isBlind({ blocks, drawn }: MeasuredRun): boolean {
  const measured = blocks.filter(hasError).length;
  return measured < Math.min(drawn, FEWEST_MEASURED);
}

const hasError = ({ tensors }: MeasuredBlock) => Object.keys(tensors).length > 0;
const isState = (name: string) => (Object.values(ROLES) as string[]).includes(name);

/** The role whose keys make the error of a tensor; that of sinks is made by the weights of values. */
function roleOf(name: string): Role {
  const [projection] = name.split('.');
  return (
    (ROLES as Readonly<Record<string, Role>>)[projection!] ??
    (name === 'sinks' ? 'value' : (name as Role))
  );
}

/** For each role the variance of keys that measured blocks hardly draw, over the variance of those that they show. */
function unseenShares(runs: readonly MeasuredRun[]): Partial<Record<Role, number>> {
  const known = runs.map(({ share, blocks, keys, scale, all }) => {
    const sums = runningSums(keys);
    const rare = rareSizes(sums, scale, (SHOWN * all) / Math.max(1, blocks.length));
    return { share, blocks, unseen: (role: Role) => varianceAt(sums, role, scale, rare) };
  });
  const shares: Partial<Record<Role, number>> = {};
  for (const role of Object.values(ROLES)) {
    let [unseen, shown] = [0, 0];
    for (const run of known) {
      unseen += run.share ** 2 * run.unseen(role);
      for (const { roles, probability } of run.blocks) {
        shown += (run.share ** 2 * (roles[role] ?? 0)) / probability;
      }
    }
    if (shown > 0) shares[role] = unseen / shown;
  }
  return shares;
}

/**
 * V, and the 99 % limit of |e|^2.
 *
 * @param ofNorm relative variance of the square that both are divided by.
 */
function squareOfError(runs: readonly RunErrors[], name: string, ofNorm: number) {
  const byRun = runs.map((run) => errorsOf(run, name));
  const blocks = byRun.flat();
  const variance = blocks.reduce((sum, { square, probability }) => sum + square / probability, 0);
  if (!(variance > 0)) return { variance: 0, limit: 0 };
  const ofEstimate = byRun.reduce(
    (sum, mine, k) => sum + scatterOf(mine, runs[k]!.blocks.length),
    0,
  );
  const own = blocks.reduce((sum, { square, probability }) => sum + square ** 2 / probability, 0);
  let pairs = 0;
  for (let b = 0; b < blocks.length; b++) {
    for (let c = 0; c < b; c++) {
      const [x, y] = [blocks[b]!, blocks[c]!];
      pairs += dot(x.signature, y.signature) ** 2 / (x.probability * y.probability);
    }
  }
  const freedom = 2 / ((ofEstimate + own + 4 * pairs) / variance ** 2 + ofNorm);
  return { variance, limit: variance * chiSquare(freedom) + unmeasured(byRun) };
}

/** Measured blocks with an error from which on their scatter tells what blocks that were not measured may add. */
const ENOUGH = 24;

/**
 * What blocks that were not measured may add to |e|^2 where fewer have an error. In 99 of 100 cases n blocks have met all kinds
 * of blocks but those that make up a share of -ln(0.01) / n of all; these are taken to be as large as the largest that was met.
 */
function unmeasured(runs: readonly ReturnType<typeof errorsOf>[]): number {
  let largest = 0;
  for (const run of runs) {
    if (run.length >= ENOUGH) continue;
    const ofSome = run.filter(({ probability }) => probability < 1);
    largest += Math.max(0, ...ofSome.map(({ square, probability }) => square / probability));
  }
  return -Math.log(0.01) * largest;
}

/** The same of sinks: the larger one of what drawn keys and measured blocks say; heads have a number each. */
function squareOfSinks(runs: readonly Pick<MeasuredRun, 'share' | 'sinks'>[]) {
  const [drawn, measured] = (['byDrawn', 'byMeasured'] as const).map((by) => {
    const sums = runs.map(({ share, sinks }) => ({ share, sums: sinks[by] }));
    return squareOfNumbers(sums);
  });
  return drawn!.limit > measured!.limit ? drawn! : measured!;
}

function squareOfNumbers(runs: readonly { share: number; sums: Float64Array }[]) {
  const heads = runs[0]!.sums.length / 2;
  let [variance, ofAll] = [0, 0];
  for (let h = 0; h < heads; h++) {
    let ofHead = 0;
    for (const { share, sums } of runs) {
      ofHead += share ** 2 * sums[2 * h]!;
      ofAll += 2 * share ** 4 * sums[2 * h + 1]!;
    }
    variance += ofHead;
    ofAll += 2 * ofHead ** 2;
  }
  if (!(variance > 0)) return { variance: 0, limit: 0 };
  return { variance, limit: variance * chiSquare((2 * variance ** 2) / ofAll) };
}

type RunErrors = Pick<MeasuredRun, 'share' | 'blocks'>;

/** For the measured blocks of a run their parts of the answer's error. */
function errorsOf({ share, blocks }: RunErrors, name: string) {
  return blocks.flatMap(({ tensors, signatures, probability }) => {
    const square = share ** 2 * (tensors[name] ?? 0);
    if (!(square > 0)) return [];
    return [{ square, probability, signature: signatures[name]!.map((x) => share * x) }];
  });
}

/** Var V of a run, whose n blocks are chosen by themselves. */
function scatterOf(errors: ReturnType<typeof errorsOf>, n: number): number {
  const terms = errors.map(({ square, probability }) => square / probability);
  const sum = terms.reduce((all, x) => all + x, 0);
  const squares = terms.reduce((all, x) => all + x * x, 0);
  return n === 0 ? 0 : (Math.max(0, squares - sum ** 2 / n) * n) / Math.max(1, n - 1);
}

function dot(x: Float32Array, y: Float32Array): number {
  let sum = 0;
  for (let k = 0; k < x.length; k++) sum += x[k]! * y[k]!;
  return sum;
}

/** One-sided 99 % of a normal distribution. */
const ONE_SIDED = 2.326;

/** 99 % of chi^2 over its degrees of freedom (E. B. Wilson and M. M. Hilferty 1931). */
export function chiSquare(freedom: number): number {
  const scatter = 2 / (9 * freedom);
  return (1 - scatter + ONE_SIDED * Math.sqrt(scatter)) ** 3;
}

/** 99 % limit of a norm over another, where both are estimates. */
export function largestRatio(above: Norm, below: Norm): number {
  const variance = above.variance + below.variance;
  const limit = variance > 0 ? Math.sqrt(chiSquare(2 / variance)) : 1;
  return below.norm > 0 ? (limit * above.norm) / below.norm : 0;
}
