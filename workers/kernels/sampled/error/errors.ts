/**
 * From the blocks that were measured to the figures in the answer.
 *
 * Blocks are drawn independently: the error e of a tensor is a sum of e_b with the mean 0, and E |e|^2 = sum E |e_b|^2, which the
 * measured blocks estimate. Its limit is that of a sum of squares with so many degrees of freedom (F. E. Satterthwaite
 * 1946): V chi^2_f / f with f = 2 V^2 / Var, where Var is how far |e|^2 and the estimate V are from each other,
 *
 *     Var = Var V + sum_b E |e_b|^4 + 2 sum_{b != c} E (e_b . e_c)^2
 *
 * What the measured blocks cannot show are keys so unlikely that they were hardly drawn there: their variance is reckoned
 * by the design, sum (1 / pi_j - 1) a_j, from what these keys would have added.
 */
import type { AttentionProblem } from '../../../problem.js';
import { type ErrorEstimate, frobenius } from '../../estimate/estimate.js';
import { type ErrorEstimates, vanishes } from '../../exact/error/estimate.js';
import { ROWS } from '../../inner/block.js';
import { type ParameterGradients, ROLES, tensorsOf } from '../../result.js';
import { rareSizes, runningSums, varianceAt } from '../plan/scale.js';
import type { MeasuredBlock, Measurements } from './measure.js';
import type { Role } from './tables.js';

/** What was measured while the gradients were made. */
export interface Measured extends Measurements {
  /** c of the draws. */
  readonly scale: number;
  /** Blocks that were drawn, or might have been. */
  readonly all: number;
  /** What rounding does, by tensor. */
  readonly rounding: ErrorEstimates;
}

/** Of a tensor that no row tells of. */
const ALL = { relative: 1, upper: 1, standard_error: 1, rows_sampled: 0 };

/** Draws that a class of keys must have in the measured blocks to show itself there. */
const SHOWN = 30;

/** @param norms of the gradients of attention states, in the space in which they are measured, by name. */
export function drawErrors(
  problem: AttentionProblem,
  gradients: ParameterGradients,
  norms: Readonly<Record<string, number>>,
  measured: Measured,
): ErrorEstimates {
  const { blocks, rounding } = measured;
  const unseen = unseenShares(measured);
  const shown = blocks.some(({ tensors }) => Object.keys(tensors).length > 0);
  const figures = { confidence: 0.99, rows_sampled: blocks.length * ROWS } as const;
  const estimate = (name: string, norm: number, isZero: () => boolean): ErrorEstimate => {
    if (!(norm > 0)) {
      const off = isZero() ? 0 : 1;
      return { relative: off, upper: off, standard_error: 0, ...figures };
    }
    // Of blocks that were drawn none was measured.
    if (measured.drawn > 0 && !shown) {
      return { ...ALL, ...figures };
    }
    const { variance, limit } = squareOfError(blocks, name);
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
  const parameters = tensorsOf(gradients).map(
    ([name, x]) => [name, estimate(name, frobenius(x), () => vanishes(problem, name))] as const,
  );
  const states = Object.entries(norms).map(
    ([name, norm]) =>
      [name, estimate(name, norm, () => blocks.every(({ tensors }) => !tensors[name]))] as const,
  );
  return Object.fromEntries([...parameters, ...states]);
}

/** The role whose keys make the error of a tensor; that of sinks is made by the weights of values. */
function roleOf(name: string): Role {
  const [projection] = name.split('.');
  return (
    (ROLES as Readonly<Record<string, Role>>)[projection!] ??
    (name === 'sinks' ? 'value' : (name as Role))
  );
}

/** By role: the variance of keys that measured blocks hardly draw, over that of what these show. */
function unseenShares({ blocks, keys, scale, all }: Measured): Partial<Record<Role, number>> {
  const sums = runningSums(keys);
  const rare = rareSizes(sums, scale, (SHOWN * all) / Math.max(1, blocks.length));
  const shares: Partial<Record<Role, number>> = {};
  for (const role of Object.values(ROLES)) {
    const shown = blocks.reduce((sum, b) => sum + (b.roles[role] ?? 0) / b.probability, 0);
    if (shown > 0) shares[role] = varianceAt(sums, role, scale, rare) / shown;
  }
  return shares;
}

/** V, and the 99 % limit of |e|^2. */
export function squareOfError(blocks: readonly MeasuredBlock[], name: string) {
  const mine = blocks.filter(({ tensors }) => (tensors[name] ?? 0) > 0);
  const n = blocks.length;
  const terms = mine.map(({ tensors, probability }) => tensors[name]! / probability);
  const variance = terms.reduce((sum, x) => sum + x, 0);
  if (!(variance > 0)) return { variance: 0, limit: 0 };
  const squares = terms.reduce((sum, x) => sum + x * x, 0);
  const ofEstimate = (Math.max(0, squares - variance ** 2 / n) * n) / Math.max(1, n - 1);
  const own = mine.reduce(
    (sum, { tensors, probability }) => sum + tensors[name]! ** 2 / probability,
    0,
  );
  let pairs = 0;
  for (let b = 0; b < mine.length; b++) {
    for (let c = 0; c < b; c++) {
      pairs +=
        product(mine[b]!, mine[c]!, name) ** 2 / (mine[b]!.probability * mine[c]!.probability);
    }
  }
  const freedom = (2 * variance ** 2) / (ofEstimate + own + 4 * pairs);
  return { variance, limit: variance * chiSquare(freedom) };
}

function product(a: MeasuredBlock, b: MeasuredBlock, name: string): number {
  const [x, y] = [a.signatures[name]!, b.signatures[name]!];
  return x.reduce((sum, value, k) => sum + value * y[k]!, 0);
}

/** One-sided 99 % of a normal distribution. */
const ONE_SIDED = 2.326;

/** 99 % of chi^2 over its degrees of freedom (E. B. Wilson and M. M. Hilferty 1931). */
export function chiSquare(freedom: number): number {
  const scatter = 2 / (9 * freedom);
  return (1 - scatter + ONE_SIDED * Math.sqrt(scatter)) ** 3;
}
