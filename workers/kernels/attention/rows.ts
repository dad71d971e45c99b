/** What a block of query rows brings along: Q, the upstream gradient G, and the left thin factors. */

import type { Contradiction } from '../../problem.js';
import { ROWS } from '../inner/block.js';
import type { Wasm } from '../inner/instance.js';
import { slice } from '../inner/operands.js';
import { type AttentionMemory, copyRows } from './memory.js';
import type { ExactPlan } from './plan.js';
import { type PartitionOfHead, type Partitions, type RowBlock, rowAt } from './task.js';

/** Norms weigh the draws of rows: a sum of them is to stay finite. */
const LARGEST_SQUARE = 2 ** 120;

/** 1 / sum, and 0 for a row that sees no key: all its weights are 0. */
export const inverse = (sum: number): number => (sum > 0 ? 1 / sum : 0);

/** Q (packed, times beta log2 e, so that weights are powers of two); ws = [Q B_K | X^Q A_Q^T] or Q. */
export function loadRows(
  { plan, workspace }: Partitions,
  wasm: Wasm,
  { fields, qRows, BK }: AttentionMemory,
  rows: RowBlock,
  maximaKnown: boolean,
): void {
  const { partition, n } = rows;
  const { queryLength, headDim: d } = plan.problem.dims;
  const { rq, rk, ps, pv } = plan.thin;
  const Q = slice(workspace.Q, partition.place, queryLength * d);
  const q = wasm.f32(qRows, n * d);
  if (!rows.picked) q.set(Q.subarray(rows.first * d, (rows.first + n) * d));
  else rows.picked.forEach((row, i) => void q.set(slice(Q, row, d), i * d));
  wasm.fn.pack_transposed(n, d, qRows, d, plan.problem.scaling * Math.LOG2E, fields.q);

  const ws = wasm.f32(fields.ws, ROWS * ps).fill(0);
  if (plan.full.dK) copyRows(wasm, q, d, fields.ws, ps, n);
  if (rk) wasm.fn.gemm(n, rk, d, qRows, d, BK, fields.ws, ps, false);
  if (rq) {
    const headGroup = Math.floor(partition.place / plan.group);
    const lowQ = slice(workspace.lowQ, headGroup, queryLength * rq);
    for (let i = 0; i < n; i++) {
      const from = rowAt(rows, i) * rq;
      for (let c = 0; c < rq; c++) ws[i * ps + rk + c] = lowQ[from + c]!;
    }
  }
  const max = wasm.f32(fields.max, ROWS).fill(maximaKnown ? 0 : sinkOf(plan, partition));
  for (let i = 0; maximaKnown && i < n; i++) max[i] = knownSum(plan, partition, rowAt(rows, i));
  wasm.f64(fields.sum, ROWS).fill(0);
  wasm.f64(fields.dot, ROWS).fill(0);
  wasm.f32(fields.rs, ROWS * ps).fill(0);
  wasm.f32(fields.rv, ROWS * pv).fill(0);
  if (fields.o) wasm.f32(fields.o, fields.dv * ROWS).fill(0);
}

/** log2(e) times the sink of a head; minus infinity: it has none. */
export function sinkOf({ problem }: ExactPlan, { head }: PartitionOfHead): number {
  return problem.sinks ? problem.sinks.data[head]! * Math.LOG2E : Number.NEGATIVE_INFINITY;
}

/** The sinks' share in the row sums, in which E are weights relative to the row maxima or, bounded, to 0. */
export function addSinks(
  { plan }: Partitions,
  wasm: Wasm,
  { fields }: AttentionMemory,
  { partition, n }: RowBlock,
  bounded: boolean,
): void {
  if (!plan.problem.sinks) return;
  const [sum, max] = [wasm.f64(fields.sum, n), wasm.f32(fields.max, n)];
  const sink = sinkOf(plan, partition);
  for (let i = 0; i < n; i++) sum[i] = 2 ** (sink - (bounded ? 0 : max[i]!));
  if (bounded) max.fill(0);
}

/** What each row adds to the gradient of the head's sink: -P_sink G.O, or 0 without one. */
export function sinkGradients(
  { plan }: Partitions,
  wasm: Wasm,
  { fields }: AttentionMemory,
  rows: RowBlock,
): Float64Array {
  const { partition, n } = rows;
  const gradients = new Float64Array(n);
  if (!plan.problem.sinks || !plan.problem.objective) return gradients;
  const [max, mean] = [wasm.f32(fields.max, n), wasm.f32(fields.mean, n)];
  const sum = wasm.f64(fields.sum, n);
  const sink = sinkOf(plan, partition);
  // Drawn keys may lack the largest of a row, whose own sum would then be all sink: the client's sum is used.
  const byClient = fields.bias !== 0 && plan.problem.known?.logSumExp;
  const p = (i: number) =>
    byClient
      ? 2 ** (sink - knownSum(plan, partition, rowAt(rows, i)))
      : 2 ** (sink - max[i]!) / sum[i]!;
  return gradients.map((_, i) => (mean[i] ? -p(i) * mean[i]! : 0));
}

/** log2 of the sum of e^S in a row, as the client knows it. */
export function knownSum(
  { problem }: ExactPlan,
  { headGroup, head }: PartitionOfHead,
  row: number,
): number {
  const { heads, queryLength } = problem.dims;
  const { data } = problem.known!.logSumExp!;
  return Math.LOG2E * data[(headGroup.batchItem * heads + head) * queryLength + row]!;
}

/** A factor between the sums of a row: another forward pass, not one that was rounded otherwise. */
const OTHER_SUM = 2;
/** G.O of a row over |G| |O|: the same for outputs. bfloat16 rounds to 2^-9. */
const OTHER_OUTPUT = 2 ** -5;

/**
 * The first row in which what the client knows of its forward pass is not so: sums of weights, and G.O, which
 * are there for all rows. Weights are divided by their own sums, so that what is accepted is not trusted either.
 */
export function findContradiction(
  task: Partitions,
  wasm: Wasm,
  { fields, gRows }: AttentionMemory,
  rows: RowBlock,
  bounded: boolean,
): Contradiction | null {
  const { plan } = task;
  const { known, dims } = plan.problem;
  const { partition, n } = rows;
  const of = (name: Contradiction['name'], i: number): Contradiction => {
    return {
      name,
      batchItem: partition.headGroup.batchItem,
      head: partition.head,
      row: rowAt(rows, i),
    };
  };
  const sum = wasm.f64(fields.sum, n);
  const max = wasm.f32(fields.max, n);
  for (let i = 0; known?.logSumExp && i < n; i++) {
    if (sum[i] === 0) continue;
    const log = Math.log2(sum[i]!) + (bounded ? 0 : max[i]!);
    const off = Math.abs(log - knownSum(plan, partition, rowAt(rows, i)));
    if (!(off <= Math.log2(OTHER_SUM))) return of('log_sum_exp', i);
  }
  if (!usesOutput(plan) || !fields.t) return null;
  const { valueDim: dv } = dims;
  const { corner, pitch } = outputRows(task, rows.partition);
  const [G, mean] = [wasm.f32(gRows, n * dv), wasm.f32(fields.mean, n)];
  for (let i = 0; i < n; i++) {
    let [dot, gg, oo] = [0, 0, 0];
    for (let c = 0; c < dv; c++) {
      const [g, o] = [G[i * dv + c]!, known!.output!.data[corner + rowAt(rows, i) * pitch + c]!];
      dot += g * o;
      gg += g * g;
      oo += o * o;
    }
    if (!(Math.abs(dot - mean[i]!) <= OTHER_OUTPUT * Math.sqrt(gg * oo))) {
      return of('attention_output', i);
    }
  }
  return null;
}

/** Whether O comes from the client: it is needed for G = O - Y only. */
const usesOutput = ({ problem, formOutput }: ExactPlan): boolean =>
  problem.objective?.kind === 'target' && problem.known?.output !== undefined && !formOutput;

/** Where rows of the head lie in matrices (B, Lq, H dv), and how far apart. */
export function outputRows(
  { plan }: Partitions,
  partition: PartitionOfHead,
): { corner: number; pitch: number } {
  const { queryLength, heads, valueDim: dv } = plan.problem.dims;
  const pitch = heads * dv;
  return {
    corner: partition.headGroup.batchItem * queryLength * pitch + partition.head * dv,
    pitch,
  };
}

/**
 * G as given, or O - Y with O from the client, packed; wv = G B_V or G.
 *
 * @returns whether it is there; the loss of these rows.
 */
export function loadUpstream(
  task: Partitions,
  wasm: Wasm,
  memory: AttentionMemory,
  rows: RowBlock,
): { readonly loaded: boolean; readonly loss: number } {
  const { dims, objective, known } = task.plan.problem;
  const minus = usesOutput(task.plan);
  if (!objective || (objective.kind === 'target' && !minus)) return { loaded: false, loss: 0 };
  const { corner, pitch } = outputRows(task, rows.partition);
  const dv = dims.valueDim;
  const { data } = objective.tensor;
  const G = wasm.f32(memory.gRows, rows.n * dv);
  let loss = 0;
  for (let i = 0; i < rows.n; i++) {
    const at = corner + rowAt(rows, i) * pitch;
    G.set(data.subarray(at, at + dv), i * dv);
    for (let c = 0; minus && c < dv; c++) {
      const difference = known!.output!.data[at + c]! - data[at + c]!;
      G[i * dv + c] = difference;
      loss += 0.5 * difference * difference;
    }
  }
  packUpstream(task, wasm, memory, rows);
  return { loaded: true, loss };
}

/**
 * The attention output O, if anyone asked for it; with a target Y then G = O - Y as in `loadUpstream`.
 * @returns the loss of these rows, 1/2 |O - Y|^2; without an objective that of Y = 0; else 0.
 */
export function takeOutput(
  task: Partitions,
  wasm: Wasm,
  memory: AttentionMemory,
  rows: RowBlock,
): number {
  const { plan, attentionOutput } = task;
  const { objective, dims } = plan.problem;
  const { fields, gRows } = memory;
  const { n } = rows;
  const dv = dims.valueDim;
  const { corner, pitch } = outputRows(task, rows.partition);
  const target = objective?.kind === 'target' ? objective.tensor.data : null;
  const differ = objective?.kind !== 'grad_output';
  const G = wasm.f32(gRows, n * dv);
  const o = wasm.f32(fields.o, dv * ROWS);
  const sum = wasm.f64(fields.sum, n);
  let loss = 0;
  for (let i = 0; i < n; i++) {
    const scale = inverse(sum[i]!);
    const at = corner + rowAt(rows, i) * pitch;
    for (let c = 0; c < dv; c++) {
      const value = o[c * ROWS + i]! * scale;
      if (attentionOutput) attentionOutput[at + c] = value;
      if (!differ) continue;
      const difference = target ? value - Math.fround(target[at + c]!) : value;
      G[i * dv + c] = difference;
      loss += 0.5 * difference * difference;
    }
  }
  if (target) packUpstream(task, wasm, memory, rows);
  return loss;
}

function packUpstream(
  { plan, workspace }: Partitions,
  wasm: Wasm,
  { fields, gRows, BV }: AttentionMemory,
  rows: RowBlock,
): void {
  const { partition, n } = rows;
  const { queryLength, valueDim: dv } = plan.problem.dims;
  const { rv, pv } = plan.thin;
  const G = wasm.f32(gRows, n * dv);
  const norms = slice(workspace.normG, partition.place, queryLength);
  // `mean` is free until the row sums are known.
  wasm.fn.row_dots(n, dv, gRows, gRows, fields.mean);
  const squares = wasm.f32(fields.mean, n);
  for (let i = 0; i < n; i++) {
    norms[rowAt(rows, i)] = Math.sqrt(Math.min(squares[i]!, LARGEST_SQUARE));
  }
  wasm.fn.pack_transposed(n, dv, gRows, dv, 1, fields.g);
  wasm.f32(fields.wv, ROWS * pv).fill(0);
  if (plan.full.dV) copyRows(wasm, G, dv, fields.wv, pv, n);
  if (rv) wasm.fn.gemm(n, rv, dv, gRows, dv, BV, fields.wv, pv, false);
}

/** G.O = sum E dP / sum E, and the left factors take the division of P = E / sum E. */
export function divideBySums(
  { plan }: Partitions,
  wasm: Wasm,
  { fields }: AttentionMemory,
  { n }: RowBlock,
): void {
  const { ps, pv } = plan.thin;
  const sum = wasm.f64(fields.sum, ROWS);
  const dot = wasm.f64(fields.dot, ROWS);
  const mean = wasm.f32(fields.mean, ROWS);
  const ws = wasm.f32(fields.ws, ROWS * ps);
  const wv = wasm.f32(fields.wv, ROWS * pv);
  for (let i = 0; i < ROWS; i++) mean[i] = i < n ? dot[i]! * inverse(sum[i]!) : 0;
  for (let i = 0; i < n; i++) {
    const scale = inverse(sum[i]!);
    for (let c = i * ps; c < (i + 1) * ps; c++) ws[c]! *= scale;
    for (let c = i * pv; c < (i + 1) * pv; c++) wv[c]! *= scale;
  }
}
