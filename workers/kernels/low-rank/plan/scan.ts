/** What the features leave out of every row, by which rows are judged. */
import type { Task } from '../../../job.js';
import { sharedFloat32 } from '../../result.js';
import type { Arithmetic, Real } from '../arithmetic/arithmetic.js';
import { evaluateFeatures, logC } from '../features/evaluate.js';
import { BLOCK } from '../head/block.js';
import type { Head } from '../head/head.js';
import type { Segment } from '../head/layout.js';
import type { HeadPlan } from '../head/plan.js';
import { judgedRows } from '../head/rows/coordinates.js';
import { openWorkspace, type Workspace } from '../head/workspace.js';

export interface ScanTask extends Task<void> {
  readonly kernel: 'low_rank';
  readonly step: 'scan';
  readonly head: Head;
  readonly plan: HeadPlan;
  readonly segment: Segment;
  readonly scan: RowScan;
}

/**
 * log sqrt(R(x, x)) g(x) of the queries and log w_j sqrt(R(z, z)) of the keys, where R is what the features
 * leave out. And log w_j of the keys. One entry per row.
 */
export interface RowScan {
  readonly query: Float32Array;
  readonly key: Float32Array;
  readonly logWeight: Float32Array;
}

export function openScan(head: Head): RowScan {
  return {
    query: sharedFloat32(head.queryLength),
    key: sharedFloat32(head.keyLength),
    logWeight: sharedFloat32(head.keyLength),
  };
}

export function scanRows(
  arithmetic: Arithmetic,
  { head, plan, segment: { from, to }, scan }: ScanTask,
): void {
  const space = openWorkspace(arithmetic, head, judging(plan));
  const residual = logResiduals(space);
  const sides = [
    { side: 'query', length: head.queryLength, residuals: scan.query, weight: null },
    { side: 'key', length: head.keyLength, residuals: scan.key, weight: scan.logWeight },
  ] as const;
  for (const { side, length, residuals, weight } of sides) {
    const rows = judgedRows(space, side, BLOCK);
    for (let start = from; start < Math.min(to, length); start += BLOCK) {
      const count = Math.min(BLOCK, to - start, length - start);
      rows.load((r) => start + r, count);
      const left = residual(rows.coordinates, count);
      for (let r = 0; r < count; r++) residuals[start + r] = left[r] + rows.logs[r];
      weight?.set(rows.logs.subarray(0, count), start);
    }
  }
}

/** Features by which rows are judged: which rows suffer most changes little beyond them. */
const JUDGING = 64;

/** The plan with the features that logResiduals is to judge by. */
export function judging(plan: HeadPlan): HeadPlan {
  return { ...plan, m: Math.min(plan.m, JUDGING) };
}

/** log sqrt(k(x, x) - |phi(x)|^2) of the rows of a block, up to a constant: a function of x and count. */
export function logResiduals(space: Workspace) {
  const { arithmetic, head, plan, features } = space;
  const { rho } = plan.features;
  const none = arithmetic.sums(head.d);
  const quadratic = arithmetic.sums(head.d);
  quadratic.set(rho.map((r) => r / (1 + r)));
  const logs = arithmetic.sums(BLOCK);
  const kept = arithmetic.sums(BLOCK);
  const constant = logC(plan.features);
  return (x: Real, count: number): Float64Array => {
    arithmetic.forms(count, head.d, x, none, quadratic, logs);
    evaluateFeatures(arithmetic, x, head.d, features);
    arithmetic.squareSums(plan.m, BLOCK, features.phi, kept);
    for (let r = 0; r < count; r++) {
      // log k(x, x), and the share of it that is left out.
      const whole = logs[r] - constant;
      const left = Math.max(LEAST_SHARE, 1 - kept[r] * Math.exp(-whole));
      logs[r] = 0.5 * (whole + Math.log(left));
    }
    return logs;
  };
}

/** Below this share of k(x, x) the rest is rounding. */
const LEAST_SHARE = 1e-12;
