/**
 * Blocks of keys, projected when they are needed.
 *
 * Nothing of the size of Q, K or V is kept: a block is a few products with small matrices, cheap beside the chain, and
 * a million rows then cost no memory but the inputs.
 */
import type { Real } from '../../arithmetic/arithmetic.js';
import { apply, gather, load, minus } from '../affine.js';
import { fullWidth } from '../head.js';
import { layout } from '../layout.js';
import type { Workspace } from '../workspace.js';
import { coordinates } from './coordinates.js';
import { keyBias, keyCentre } from './key-centre.js';
import { type Rotation, rotation } from './rotation.js';

/** Everything about a block of keys; rows of `capacity`, the first `count` of them filled. */
export interface KeyRows {
  count: number;
  readonly index: Int32Array;
  /** X^K - centre, under rotary positions X^K; and X^V (capacity, inputs). */
  readonly xk: Real;
  readonly xv: Real;
  /** K - centre (capacity, d) and V - centre (capacity, dv). */
  readonly k: Real;
  readonly v: Real;
  /** Balanced coordinates (capacity, d); zero for outliers. */
  readonly z: Real;
  /**
   * U = [(K - centre) B_Q | (X^K - centre) A_K'] (capacity, r_q + r_k); at full width K - centre in the
   * directions of the cross (capacity, d).
   */
  readonly u: Real;
  /** The inputs xk A_K' (capacity, r_k), at full width. */
  readonly low: Real;
  /** X^V A_V' (capacity, r_v). */
  readonly va: Real;
  /** Rotation of these rows, to rotate gradients back. */
  readonly rotation: Rotation | null;
  /** log w_j, the weight beside the features; -infinity for outliers. */
  readonly logWeight: Float64Array;
  load(rows: (r: number) => number, count: number): void;
}

/**
 * What is formed of keys. For features, K is not, and U comes from the coordinates; that of outliers is 0. For exact
 * rows of P, neither coordinates nor weights nor U are.
 */
type KeyParts = 'all' | 'features' | 'exact';

export function keyRows(space: Workspace, capacity: number, parts: KeyParts = 'all'): KeyRows {
  const { arithmetic, head, plan } = space;
  const { d, dv, key, value } = head;
  const { balance } = plan;
  const [inK, inV] = [key.effective.inputs, value.effective.inputs];
  const rotary = rotation(arithmetic, head, capacity);
  const minusCentre = minus(arithmetic, balance.centreK);
  const centreInputs = keyCentre(space);
  const toK = load(arithmetic, inK, d, key.effective.weight, keyBias(head));
  // centreV is the projection of centreXV: centred before it is projected, a row loses no digits.
  const minusXV = minus(arithmetic, plan.centreXV);
  const centredV = arithmetic.array(capacity * inV);
  const toV = load(arithmetic, inV, dv, value.effective.weight);
  const fromK = parts !== 'features';
  const factors = keyFactors(space, capacity, fromK);
  const toVA = load(arithmetic, inV, value.rank, value.down);
  const judged = coordinates(space, 'key', capacity);
  const block: KeyRows = {
    count: 0,
    index: new Int32Array(capacity),
    xk: arithmetic.array(capacity * inK),
    xv: arithmetic.array(capacity * inV),
    k: arithmetic.array(capacity * d),
    v: arithmetic.array(capacity * dv),
    z: judged.rows,
    u: factors.u,
    low: factors.low,
    va: arithmetic.array(capacity * value.rank),
    rotation: rotary,
    logWeight: judged.logs,
    load(rows, count) {
      block.count = count;
      for (let r = 0; r < count; r++) block.index[r] = rows(r);
      gather(key.rows, inK, rows, count, block.xk);
      gather(value.rows, inV, rows, count, block.xv);
      centreInputs(count, block.xk);
      if (fromK) apply(arithmetic, count, toK, block.xk, block.k);
      if (rotary) {
        rotary.load(rows, count);
        rotary.forwards(count, block.k);
      }
      if (fromK) arithmetic.addRow(count, d, minusCentre, block.k);
      arithmetic.combine(count * inV, 1, block.xv, 0, centredV);
      arithmetic.addRow(count, inV, minusXV, centredV);
      apply(arithmetic, count, toV, centredV, block.v);
      apply(arithmetic, count, toVA, block.xv, block.va);
      if (parts === 'exact') return;
      judged.load(block.index, count, block.xk, block.k);
      factors.load(count, fromK ? block.k : block.z, block.xk);
    },
  };
  return block;
}

/** U of a block of keys, and at full width X^K A_K'. */
function keyFactors(space: Workspace, capacity: number, fromK: boolean) {
  const { arithmetic, head, plan } = space;
  const { d, key, query } = head;
  const { right } = layout(head);
  const inK = key.effective.inputs;
  const u = arithmetic.array(capacity * right);
  if (fullWidth(head).scores) {
    const hyperbolicCross = plan.hyperbolicCross.right;
    const toU = hyperbolicCross && load(arithmetic, d, d, hyperbolicCross.vectors);
    const toLow = load(arithmetic, inK, key.rank, key.down);
    const low = arithmetic.array(capacity * key.rank);
    return {
      u,
      low,
      load(count: number, k: Real, xk: Real): void {
        if (toU) apply(arithmetic, count, toU, k, u);
        apply(arithmetic, count, toLow, xk, low);
      },
    };
  }
  const up = fromK ? query.up : fromCoordinates(space);
  const toKB = load(arithmetic, d, query.rank, up);
  const toXA = load(arithmetic, inK, key.rank, key.down);
  const kb = arithmetic.array(capacity * query.rank);
  const xa = arithmetic.array(capacity * key.rank);
  return {
    u,
    low: arithmetic.array(0),
    load(count: number, k: Real, xk: Real): void {
      apply(arithmetic, count, toKB, k, kb);
      apply(arithmetic, count, toXA, xk, xa);
      arithmetic.copyColumns(count, query.rank, kb, query.rank, 0, u, right, 0);
      arithmetic.copyColumns(count, key.rank, xa, key.rank, 0, u, right, query.rank);
    },
  };
}

/**
 * The matrix (d, r_q) from coordinates of keys to (K - centre) B_Q: beta q.(k - centre) = sum_a sigma_a (q T)_a z_a
 * for the transform T of the queries and any q, such as a column of B_Q.
 */
function fromCoordinates({ head, plan }: Workspace): Float64Array {
  const { d, beta, query } = head;
  const { transformQ, sigma } = plan.balance;
  const matrix = new Float64Array(d * query.rank);
  for (let i = 0; i < d; i++) {
    for (let a = 0; a < d; a++) {
      const factor = (sigma[a] * transformQ[i * d + a]) / beta;
      for (let c = 0; c < query.rank; c++) {
        matrix[a * query.rank + c] += factor * query.up[i * query.rank + c];
      }
    }
  }
  return matrix;
}
