/** The few queries and keys on which plans are tried. */
import { logitNorm } from './basis.js';
import type { Random } from './random.js';
import { type KeyRows, keyRows, type QueryRows, queryRows, type Workspace } from './rows.js';

const QUERIES = 64;
/** Of the queries, those of largest logit norm in the pool are taken for certain. */
const LARGEST_QUERIES = 16;
const KEYS = 1024;
/** Of the keys, those of largest logit norm in the pool are taken for certain. */
const LARGEST_KEYS = 256;
/** Rows among which the sample is chosen, and which tell what an outlier is. */
const POOL = 4096;

export interface TrialSample {
  readonly queries: QueryRows;
  readonly keys: KeyRows;
  readonly outlierQuery: readonly boolean[];
  readonly outlierKey: readonly boolean[];
  /** |X_i|^2 over the expected number of draws. */
  readonly queryWeight: Float64Array;
  /** Keys that each stands for. */
  readonly keyWeight: Float64Array;
}

export function drawTrial(space: Workspace, share: number, random: Random): TrialSample {
  return { ...drawQueries(space, share, random), ...drawKeys(space, share, random) };
}

/**
 * The largest queries of the pool, and others drawn in proportion to |X_i|, which is how much they weigh
 * in a gradient: in heavy tails few rows, whose softmax is concentrated, make most of it.
 */
function drawQueries(space: Workspace, share: number, random: Random) {
  const { arithmetic, head, plan } = space;
  const { inputs } = head.query.effective;
  const list = random.sample(head.queryLength, POOL);
  const mark = arithmetic.mark();
  const pool = queryRows(space, list.length);
  pool.load((r) => list[r], list.length);
  const norms = Array.from(list, (_, r) => logitNorm(pool.x, head.d, plan.balance.sigma, r));
  const sizes = Array.from(list, (_, r) => {
    let sum = 0;
    for (let c = 0; c < inputs; c++) sum += pool.xq[r * inputs + c] ** 2;
    return Math.sqrt(sum);
  });
  arithmetic.release(mark);
  const limit = threshold(norms, share);
  const order = Array.from(norms.keys()).sort((a, b) => norms[b] - norms[a]);
  const n = Math.min(QUERIES, list.length);
  const certain = order.slice(0, Math.min(LARGEST_QUERIES, n));
  const rest = order.slice(certain.length);
  const total = rest.reduce((sum, r) => sum + sizes[r], 0);
  const drawn = Array.from({ length: n - certain.length }, () => {
    let left = random.uniform() * total;
    let at = 0;
    while (at + 1 < rest.length && left >= sizes[rest[at]]) left -= sizes[rest[at++]];
    return rest[at];
  });
  const chosen = [...certain, ...drawn];
  const rows = Int32Array.from(chosen, (r) => list[r]);
  const queryWeight = Float64Array.from(chosen, (r, i) =>
    i < certain.length ? sizes[r] ** 2 : (sizes[r] * total) / drawn.length,
  );
  const outlierQuery = chosen.map((r) => norms[r] > limit);
  const queries = queryRows(space, n);
  queries.load((r) => rows[r], n);
  return { queries, queryWeight, outlierQuery };
}

/** The largest keys of the pool, and a uniform sample of the others. */
function drawKeys(space: Workspace, share: number, random: Random) {
  const { arithmetic, head, plan } = space;
  const list = random.sample(head.keyLength, POOL);
  const mark = arithmetic.mark();
  const pool = keyRows(space, list.length);
  pool.load((r) => list[r], list.length);
  const norms = Array.from(list, (_, r) => logitNorm(pool.z, head.d, plan.balance.sigma, r));
  arithmetic.release(mark);
  const limit = threshold(norms, share);
  const order = Array.from(norms.keys()).sort((a, b) => norms[b] - norms[a]);
  const largest = order.slice(0, LARGEST_KEYS);
  const rest = order.slice(LARGEST_KEYS);
  const others = Array.from(random.sample(rest.length, KEYS - LARGEST_KEYS), (i) => rest[i]);
  const chosen = [...largest, ...others];
  const each = head.keyLength / list.length;
  const keyWeight = Float64Array.from(chosen, (_, j) =>
    j < largest.length ? each : (each * rest.length) / others.length,
  );
  const keys = keyRows(space, chosen.length);
  keys.load((r) => list[chosen[r]], chosen.length);
  return { keys, keyWeight, outlierKey: chosen.map((r) => norms[r] > limit) };
}

/** The norm above which a row is put aside. */
function threshold(norms: readonly number[], share: number): number {
  const aside = Math.floor(share * norms.length);
  if (aside === 0) return Number.POSITIVE_INFINITY;
  return norms.slice().sort((a, b) => b - a)[aside];
}
