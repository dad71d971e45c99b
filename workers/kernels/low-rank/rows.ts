/**
 * Blocks of rows, projected when they are needed.
 *
 * Nothing of the size of Q, K or V is kept: a block is a few products with small matrices, cheap beside
 * the chain of chain.ts, and a million rows then cost no memory but the inputs.
 */
import type { Arithmetic, Packed, Real } from './arithmetic.js';
import { BLOCK } from './block.js';
import { evaluateFeatures, type FeatureBlock, featureBlock, gFactors, logC } from './evaluate.js';
import { type Affine, fullWidth, type Head } from './head.js';
import type { HeadPlan } from './head-plan.js';
import { layout } from './layout.js';
import { type Rotation, rotation } from './rotation.js';

export { BLOCK };

/** A matrix in the arithmetic's own memory, with a row added before the product. */
interface Loaded {
  readonly inputs: number;
  readonly outputs: number;
  readonly weight: Packed;
  readonly bias: Real | null;
}

export interface Workspace {
  readonly arithmetic: Arithmetic;
  readonly head: Head;
  readonly plan: HeadPlan;
  readonly isOutlierQuery: (row: number) => boolean;
  readonly isOutlierKey: (row: number) => boolean;
  readonly features: FeatureBlock;
  readonly tail: FeatureBlock | null;
  readonly weights: Float64Array;
}

/** `evaluated`: features that are evaluated, the m used by default; the certificate wants all. */
export function openWorkspace(
  arithmetic: Arithmetic,
  head: Head,
  plan: HeadPlan,
  evaluated = plan.m,
): Workspace {
  return {
    arithmetic,
    head,
    plan,
    isOutlierQuery: membership(plan.outlierQueries),
    isOutlierKey: membership(plan.outlierKeys),
    features: featureBlock(arithmetic, plan.features, BLOCK, evaluated),
    tail: plan.tail && featureBlock(arithmetic, plan.tail.features, BLOCK),
    weights: arithmetic.sums(BLOCK),
  };
}

function membership(rows: Int32Array): (row: number) => boolean {
  const set = new Set(rows);
  return (row) => set.has(row);
}

function load(
  arithmetic: Arithmetic,
  inputs: number,
  outputs: number,
  weight: Float64Array,
  bias: Float64Array | null = null,
): Loaded {
  const row = bias && arithmetic.array(outputs);
  row?.set(bias!);
  return { inputs, outputs, weight: arithmetic.pack(inputs, outputs, weight), bias: row };
}

/** y (n, outputs) = x (n, inputs) weight + bias. */
function apply(arithmetic: Arithmetic, n: number, map: Loaded, x: Real, y: Real): void {
  const { outputs, weight, bias } = map;
  if (outputs === 0) return;
  arithmetic.product(n, x, weight, y);
  if (bias) arithmetic.addRow(n, outputs, bias, y);
}

/** bias - centre, so that a projected row comes out centred. */
function centred(map: Affine, centre: Float64Array): Float64Array {
  return map.bias.map((b, a) => b - centre[a]);
}

/** -(row times matrix): the bias that centres the product of centred rows. */
function minusProduct(row: Float64Array, matrix: Float64Array, outputs: number): Float64Array {
  const out = new Float64Array(outputs);
  for (let a = 0; a < row.length; a++) {
    for (let c = 0; c < outputs; c++) out[c] -= row[a] * matrix[a * outputs + c];
  }
  return out;
}

/** Copies rows of x (n, width) into a block; rows past `count` are zeroed. */
function gather(
  x: Real,
  width: number,
  rows: (r: number) => number,
  count: number,
  to: Real,
  offset = 0,
  stride = width,
): void {
  // Neighbouring rows are one copy.
  let together = stride === width && count > 0;
  for (let r = 1; r < count && together; r++) together = rows(r) === rows(0) + r;
  if (together) {
    to.set(x.subarray(rows(0) * width, (rows(0) + count) * width));
    return;
  }
  for (let r = 0; r < count; r++) {
    const from = rows(r) * stride + offset;
    to.set(x.subarray(from, from + width), r * width);
  }
}

/** Everything about a block of keys; rows of `capacity`, the first `count` of them filled. */
export interface KeyRows {
  count: number;
  readonly index: Int32Array;
  /** X^K and X^V (capacity, inputs). */
  readonly xk: Real;
  readonly xv: Real;
  /** K - centre (capacity, d), V - centre (capacity, dv). */
  readonly k: Real;
  readonly v: Real;
  /** Balanced coordinates (capacity, d); zero for outliers. */
  readonly z: Real;
  /**
   * U = [(K - centre) B_Q | (X^K - centre) A_K'] (capacity, r_q + r_k); at full width K - centre in the
   * directions of the cross (capacity, d).
   */
  readonly u: Real;
  /** X^K A_K' (capacity, r_k), at full width. */
  readonly low: Real;
  /** X^V A_V' (capacity, r_v). */
  readonly va: Real;
  /** Of these rows, for those who turn gradients back. */
  readonly rotation: Rotation | null;
  /** log w_j, the weight beside the features; -infinity for outliers. */
  readonly logWeight: Float64Array;
  load(rows: (r: number) => number, count: number): void;
}

export function keyRows(space: Workspace, capacity: number): KeyRows {
  const { arithmetic, head, plan } = space;
  const { d, dv, key, value, beta } = head;
  const { balance, features } = plan;
  const [inK, inV] = [key.effective.inputs, value.effective.inputs];
  const turn = rotation(arithmetic, head, capacity);
  const minusCentre = arithmetic.array(d);
  minusCentre.set(balance.centreK.map((x) => -x));
  const bias = turn ? key.effective.bias : centred(key.effective, balance.centreK);
  const toK = load(arithmetic, inK, d, key.effective.weight, bias);
  const toV = load(
    arithmetic,
    inV,
    dv,
    value.effective.weight,
    centred(value.effective, plan.centreV),
  );
  const toZ = load(arithmetic, d, d, balance.transformK);
  const factors = keyFactors(space, capacity);
  const toVA = load(arithmetic, inV, value.rank, value.down);
  const aside = plan.outlierKeys.length > 0;
  const none = arithmetic.sums(d);
  const g = arithmetic.sums(d);
  g.set(gFactors(features));
  const shift = arithmetic.sums(d);
  for (let a = 0; a < d; a++) shift[a] = beta * balance.centreQ[a];
  const [shifts, logs] = [arithmetic.sums(capacity), arithmetic.sums(capacity)];
  const block: KeyRows = {
    count: 0,
    index: new Int32Array(capacity),
    xk: arithmetic.array(capacity * inK),
    xv: arithmetic.array(capacity * inV),
    k: arithmetic.array(capacity * d),
    v: arithmetic.array(capacity * dv),
    z: arithmetic.array(capacity * d),
    u: factors.u,
    low: factors.low,
    va: arithmetic.array(capacity * value.rank),
    rotation: turn,
    logWeight: new Float64Array(capacity),
    load(rows, count) {
      block.count = count;
      for (let r = 0; r < count; r++) block.index[r] = rows(r);
      gather(key.rows, inK, rows, count, block.xk);
      gather(value.rows, inV, rows, count, block.xv);
      apply(arithmetic, count, toK, block.xk, block.k);
      if (turn) {
        turn.load(rows, count);
        turn.forwards(count, block.k);
        arithmetic.addRow(count, d, minusCentre, block.k);
      }
      apply(arithmetic, count, toV, block.xv, block.v);
      apply(arithmetic, count, toZ, block.k, block.z);
      factors.load(count, block.k, block.xk);
      apply(arithmetic, count, toVA, block.xv, block.va);
      for (let r = 0; aside && r < count; r++) {
        if (space.isOutlierKey(block.index[r])) block.z.fill(0, r * d, (r + 1) * d);
      }
      // Q - c multiplies column j by exp(beta c.k_j); Mehler's formula multiplies it by g(z_j).
      arithmetic.forms(count, d, block.k, shift, none, shifts);
      arithmetic.forms(count, d, block.z, none, g, logs);
      for (let r = 0; r < count; r++) {
        const outlier = aside && space.isOutlierKey(block.index[r]);
        block.logWeight[r] = outlier ? -Infinity : shifts[r] + logs[r] - plan.logWeightShift;
      }
    },
  };
  return block;
}

/** U of a block of keys, and at full width X^K A_K'. */
function keyFactors(space: Workspace, capacity: number) {
  const { arithmetic, head, plan } = space;
  const { d, key, query } = head;
  const { right } = layout(head);
  const inK = key.effective.inputs;
  const u = arithmetic.array(capacity * right);
  if (fullWidth(head).scores) {
    const cross = plan.cross.right;
    const toU = cross && load(arithmetic, d, d, cross.vectors);
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
  const toKB = load(arithmetic, d, query.rank, query.up);
  const toXA = load(
    arithmetic,
    inK,
    key.rank,
    key.down,
    minusProduct(plan.centreXK, key.down, key.rank),
  );
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

export interface QueryRows {
  count: number;
  readonly index: Int32Array;
  readonly xq: Real;
  /** Q, as it is (capacity, d). */
  readonly q: Real;
  /** beta Q: its products with K - centre are the scores, up to a constant of the row. */
  readonly scaled: Real;
  readonly x: Real;
  /**
   * L = [X^Q A_Q' | Q B_K] (capacity, r_q + r_k); at full width Q in the directions of the cross
   * (capacity, d).
   */
  readonly l: Real;
  /** X^Q A_Q' (capacity, r_q), at full width. */
  readonly low: Real;
  readonly rotation: Rotation | null;
  /** Y or G (capacity, dv). */
  readonly objective: Real;
  /** log of the factor between phi(q).phi(k) w and exp(score); -infinity for outliers. */
  readonly logScale: Float64Array;
  load(rows: (r: number) => number, count: number): void;
}

export function queryRows(space: Workspace, capacity: number): QueryRows {
  const { arithmetic, head, plan } = space;
  const { d, dv, query, beta } = head;
  const { balance, features } = plan;
  const inQ = query.effective.inputs;
  const turn = rotation(arithmetic, head, capacity);
  const toQ = load(arithmetic, inQ, d, query.effective.weight, query.effective.bias);
  const minusCentre = minusProduct(balance.centreQ, balance.transformQ, d);
  const toX = load(arithmetic, d, d, balance.transformQ, minusCentre);
  const factors = queryFactors(space, capacity);
  const constant = logC(features) + plan.logWeightShift;
  const aside = plan.outlierQueries.length > 0;
  const none = arithmetic.sums(d);
  const g = arithmetic.sums(d);
  g.set(gFactors(features));
  const logs = arithmetic.sums(capacity);
  const block: QueryRows = {
    count: 0,
    index: new Int32Array(capacity),
    xq: arithmetic.array(capacity * inQ),
    q: arithmetic.array(capacity * d),
    scaled: arithmetic.array(capacity * d),
    x: arithmetic.array(capacity * d),
    l: factors.l,
    low: factors.low,
    rotation: turn,
    objective: arithmetic.array(capacity * dv),
    logScale: new Float64Array(capacity),
    load(rows, count) {
      block.count = count;
      for (let r = 0; r < count; r++) block.index[r] = rows(r);
      gather(query.rows, inQ, rows, count, block.xq);
      const known = head.objective.length > 0 ? count : 0;
      gather(
        head.objective,
        dv,
        rows,
        known,
        block.objective,
        head.objectiveOffset,
        head.objectiveStride,
      );
      apply(arithmetic, count, toQ, block.xq, block.q);
      turn?.load(rows, count);
      turn?.forwards(count, block.q);
      arithmetic.combine(count * d, beta, block.q, 0, block.scaled);
      apply(arithmetic, count, toX, block.q, block.x);
      factors.load(count, block.q, block.xq);
      for (let r = 0; aside && r < count; r++) {
        if (space.isOutlierQuery(block.index[r])) block.x.fill(0, r * d, (r + 1) * d);
      }
      arithmetic.forms(count, d, block.x, none, g, logs);
      for (let r = 0; r < count; r++) {
        const outlier = aside && space.isOutlierQuery(block.index[r]);
        block.logScale[r] = outlier ? -Infinity : constant + logs[r];
      }
    },
  };
  return block;
}

/** L of a block of queries, and at full width X^Q A_Q'. */
function queryFactors(space: Workspace, capacity: number) {
  const { arithmetic, head, plan } = space;
  const { d, key, query } = head;
  const { left } = layout(head);
  const toXA = load(arithmetic, query.effective.inputs, query.rank, query.down);
  const xa = arithmetic.array(capacity * query.rank);
  const l = arithmetic.array(capacity * left);
  if (fullWidth(head).scores) {
    const cross = plan.cross.left;
    const toL = cross && load(arithmetic, d, d, cross.vectors);
    return {
      l,
      low: xa,
      load(count: number, q: Real, xq: Real): void {
        if (toL) apply(arithmetic, count, toL, q, l);
        apply(arithmetic, count, toXA, xq, xa);
      },
    };
  }
  const toQB = load(arithmetic, d, key.rank, key.up);
  const qb = arithmetic.array(capacity * key.rank);
  return {
    l,
    low: arithmetic.array(0),
    load(count: number, q: Real, xq: Real): void {
      apply(arithmetic, count, toXA, xq, xa);
      apply(arithmetic, count, toQB, q, qb);
      arithmetic.copyColumns(count, query.rank, xa, query.rank, 0, l, left, 0);
      arithmetic.copyColumns(count, key.rank, qb, key.rank, 0, l, left, query.rank);
    },
  };
}

/**
 * The features of a block of rows and behind them those of the tail, weighted, in the arithmetic's
 * precision: phi (featureRows, BLOCK), rows past count and rows of weight 0 are 0.
 */
export function weightedFeatures(
  space: Workspace,
  coordinates: Real,
  count: number,
  weight: (r: number) => number,
  phi: Real,
): void {
  const { arithmetic, head, plan, features, tail, weights } = space;
  evaluateFeatures(arithmetic, coordinates, head.d, features);
  weights.fill(0);
  for (let r = 0; r < count; r++) weights[r] = weight(r);
  arithmetic.weighFeatures(plan.m, BLOCK, features.phi, weights, phi);
  if (!tail) return;
  evaluateFeatures(arithmetic, coordinates, head.d, tail);
  const { count: drawn } = plan.tail!;
  const last = tail.phi.subarray((tail.size - drawn) * BLOCK);
  arithmetic.weighFeatures(drawn, BLOCK, last, weights, phi.subarray(plan.m * BLOCK));
}
