/**
 * Balanced coordinates of rows, and the factor between the product of their features and exp(score):
 * all that is needed of rows that are only judged.
 *
 * They come straight from the inputs, x = X (W T) + .., so that Q and K need not be formed where nothing
 * else asks for them. Under rotary positions a rotation stands between W and T.
 */

import type { Real } from '../../arithmetic/arithmetic.js';
import { gFactors, logC } from '../../features/evaluate.js';
import { apply, gather, load, loadComposed, minusProduct, times } from '../affine.js';
import type { Workspace } from '../workspace.js';
import { keyBias, keyCentre } from './key-centre.js';
import { rotation } from './rotation.js';

export interface Coordinates {
  /** (capacity, d); zero for outliers. */
  readonly rows: Real;
  /**
   * Of queries the log of the factor between phi(q).phi(k) w and exp(score), of keys log w_j, the
   * weight beside the features; -infinity for outliers.
   */
  readonly logs: Float64Array;
}

type Side = 'query' | 'key';

/**
 * @returns load: from rows X of the input, and under rotary positions Q or K - centre of the same rows,
 *   rotated.
 */
export function coordinates(space: Workspace, side: Side, capacity: number) {
  const { arithmetic, head, plan } = space;
  const { d, rotary } = head;
  const { balance, features } = plan;
  const { effective } = head[side];
  const isQuery = side === 'query';
  const bias = isQuery ? effective.bias : keyBias(head);
  const [centre, transform] = isQuery
    ? [balance.centreQ, balance.transformQ]
    : [balance.centreK, balance.transformK];
  const uncentred = isQuery ? minusProduct(centre, transform, d) : null;
  const map = rotary
    ? load(arithmetic, d, d, transform, uncentred)
    : loadComposed(arithmetic, { ...effective, bias }, centre, transform);
  const isOutlier = isQuery ? space.isOutlierQuery : space.isOutlierKey;
  const aside = (isQuery ? plan.outlierQueries : plan.outlierKeys).length > 0;
  // Mehler's formula multiplies a row by g; Q - c multiplies column j by exp(beta c.k_j), where
  // beta c.(k_j - centre) = sum_a sigma_a (c T)_a z_ja.
  const linear = arithmetic.sums(d);
  if (!isQuery) {
    const shift = times(balance.centreQ, balance.transformQ, d);
    for (let a = 0; a < d; a++) linear[a] = balance.sigma[a] * shift[a];
  }
  const quadratic = arithmetic.sums(d);
  quadratic.set(gFactors(features));
  const constant = isQuery ? logC(features) + plan.logWeightShift : -plan.logWeightShift;
  const sums = arithmetic.sums(capacity);
  const result: Coordinates = {
    rows: arithmetic.array(capacity * d),
    logs: new Float64Array(capacity),
  };
  return {
    ...result,
    load(index: Int32Array, count: number, x: Real, rotated: Real | null): void {
      const { rows, logs } = result;
      apply(arithmetic, count, map, rotary ? rotated! : x, rows);
      for (let r = 0; aside && r < count; r++) {
        if (isOutlier(index[r])) rows.fill(0, r * d, (r + 1) * d);
      }
      arithmetic.forms(count, d, rows, linear, quadratic, sums);
      for (let r = 0; r < count; r++) {
        logs[r] = aside && isOutlier(index[r]) ? -Infinity : constant + sums[r];
      }
    },
  };
}

/** Rows of one side that are only judged: their coordinates and nothing else. */
export function judgedRows(space: Workspace, side: Side, capacity: number) {
  const { arithmetic, head, plan } = space;
  const { d } = head;
  const { rows: source, effective } = head[side];
  const width = effective.inputs;
  const found = coordinates(space, side, capacity);
  const index = new Int32Array(capacity);
  const x = arithmetic.array(capacity * width);
  const rotary = rotation(arithmetic, head, capacity);
  const project = rotary && load(arithmetic, width, d, effective.weight, effective.bias);
  const centreInputs = side === 'key' ? keyCentre(space) : null;
  const projected = rotary && arithmetic.array(capacity * d);
  const minusCentre = arithmetic.array(d);
  if (side === 'key') minusCentre.set(plan.balance.centreK.map((c) => -c));
  return {
    /** X (capacity, inputs), of keys as keyCentre leaves it. */
    inputs: x,
    coordinates: found.rows,
    logs: found.logs,
    load(rows: (r: number) => number, count: number): void {
      for (let r = 0; r < count; r++) index[r] = rows(r);
      gather(source, width, rows, count, x);
      centreInputs?.(count, x);
      if (rotary) {
        apply(arithmetic, count, project!, x, projected!);
        rotary.load(rows, count);
        rotary.forwards(count, projected!);
        arithmetic.addRow(count, d, minusCentre, projected!);
      }
      found.load(index, count, x, projected);
    },
  };
}
