/** Rows of P as the chain has them, for the sampled rows. */
import type { Real } from '../../arithmetic/arithmetic.js';
import type { MergedRows } from '../../chain/keys.js';
import { type HeadRun, recordWidth } from '../../chain/run.js';
import { evaluateFeatures, featureBlock } from '../../features/evaluate.js';
import { BLOCK } from '../../head/block.js';
import type { KeyRows } from '../../head/rows/key-rows.js';
import type { QueryRows } from '../../head/rows/query-rows.js';
import type { Workspace } from '../../head/workspace.js';
import type { ComparedGradient } from './sampled-run.js';

/** Rows of P~ (n, count) of the chain: a function of a block of keys and its exact rows. */
export function chainRows(space: Workspace, run: HeadRun, state: ComparedGradient) {
  const { arithmetic, plan } = space;
  const { rows } = state;
  const rowMajor = rowFeatures(space, rows, run);
  const phi = arithmetic.array(plan.m * BLOCK);
  return (keys: KeyRows, exact: Real, approximate: Real): void => {
    keyFeatures(space, keys, phi);
    arithmetic.gemm(rows.count, BLOCK, plan.m, rowMajor, phi, approximate);
    approximateRows(space, run, state, keys, exact, approximate);
  };
}

/** Factor between exp(score - max) and a row of P~ of sampled row i where the chain is exact. */
function overChainSum(
  { sampledRows, head }: Pick<HeadRun, 'sampledRows' | 'head'>,
  { max, inverse }: MergedRows,
  i: number,
): number {
  const [logScale, chainMax, total] = sampledRows.subarray(i * recordWidth(head));
  // The row of an outlier is exact as a whole.
  return logScale === -Infinity ? inverse[i] : Math.exp(max[i] - chainMax) / total;
}

/** phi (n, m) of the sampled rows, times the low-rank scale over the row sum that the chain had. */
export function rowFeatures(
  space: Workspace,
  rows: QueryRows,
  run: Pick<HeadRun, 'sampledRows'>,
): Real {
  const { arithmetic, head, plan } = space;
  const n = rows.count;
  const out = arithmetic.array(n * plan.m);
  const mark = arithmetic.mark();
  const block = featureBlock(arithmetic, plan.features, 4 * Math.ceil(n / 4), plan.m);
  evaluateFeatures(arithmetic, rows.x, head.d, block);
  for (let i = 0; i < n; i++) {
    const [logScale, max, total] = run.sampledRows.subarray(i * recordWidth(head));
    const weight = Math.exp(logScale - max) / total;
    for (let f = 0; f < plan.m; f++) out[i * plan.m + f] = weight * block.phi[f * block.rows + i];
  }
  arithmetic.release(mark);
  return out;
}

/** w phi (m, BLOCK) of a block of keys. */
export function keyFeatures(space: Workspace, keys: KeyRows, phi: Real): void {
  const { arithmetic, head, plan, features, weights } = space;
  evaluateFeatures(arithmetic, keys.z, head.d, features);
  weights.fill(0);
  for (let r = 0; r < keys.count; r++) weights[r] = Math.exp(keys.logWeight[r]);
  arithmetic.weighFeatures(plan.m, BLOCK, features.phi, weights, phi);
}

/**
 * Turns the low-rank block approximate (n, BLOCK) into rows of P~ (n, count): exact where the chain was
 * exact (outlier rows and columns, diagonal blocks), with the row sums of the chain.
 */
export function approximateRows(
  space: Workspace,
  run: Pick<HeadRun, 'sampledRows' | 'head'>,
  state: ComparedGradient,
  keys: KeyRows,
  exact: Real,
  approximate: Real,
): void {
  const { head } = space;
  const { rows } = state;
  const { count } = keys;
  // In place: the source is BLOCK wide, the result count wide, so nothing is read after it is written.
  for (let i = 1; count < BLOCK && i < rows.count; i++) {
    approximate.copyWithin(i * count, i * BLOCK, i * BLOCK + count);
  }
  const columns: number[] = [];
  for (let j = 0; j < count; j++) if (keys.logWeight[j] === -Infinity) columns.push(j);
  for (let i = 0; i < rows.count; i++) {
    const outlier = run.sampledRows[i * recordWidth(head)] === -Infinity;
    const row = i * count;
    const ratio = overChainSum(run, state, i);
    // Under a causal mask the keys of the diagonal block are exact, and those behind it hidden.
    const index = rows.index[i];
    const firstOfBlock = index - (index % BLOCK) - keys.index[0];
    const exactFrom = outlier ? 0 : head.causal ? Math.max(0, firstOfBlock) : count;
    for (const j of columns) approximate[row + j] = ratio * exact[row + j];
    for (let j = exactFrom; j < count; j++) approximate[row + j] = ratio * exact[row + j];
  }
}
