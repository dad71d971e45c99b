/**
 * The error of sampled rows, row by row of P, in two passes over the keys.
 *
 * Every weight gradient is a sum over query rows of (left factor) (x) (row product). For the sampled
 * rows both the exact and the approximate row of P are formed over all keys, and with them
 *
 *     E_S = (dS - dS~) [U | K - centre | X^K - centre],   E_P = (P - P~) [X^V A_V' | X^V]
 *
 * and P~ [X^V A_V' | X^V], which the target objective needs because its G depends on O. Where features are
 * drawn, mixed-rows.ts takes the place of the second pass. At full width the rows of dS U themselves are formed in place of
 * E_S, to be compared with those of the chain, and sampled-keys.ts does what is of the keys.
 */

import { exactRows, maskScores } from '../../chain/keys.js';
import { TermSums } from '../../chain/rounding.js';
import { BLOCK } from '../../head/block.js';
import { fullWidth, wantsScores } from '../../head/head.js';
import { layout } from '../../head/layout.js';
import { keyRows } from '../../head/rows/key-rows.js';
import type { Workspace } from '../../head/workspace.js';
import { chainRows } from './chain-rows.js';
import { errorColumns, RowSums, scoreColumns, valueColumns } from './error-columns.js';
import { mixedRowPass } from './mixed-rows.js';
import { comparedGradient, loadSampled, type SampledRun } from './sampled-run.js';

/** First pass: the exact softmax of the sampled rows over the keys of a segment. */
export function sampledExactPass(space: Workspace, sampled: SampledRun, s: number): void {
  const { run } = sampled;
  const { from, to } = run.segments[s];
  const { head } = space;
  // Who compares gradients forms these rows again, relative to their maxima.
  const maxima = wantsScores(head) || head.value.rank > 0;
  const rows = exactRows(space, loadSampled(space, run), maxima);
  const keys = keyRows(space, BLOCK, 'exact');
  for (let start = from; start < Math.min(to, space.head.keyLength); start += BLOCK) {
    keys.load((r) => start + r, Math.min(BLOCK, to - start, space.head.keyLength - start));
    rows.advance(keys);
  }
  rows.save(sampled.exact[s]);
}

/** Second pass: the differences of the sampled rows, multiplied out over the keys of a segment. */
export function sampledErrorPass(space: Workspace, sampled: SampledRun, s: number): void {
  if (space.plan.drawnFeatures) mixedRowPass(space, sampled, s);
  else comparedRowPass(space, sampled, s);
}

function comparedRowPass(space: Workspace, sampled: SampledRun, s: number): void {
  const { arithmetic, head } = space;
  const { run } = sampled;
  const { d, dv } = head;
  const at = layout(head);
  const { from, to } = run.segments[s];
  const widths = errorColumns(run);
  const state = comparedGradient(space, sampled);
  const { rows, max, inverse } = state;
  const n = rows.count;
  const keys = keyRows(space, BLOCK);
  const chainRow = chainRows(space, run, state);
  const { score, value } = widths;
  const ofScore = new RowSums(space, n, score);
  const [ofValue, ofChain] = [new RowSums(space, n, value), new RowSums(space, n, value)];
  const terms = new TermSums(space, n, state.gradient);
  const keysTransposed = arithmetic.array(d * BLOCK);
  const valuesTransposed = arithmetic.array(dv * BLOCK);
  const exact = arithmetic.array(n * BLOCK);
  const approximate = arithmetic.array(n * BLOCK);
  const t = arithmetic.array(n * BLOCK);
  const chain = arithmetic.array(n * BLOCK);
  const total = arithmetic.array(n);
  const factor = arithmetic.array(n);
  const columns = {
    score: arithmetic.array(BLOCK * widths.score),
    value: arithmetic.array(BLOCK * widths.value),
  };
  const ones = arithmetic.array(n).fill(1);
  for (let start = from; start < Math.min(to, head.keyLength); start += BLOCK) {
    keys.load((r) => start + r, Math.min(BLOCK, to - start, head.keyLength - start));
    const { count } = keys;
    arithmetic.transpose(count, d, keys.k, keysTransposed);
    arithmetic.transpose(count, dv, keys.v, valuesTransposed);
    arithmetic.gemm(n, count, d, rows.scaled, keysTransposed, exact);
    maskScores(head.causal, rows, keys.index, count, exact);
    arithmetic.softmax(n, count, exact, max, total, factor);
    chainRow(keys, exact, approximate);
    const size = n * count;
    arithmetic.gemm(n, count, dv, state.gradient, valuesTransposed, t);
    if (head.kind === 'target') {
      arithmetic.gemm(n, count, dv, state.approximate, valuesTransposed, chain);
    } else {
      arithmetic.combine(size, 1, t, 0, chain);
    }
    terms.load(keys);
    scoreColumns(space, at, keys, widths.score, null, columns.score);
    valueColumns(space, keys, widths.value, columns.value);
    arithmetic.scoreGradient(n, count, approximate, chain, ones, state.approximateShift);
    terms.products(exact, inverse, t, valuesTransposed);
    arithmetic.scoreGradient(n, count, exact, t, inverse, state.shift);
    terms.add(0, n, exact);
    if (!fullWidth(head).scores) arithmetic.combine(size, -1, chain, 1, t);
    arithmetic.combine(size, -1, approximate, 1, exact);
    ofScore.add(count, t, columns.score);
    ofValue.add(count, exact, columns.value);
    if (head.kind === 'target') ofChain.add(count, approximate, columns.value);
  }
  const { errors } = sampled;
  ofScore.save(errors.score[s], score, 0);
  ofValue.save(errors.value[s], 2 * value, 0);
  ofChain.save(errors.value[s], 2 * value, value);
  terms.save(sampled.terms[s]);
}
