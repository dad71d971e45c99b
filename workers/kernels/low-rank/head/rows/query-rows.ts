/** Blocks of queries, projected when they are needed: see key-rows.ts. */
import type { Real } from '../../arithmetic/arithmetic.js';
import { apply, gather, load } from '../affine.js';
import { fullWidth } from '../head.js';
import { layout } from '../layout.js';
import type { Workspace } from '../workspace.js';
import { coordinates } from './coordinates.js';
import { type Rotation, rotation } from './rotation.js';

export interface QueryRows {
  count: number;
  readonly index: Int32Array;
  readonly xq: Real;
  /** Q, as it is (capacity, d), unless it is not wanted. */
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

/** @param wanted false: Q itself is not formed, nor what comes from it; without keys' adapter and rotation. */
export function queryRows(space: Workspace, capacity: number, wanted = true): QueryRows {
  const { arithmetic, head } = space;
  const { d, dv, query, beta } = head;
  const inQ = query.effective.inputs;
  const rotary = rotation(arithmetic, head, capacity);
  const toQ = load(arithmetic, inQ, d, query.effective.weight, query.effective.bias);
  const factors = queryFactors(space, capacity);
  const judged = coordinates(space, 'query', capacity);
  const block: QueryRows = {
    count: 0,
    index: new Int32Array(capacity),
    xq: arithmetic.array(capacity * inQ),
    q: arithmetic.array(capacity * d),
    scaled: arithmetic.array(capacity * d),
    x: judged.rows,
    l: factors.l,
    low: factors.low,
    rotation: rotary,
    objective: arithmetic.array(capacity * dv),
    logScale: judged.logs,
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
      if (wanted) {
        apply(arithmetic, count, toQ, block.xq, block.q);
        rotary?.load(rows, count);
        rotary?.forwards(count, block.q);
        arithmetic.combine(count * d, beta, block.q, 0, block.scaled);
      }
      judged.load(block.index, count, block.xq, block.q);
      factors.load(count, block.q, block.xq);
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
    const hyperbolicCross = plan.hyperbolicCross.left;
    const toL = hyperbolicCross && load(arithmetic, d, d, hyperbolicCross.vectors);
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
