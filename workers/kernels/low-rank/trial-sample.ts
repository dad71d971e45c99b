/** The few queries and keys on which plans are tried. */
import type { Real } from './arithmetic.js';
import { logResiduals } from './basis.js';
import type { HeadProjection } from './head.js';
import type { Random } from './random.js';
import {
  BLOCK,
  type KeyRows,
  keyRows,
  openWorkspace,
  type QueryRows,
  queryRows,
  type Workspace,
} from './rows.js';

const QUERIES = 72;
/** Of the queries, those that can spoil most in the pool are taken for certain. */
const LARGEST_QUERIES = 24;
const KEYS = 768;
/** Of the keys, those that can spoil most in the pool are taken for certain. */
const LARGEST_KEYS = 192;
/** Rows among which the sample is chosen, and which tell what an outlier is. */
const POOL = 2048;
/**
 * The longest rows X_i of so many belong to the pool for certain: a row whose softmax is concentrated can
 * weigh as much as all others together.
 */
const MEASURED = 8192;
const LONGEST = 128;

export interface TrialSample {
  readonly queries: QueryRows;
  readonly keys: KeyRows;
  readonly outlierQuery: readonly boolean[];
  readonly outlierKey: readonly boolean[];
  /** Queries that each stands for, and |X_i|^2. */
  readonly queryWeight: Float64Array;
  readonly querySquares: Float64Array;
  /** Keys that each stands for. */
  readonly keyWeight: Float64Array;
}

export function drawTrial(space: Workspace, share: number, random: Random): TrialSample {
  return { ...drawQueries(space, share, random), ...drawKeys(space, share, random) };
}

/**
 * The queries of the pool that can spoil most, and others drawn in proportion to |X_i|, which is how much
 * they weigh in a gradient: in heavy tails few rows make most of it.
 */
function drawQueries(space: Workspace, share: number, random: Random) {
  const { arithmetic, head } = space;
  const pool = drawPool(head.query, head.queryLength, random);
  const mark = arithmetic.mark();
  const rows = queryRows(space, pool.rows.length);
  rows.load((r) => pool.rows[r], pool.rows.length);
  const harm = spoil(space, rows.x, rows.logScale);
  arithmetic.release(mark);
  const order = descending(harm);
  const limit = threshold(harm, order, pool.weight, share * head.queryLength);
  const n = Math.min(QUERIES, order.length);
  const certain = order.slice(0, Math.min(LARGEST_QUERIES, n));
  const rest = order.slice(certain.length);
  const chance = rest.map((r) => pool.weight[r] * Math.sqrt(pool.squares[r]));
  const total = chance.reduce((a, b) => a + b, 0);
  const drawn = Array.from({ length: n - certain.length }, () => {
    let left = random.uniform() * total;
    let at = 0;
    while (at + 1 < rest.length && left >= chance[at]) left -= chance[at++];
    return at;
  });
  const chosen = [...certain, ...drawn.map((at) => rest[at])];
  const queries = queryRows(space, n);
  queries.load((r) => pool.rows[chosen[r]], n);
  return {
    queries,
    queryWeight: Float64Array.from(chosen, (r, i) => {
      if (i < certain.length || total === 0) return pool.weight[r];
      return (pool.weight[r] * total) / (chance[drawn[i - certain.length]] * drawn.length);
    }),
    querySquares: Float64Array.from(chosen, (r) => pool.squares[r]),
    outlierQuery: chosen.map((r) => harm[r] > limit),
  };
}

/** The keys of the pool that can spoil most, and a uniform sample of the others. */
function drawKeys(space: Workspace, share: number, random: Random) {
  const { arithmetic, head } = space;
  const pool = drawPool(head.key, head.keyLength, random);
  const mark = arithmetic.mark();
  const rows = keyRows(space, pool.rows.length);
  rows.load((r) => pool.rows[r], pool.rows.length);
  const harm = spoil(space, rows.z, rows.logWeight);
  arithmetic.release(mark);
  const order = descending(harm);
  const limit = threshold(harm, order, pool.weight, share * head.keyLength);
  const largest = order.slice(0, LARGEST_KEYS);
  const rest = order.slice(LARGEST_KEYS);
  const others = Array.from(random.sample(rest.length, KEYS - LARGEST_KEYS), (i) => rest[i]);
  const chosen = [...largest, ...others];
  const keys = keyRows(space, chosen.length);
  keys.load((r) => pool.rows[chosen[r]], chosen.length);
  return {
    keys,
    keyWeight: Float64Array.from(chosen, (r, j) =>
      j < largest.length ? pool.weight[r] : (pool.weight[r] * rest.length) / others.length,
    ),
    outlierKey: chosen.map((r) => harm[r] > limit),
  };
}

interface Pool {
  readonly rows: Int32Array;
  /** Rows that each stands for, and |X_i|^2. */
  readonly weight: Float64Array;
  readonly squares: Float64Array;
}

/** The longest rows of a projection's input, and a uniform sample of the others. */
function drawPool({ rows, effective }: HeadProjection, length: number, random: Random): Pool {
  const measured = spreadRows(length, MEASURED, random);
  const { inputs } = effective;
  const squares = new Float64Array(measured.length);
  for (let r = 0; r < measured.length; r++) {
    const from = measured[r] * inputs;
    for (let c = from; c < from + inputs; c++) squares[r] += rows[c] * rows[c];
  }
  const limit = squares.slice().sort()[Math.max(0, squares.length - LONGEST)];
  const [longest, rest]: number[][] = [[], []];
  squares.forEach((x, r) => {
    (x >= limit && longest.length < LONGEST ? longest : rest).push(r);
  });
  const others = Array.from(random.sample(rest.length, POOL - LONGEST), (i) => rest[i]);
  const chosen = [...longest, ...others];
  const each = length / measured.length;
  return {
    rows: Int32Array.from(chosen, (r) => measured[r]),
    weight: Float64Array.from(chosen, (_, i) =>
      i < longest.length ? each : (each * rest.length) / others.length,
    ),
    squares: Float64Array.from(chosen, (r) => squares[r]),
  };
}

/** One row of each of n equal stretches below length, or all rows. */
function spreadRows(length: number, n: number, random: Random): Int32Array {
  if (length <= n) return Int32Array.from({ length }, (_, i) => i);
  const rows = new Int32Array(n);
  for (let k = 0; k < n; k++) rows[k] = Math.floor(((k + random.uniform()) * length) / n);
  return rows;
}

/** Positions of values, the largest first. */
function descending(values: readonly number[]): number[] {
  return Array.from(values.keys()).sort((a, b) => values[b] - values[a]);
}

/** Features by which rows are judged. */
const JUDGING = 64;

/** How much each row x (n, d) can spoil, as a logarithm: what the features leave out, and its weight. */
function spoil(space: Workspace, x: Real, logWeight: Float64Array): number[] {
  const { arithmetic, head } = space;
  const plan = { ...space.plan, m: Math.min(space.plan.m, JUDGING) };
  const residual = logResiduals(openWorkspace(arithmetic, head, plan));
  const block = arithmetic.array(BLOCK * head.d);
  const result: number[] = [];
  for (let from = 0; from < logWeight.length; from += BLOCK) {
    const count = Math.min(BLOCK, logWeight.length - from);
    block.set(x.subarray(from * head.d, (from + count) * head.d));
    const left = residual(block, count);
    for (let r = 0; r < count; r++) result.push(left[r] + logWeight[from + r]);
  }
  return result;
}

/** What a row that is put aside exceeds, when rows that stand for `aside` of all are. */
function threshold(
  values: readonly number[],
  order: readonly number[],
  weight: Float64Array,
  aside: number,
): number {
  if (aside === 0) return Number.POSITIVE_INFINITY;
  let before = 0;
  for (const r of order) {
    before += weight[r];
    if (before > aside) return values[r];
  }
  return values[order[order.length - 1]];
}
