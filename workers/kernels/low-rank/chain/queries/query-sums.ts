/**
 * What the pass over the queries adds up: gradients that are sums over query rows, columns of outlier keys, and
 * what the blocks on the diagonal have of each other under a causal mask.
 */
import type { TensorData } from '../../../../tensor/tensor.js';
import type { Real } from '../../arithmetic/arithmetic.js';
import { BLOCK } from '../../head/block.js';
import { fullWidth } from '../../head/head.js';
import type { Layout } from '../../head/layout.js';
import type { WeightedFeatures } from '../../head/rows/weighted-features.js';
import type { Workspace } from '../../head/workspace.js';
import { type DenseColumns, denseColumns } from '../dense.js';
import { wholeVectors } from '../exact-block.js';
import { fullSums } from '../full.js';
import { keyColumns } from '../keys.js';
import type { HeadRun } from '../run.js';
import type { WideSums } from '../wide.js';
import type { QueryBlock } from './query-block.js';

/**
 * d lora_A_Q += (dS K B_Q)'X^Q, d lora_B_K += Q'(dS X^K A_K'), d lora_B_V += G'(P X^V A_V'). At full width both
 * gradients of the queries come from dS K, and what is of keys or values from the third pass.
 */
export function gradientSums(space: Workspace, at: Layout, run: HeadRun) {
  const { arithmetic, head } = space;
  const { d, dv, query, key } = head;
  const full = fullWidth(head);
  const queries = full.query ? fullSums(space, at, 'query', run.inputs?.query ?? null) : null;
  const sizes = at.gradientSizes;
  const sums = [0, 3, 5].map((t) => arithmetic.array(sizes[t]));
  const totals = [0, 3, 5].map((t) => arithmetic.sums(sizes[t]));
  const thin = arithmetic.array(BLOCK * Math.max(query.rank, key.rank, 1));
  const thinQuery = !full.scores && query.rank > 0;
  const thinKey = !full.scores && key.rank > 0;
  const width = at.right;
  return {
    add(block: QueryBlock): void {
      const { rows, right, rightValue, gradient } = block;
      const n = rows.count;
      queries?.add({ ...rows, x: rows.xq }, right);
      if (thinQuery) {
        arithmetic.copyColumns(n, query.rank, right, width, 0, thin, query.rank, 0);
        arithmetic.transposedGemm(
          query.rank,
          query.effective.inputs,
          n,
          thin,
          rows.xq,
          sums[0],
          true,
        );
        arithmetic.fold(sizes[0], sums[0], totals[0]);
      }
      if (thinKey) {
        arithmetic.copyColumns(n, key.rank, right, width, query.rank, thin, key.rank, 0);
        arithmetic.transposedGemm(d, key.rank, n, rows.q, thin, sums[1], true);
        arithmetic.fold(sizes[3], sums[1], totals[1]);
      }
      if (at.rv > 0) {
        arithmetic.transposedGemm(dv, at.rv, n, gradient, rightValue, sums[2], true);
        arithmetic.fold(sizes[5], sums[2], totals[2]);
      }
    },
    save(slot: Float64Array): void {
      [0, 3, 5].forEach((t, i) => {
        slot.set(totals[i].subarray(0, sizes[t]), at.gradientAt[t]);
      });
      queries?.save(slot);
    },
  };
}

export function openOutlierKeys(space: Workspace, certified: boolean): DenseColumns | null {
  const list = space.plan.outlierKeys;
  if (list.length === 0) return null;
  const columns = denseColumns(space, list.length, certified);
  columns.load((r) => list[r], list.length);
  return columns;
}

/** dS'L and P'(G B_V) of the columns (count, left + lv). */
export function saveColumns(at: Layout, columns: DenseColumns, slot: TensorData): void {
  const { left, lv } = at;
  const width = left + lv;
  const [wideLeft, wideValue] = [wholeVectors(left), wholeVectors(lv)];
  for (let j = 0; j < columns.count; j++) {
    const to = j * width;
    for (let c = 0; c < left; c++) slot[to + c] = columns.left[j * wideLeft + c];
    for (let c = 0; c < lv; c++) slot[to + left + c] = columns.leftValue[j * wideValue + c];
  }
}

/** Under a causal mask: the exact diagonal block, after which its keys join the running key sums. */
export function openDiagonal(
  space: Workspace,
  at: Layout,
  features: WeightedFeatures,
  phi: Real,
  state: Real,
  wide: WideSums | null,
) {
  const { arithmetic, head, plan } = space;
  const columns = denseColumns(space, BLOCK, false, (keys, j) => space.isOutlierKey(keys.index[j]));
  const right = arithmetic.array(BLOCK * at.keyWidth);
  const wideState = state.subarray(plan.m * at.keyWidth);
  return {
    load(start: number): DenseColumns {
      columns.load((r) => start + r, Math.max(0, Math.min(BLOCK, head.keyLength - start)));
      return columns;
    },
    advance(): void {
      const { keys } = columns;
      if (keys.count === 0) return;
      keyColumns(space, at, keys, right, false);
      features(keys.z, keys.count, (r) => Math.exp(keys.logWeight[r]), phi);
      arithmetic.gemm(plan.m, at.keyWidth, BLOCK, phi, right, state, true);
      wide?.add(phi, keys.v, keys.u, wideState);
    },
    save(run: HeadRun, start: number): void {
      saveColumns(at, columns, run.causal!.left.subarray(start * (at.left + at.lv)));
    },
  };
}
