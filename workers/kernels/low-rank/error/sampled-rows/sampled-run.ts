/** The sampled rows of a head: shared memory of their estimate, and their exact and approximate gradients. */
import type { Lease } from '../../../../tensor/shared-memory.js';
import type { Real } from '../../arithmetic/arithmetic.js';
import { type MergedRows, mergeRows } from '../../chain/keys.js';
import { SQUARES } from '../../chain/rounding.js';
import { exactWidth, type HeadRun, leaseSlots, recordWidth } from '../../chain/run.js';
import { fullWidth, type Head } from '../../head/head.js';
import { type QueryRows, queryRows } from '../../head/rows/query-rows.js';
import type { Workspace } from '../../head/workspace.js';
import { type RowErrors, slotWidths } from './error-columns.js';

/** Shared memory of the estimate of one head: one slot per segment. */
export interface SampledRun {
  readonly run: HeadRun;
  /** Empty where nobody needs to know the exact rows before their errors are formed. */
  readonly exact: readonly Float64Array[];
  readonly errors: RowErrors;
  /** What the exact rows carry: see TermSums. */
  readonly terms: readonly Float64Array[];
  /** When the keys' adapter has its gradients from dK at full width. */
  readonly keyErrors: KeyErrors | null;
}

/** Errors of d lora_A_K (n, r inputs) and d lora_B_K (n, d r) by sampled row, without s beta. */
export interface KeyErrors {
  /** Those of all heads of the batch item together. */
  readonly lowA: Float32Array;
  readonly lowB: Float32Array;
}

/** Whether the keys' adapter has its gradients from dK at full width. */
function hasKeyErrors(head: Head): boolean {
  return fullWidth(head).key && head.key.rank > 0;
}

/** Zeroed errors of d lora_A_K of n sampled rows of a batch item; empty where estimates do not need them. */
export function openKeyErrors(head: Head, n: number): Float32Array {
  const size = hasKeyErrors(head) ? n * head.key.rank * head.key.effective.inputs : 0;
  return new Float32Array(new SharedArrayBuffer(4 * size));
}

/** Whether errors need the exact rows first: all but those that are linear in rows of P (mixed-rows.ts), where G needs no O. */
function comparesRows({ head, plan }: HeadRun): boolean {
  return !plan.drawnFeatures || head.kind === 'target';
}

/** @param lowA openKeyErrors of the batch item. */
export function openSampledRun(run: HeadRun, lowA: Float32Array, memory: Lease): SampledRun {
  const n = run.sampled.length;
  const { score, value } = slotWidths(run);
  const { key, d } = run.head;
  const slots = (width: number) => leaseSlots(memory, run.segments.length, n * width);
  return {
    run,
    exact: comparesRows(run) ? slots(exactWidth(run.head)) : [],
    errors: { score: slots(score), value: slots(value) },
    terms: slots(SQUARES),
    keyErrors: hasKeyErrors(run.head)
      ? { lowA, lowB: new Float32Array(new SharedArrayBuffer(4 * n * d * key.rank)) }
      : null,
  };
}

export function loadSampled(space: Workspace, run: HeadRun): QueryRows {
  const rows = queryRows(space, run.sampled.length);
  rows.load((r) => run.sampled[r], run.sampled.length);
  return rows;
}

/** G of the sampled rows, exact and as the chain had it, and G~.(O~ - centre). */
export interface SampledGradient {
  readonly rows: QueryRows;
  readonly gradient: Real;
  readonly approximate: Real;
  readonly approximateShift: Real;
}

/** The same with the exact rows, and G.(O - centre). */
export interface ComparedGradient extends SampledGradient, MergedRows {
  readonly shift: Real;
}

export function sampledGradient(space: Workspace, sampled: SampledRun): SampledGradient {
  const merged = comparesRows(sampled.run) ? merge(space, sampled) : null;
  return chainGradient(space, sampled.run, merged).state;
}

export function comparedGradient(space: Workspace, sampled: SampledRun): ComparedGradient {
  const merged = merge(space, sampled);
  const { state, shift } = chainGradient(space, sampled.run, merged);
  return { ...state, ...merged, shift };
}

const merge = (space: Workspace, { run, exact }: SampledRun) =>
  mergeRows(space, exact, run.sampled.length);

/** @param merged null: G does not depend on the exact rows. */
function chainGradient(space: Workspace, run: HeadRun, merged: MergedRows | null) {
  const { arithmetic, head, plan } = space;
  const { dv } = head;
  const rows = loadSampled(space, run);
  const n = rows.count;
  const side = (output: (i: number, a: number) => number) => {
    const gradient = arithmetic.array(n * dv);
    const shift = arithmetic.array(n);
    for (let i = 0; i < n; i++) {
      arithmetic.checkpoint();
      let dot = 0;
      for (let a = 0; a < dv; a++) {
        const o = output(i, a);
        const given = rows.objective[i * dv + a];
        const g = head.kind === 'target' ? o + plan.centreV[a] - given : given;
        gradient[i * dv + a] = g;
        dot += g * o;
      }
      shift[i] = dot;
    }
    return { gradient, shift };
  };
  const recorded = (i: number, a: number) => run.sampledRows[i * recordWidth(head) + 3 + a];
  // Outlier rows are exact in the chain too, but it is not the pass over the queries that makes them.
  const chain = side((i, a) =>
    merged && space.isOutlierQuery(run.sampled[i]) ? merged.output[i * dv + a] : recorded(i, a),
  );
  const exact = merged ? side((i, a) => merged.output[i * dv + a]) : chain;
  return {
    state: {
      rows,
      gradient: exact.gradient,
      approximate: chain.gradient,
      approximateShift: chain.shift,
    },
    shift: exact.shift,
  };
}
