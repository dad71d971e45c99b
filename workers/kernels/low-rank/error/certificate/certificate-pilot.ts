/**
 * Is a certificate worth its time? It costs as much as the chain, and on most data it is far above the
 * gradient itself, where it says nothing. A small problem, of blocks spread evenly over the rows of each
 * head, tells: there the gradient is no smaller beside its bound than in the whole.
 */

import type { Job } from '../../../../job.js';
import { Lease } from '../../../../tensor/shared-memory.js';
import type { TensorData } from '../../../../tensor/tensor.js';
import { type HeadResult, passes } from '../../chain/chain.js';
import type { Head } from '../../head/head.js';
import type { HeadPlan } from '../../plan/head-plan.js';
import { openRun } from '../../run.js';
import type { LowRankTask } from '../../task.js';
import { atLeast } from './certificate.js';

/** Rows of the small problem, and in one piece. */
const ROWS = 256;
const PIECE = 16;
/** Below this length the certificate is made without asking. */
const SHORT = 16 * ROWS;

/** One head of the small problem with the plan of the whole one; outliers keep their share. */
export interface PilotHead {
  readonly head: Head;
  readonly plan: HeadPlan;
}

export function wantsPilot(heads: readonly Head[]): boolean {
  return heads.some(({ queryLength, keyLength, causal }) => {
    return !causal && Math.min(queryLength, keyLength) >= SHORT;
  });
}

export function pilotHeads(heads: readonly Head[], plans: readonly HeadPlan[]): PilotHead[] {
  const copies = new Map<TensorData, Map<string, TensorData>>();
  // Heads of one batch item share their inputs: so do the copies.
  const gather = (rows: TensorData, width: number, list: Int32Array): TensorData => {
    const key = `${width} ${list.length} ${list[list.length - 1]}`;
    const known = copies.get(rows)?.get(key);
    if (known) return known;
    const n = list.length * width;
    const copy =
      rows instanceof Float32Array
        ? new Float32Array(new SharedArrayBuffer(4 * n))
        : new Float64Array(new SharedArrayBuffer(8 * n));
    list.forEach((row, r) => {
      copy.set(rows.subarray(row * width, (row + 1) * width), r * width);
    });
    copies.set(rows, (copies.get(rows) ?? new Map()).set(key, copy));
    return copy;
  };
  return heads.map((head, h) => {
    const queries = spread(head.queryLength);
    const keys = spread(head.keyLength);
    const { query, key, value, objective, objectiveStride } = head;
    const plan = plans[h];
    return {
      head: {
        ...head,
        queryLength: queries.length,
        keyLength: keys.length,
        query: { ...query, rows: gather(query.rows, query.effective.inputs, queries) },
        key: { ...key, rows: gather(key.rows, key.effective.inputs, keys) },
        value: { ...value, rows: gather(value.rows, value.effective.inputs, keys) },
        objective: gather(objective, objectiveStride, queries),
      },
      plan: {
        ...plan,
        tail: null,
        outlierQueries: positions(plan.outlierQueries, queries),
        outlierKeys: positions(plan.outlierKeys, keys),
      },
    };
  });
}

/**
 * The chain of a pilot head, and what its certificate is not below: where that is above the gradient, so is the
 * certificate. It is small: one task runs all of it.
 */
export function* pilotJob({ head, plan }: PilotHead): Job<HeadResult, LowRankTask> {
  const memory = new Lease();
  try {
    const run = openRun(head, plan, new Int32Array(0), null, memory);
    const [result] = yield* passes([run], { certified: true, eigenvalue: atLeast });
    return result;
  } finally {
    memory.end();
  }
}

/** ROWS numbers below n in evenly spread pieces, or all of them. */
function spread(n: number): Int32Array {
  if (n <= ROWS) return Int32Array.from({ length: n }, (_, i) => i);
  const pieces = ROWS / PIECE;
  return Int32Array.from({ length: ROWS }, (_, i) => {
    const piece = Math.floor(i / PIECE);
    return Math.floor((piece * (n - PIECE)) / (pieces - 1)) + (i % PIECE);
  });
}

/** Where the rows that are in the list stand in it. */
function positions(rows: Int32Array, list: Int32Array): Int32Array {
  const wanted = new Set(rows);
  return Int32Array.from(list.keys()).filter((i) => wanted.has(list[i]));
}
