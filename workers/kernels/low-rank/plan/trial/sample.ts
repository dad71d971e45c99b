/** The few queries and keys on which plans are tried. */

import type { Task } from '../../../../job.js';
import type { TensorData } from '../../../../tensor/tensor.js';
import type { Random } from '../../../random.js';
import type { Arithmetic } from '../../arithmetic/arithmetic.js';
import { largest } from '../../features/select.js';
import { BLOCK } from '../../head/block.js';
import type { Segment } from '../../head/layout.js';
import { judgedRows } from '../../head/rows/coordinates.js';
import { type KeyRows, keyRows } from '../../head/rows/key-rows.js';
import { type QueryRows, queryRows } from '../../head/rows/query-rows.js';
import { openWorkspace, type Workspace } from '../../head/workspace.js';
import { judging, logResiduals } from '../scan.js';

const QUERIES = 72;
/** So many queries of the sample are those of the pool of which the features leave out most. */
const LARGEST_QUERIES = 24;
const KEYS = 768;
/** So many keys of the sample are those of the pool of which the features leave out most. */
const LARGEST_KEYS = 192;
/** Rows among which the sample is chosen, and which tell what an outlier is. */
const POOL = 2048;
/**
 * The longest rows X_i belong to the pool for certain: a row whose softmax is concentrated can weigh as
 * much as all others together.
 */
const LONGEST = 96;

export interface TrialSample {
  readonly queries: QueryRows;
  readonly keys: KeyRows;
  /** Whether a row is put aside when a share of all rows is. */
  readonly outlierQuery: (share: number) => readonly boolean[];
  readonly outlierKey: (share: number) => readonly boolean[];
  /** Queries that each stands for, and |X_i|^2. */
  readonly queryWeight: Float64Array;
  readonly querySquares: Float64Array;
  /** Keys that each stands for. */
  readonly keyWeight: Float64Array;
}

/** Positions of the longest rows of the inputs of a head: X^Q and X^K. */
export interface LongestRows {
  readonly query: Int32Array;
  readonly key: Int32Array;
}

export function drawTrial(space: Workspace, longest: LongestRows, random: Random): TrialSample {
  return {
    ...drawQueries(space, longest.query, random),
    ...drawKeys(space, longest.key, random),
  };
}

/**
 * The queries of the pool of which the features leave out most, and others drawn in proportion to |X_i|, which is how much
 * they weigh in a gradient: in heavy tails few rows make most of it.
 */
function drawQueries(space: Workspace, longest: Int32Array, random: Random) {
  const { head } = space;
  const pool = drawPool(head.queryLength, longest, random);
  const { residuals, squares } = residualsOf(space, 'query', pool.rows);
  const order = descending(residuals);
  const n = Math.min(QUERIES, order.length);
  const certain = order.slice(0, Math.min(LARGEST_QUERIES, n));
  const rest = order.slice(certain.length);
  const chance = rest.map((r) => pool.weight[r] * Math.sqrt(squares[r]));
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
    querySquares: Float64Array.from(chosen, (r) => squares[r]),
    outlierQuery: outliers(residuals, order, pool.weight, head.queryLength, chosen),
  };
}

/** The keys of the pool of which the features leave out most, and a uniform sample of the others. */
function drawKeys(space: Workspace, longest: Int32Array, random: Random) {
  const { head } = space;
  const pool = drawPool(head.keyLength, longest, random);
  const { residuals } = residualsOf(space, 'key', pool.rows);
  const order = descending(residuals);
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
    outlierKey: outliers(residuals, order, pool.weight, head.keyLength, chosen),
  };
}

interface Pool {
  readonly rows: Int32Array;
  /** Rows that each stands for. */
  readonly weight: Float64Array;
}

/** The longest rows of a projection's input, and a uniform sample of the others. */
function drawPool(length: number, longest: Int32Array, random: Random): Pool {
  const certain = new Set(longest);
  const sample = random.sample(length, POOL).filter((row) => !certain.has(row));
  const each = (length - longest.length) / Math.max(1, sample.length);
  const rows = Int32Array.from([...longest, ...sample]);
  return { rows, weight: new Float64Array(rows.length).fill(each).fill(1, 0, longest.length) };
}

interface LongRow {
  readonly row: number;
  readonly square: number;
}

/** The longest rows of a part of X, and the sum of the squares of all of them. */
interface LongRows {
  readonly rows: readonly LongRow[];
  readonly total: number;
}

export interface LongestTask extends Task<LongRows> {
  readonly kernel: 'low_rank';
  readonly step: 'longest';
  /** X (n, width). */
  readonly rows: TensorData;
  readonly width: number;
  readonly segment: Segment;
}

/** The LONGEST longest of the rows [from, to) of X. */
export function longestRows(
  arithmetic: Arithmetic,
  { rows, width, segment: { from, to } }: LongestTask,
): LongRows {
  const squares = new Float64Array(to - from);
  const block = arithmetic.array(BLOCK * width);
  const norms = arithmetic.array(BLOCK);
  for (let start = from; start < to; start += BLOCK) {
    const count = Math.min(BLOCK, to - start);
    block.set(rows.subarray(start * width, (start + count) * width));
    arithmetic.rowDots(count, width, block, block, norms);
    squares.set(norms.subarray(0, count), start - from);
  }
  const found = Array.from(largest(squares, LONGEST), (r) => ({
    row: from + r,
    square: squares[r],
  }));
  return { rows: found, total: squares.reduce((a, b) => a + b, 0) };
}

/** The longest rows of a matrix from those of its parts. */
export function joinLongest(parts: readonly LongRows[]): Int32Array {
  const all = parts.flatMap(({ rows }) => rows);
  all.sort((a, b) => b.square - a.square || a.row - b.row);
  return Int32Array.from(all.slice(0, LONGEST), ({ row }) => row).sort();
}

/** The largest square of a row over the mean one, of n rows in parts. */
export function longestOverMean(parts: readonly LongRows[], n: number): number {
  const largest = Math.max(...parts.flatMap(({ rows }) => rows.map(({ square }) => square)));
  return (n * largest) / parts.reduce((sum, { total }) => sum + total, 0);
}

/** Positions of values, the largest first. */
function descending(values: Float64Array): number[] {
  return Array.from(values.keys()).sort((a, b) => values[b] - values[a]);
}

/** Logarithm of what the features leave out of each row times its weight; and |X_i|^2. */
function residualsOf(
  { arithmetic, head, plan }: Workspace,
  side: 'query' | 'key',
  list: Int32Array,
) {
  const mark = arithmetic.mark();
  const space = openWorkspace(arithmetic, head, judging(plan));
  const rows = judgedRows(space, side, BLOCK);
  const residual = logResiduals(space);
  const norms = arithmetic.array(BLOCK);
  const [residuals, squares] = [new Float64Array(list.length), new Float64Array(list.length)];
  for (let from = 0; from < list.length; from += BLOCK) {
    const count = Math.min(BLOCK, list.length - from);
    rows.load((r) => list[from + r], count);
    const left = residual(rows.coordinates, count);
    for (let r = 0; r < count; r++) residuals[from + r] = left[r] + rows.logs[r];
    arithmetic.rowDots(count, head[side].effective.inputs, rows.inputs, rows.inputs, norms);
    squares.set(norms.subarray(0, count), from);
  }
  arithmetic.release(mark);
  return { residuals, squares };
}

/** Which of the chosen rows of the pool are put aside, as a function of the share of all `length` rows. */
function outliers(
  residuals: Float64Array,
  order: readonly number[],
  weight: Float64Array,
  length: number,
  chosen: readonly number[],
) {
  return (share: number): boolean[] => {
    let left = share * length;
    const first = order.find((r) => {
      left -= weight[r];
      return left < 0;
    });
    const limit = share > 0 && first !== undefined ? residuals[first] : Number.POSITIVE_INFINITY;
    return chosen.map((r) => residuals[r] > limit);
  };
}
