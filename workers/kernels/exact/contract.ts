/**
 * Partial sums of all partitions and heads meet the inputs, a stretch of tokens a task.
 *
 *     d lora_A_Q = s beta (dS K B_Q)^T X^Q       d lora_B_Q = s beta K^T (dS^T X^Q A_Q^T)
 *     d lora_A_K = s beta (dS^T Q B_K)^T X^K     d lora_B_K = s beta Q^T (dS X^K A_K^T)
 *     d lora_A_V = s (P^T G B_V)^T X^V           d lora_B_V = s G^T (P X^V A_V^T)
 *
 * The factors s beta come in at the very end.
 */
import type { Range } from '../../mask.js';
import type { ProjectionName } from '../../problem.js';
import { type ExactPlan, type HeadGroup, roundUp, type Workspace } from '../attention/plan.js';
import type { Wasm } from '../inner/instance.js';
import { rowsOf, slice } from '../inner/operands.js';
import { packedFloats } from '../inner/operations/products.js';

/** Tokens in WebAssembly memory at once. */
export const TOKENS = 256;

export interface ContractTask {
  readonly kernel: 'exact';
  readonly step: 'contract';
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  readonly headGroups: readonly HeadGroup[];
  readonly batchItem: number;
  /** Whose tokens: those of X^Q, or those of X^K and X^V. */
  readonly side: 'query' | 'key';
  /** Tokens [first, last) */
  readonly first: number;
  readonly last: number;
  readonly parts: ContractParts;
}

/** Results of one task: lora_A^T (in, r8), and lora_B (head, width, r8) of the wave's heads. */
export interface ContractParts {
  readonly A: Partial<Record<ProjectionName, Float32Array>>;
  readonly B: Partial<Record<ProjectionName, Float32Array>>;
}

/** Places in the wave of the head groups of one batch item: they are in order. */
export function placesOf(
  { problem }: ExactPlan,
  headGroups: readonly HeadGroup[],
  batchItem: number,
): Range {
  const { keyValueHeads } = problem.dims;
  const { batchItem: item, sharedHead } = headGroups[0]!;
  const first = (batchItem - item) * keyValueHeads - sharedHead;
  return { first: Math.max(0, first), last: Math.min(first + keyValueHeads, headGroups.length) };
}

export function runContract(task: ContractTask, wasm: Wasm, checkpoint: () => void): null {
  for (const x of [...Object.values(task.parts.A), ...Object.values(task.parts.B)]) x.fill(0);
  for (let first = task.first; first < task.last; first += TOKENS) {
    checkpoint();
    const n = Math.min(TOKENS, task.last - first);
    if (task.side === 'query') contractQueries(task, wasm, first, n);
    else contractKeys(task, wasm, first, n);
  }
  return null;
}

function contractQueries(task: ContractTask, wasm: Wasm, first: number, n: number): void {
  const { plan, workspace, headGroups, batchItem } = task;
  const { rq } = plan.thin;
  const places = placesOf(plan, headGroups, batchItem);
  const heads = {
    ...{ first: places.first * plan.group, count: (places.last - places.first) * plan.group },
    ...{ rows: plan.problem.dims.queryLength, width: rq },
  };
  wasm.reset();
  meetInputs(task, wasm, 'q_proj', first, n, sumOf(wasm, workspace.rightQ, heads, first, n), rq);
}

function contractKeys(task: ContractTask, wasm: Wasm, first: number, n: number): void {
  const { plan, workspace, headGroups, batchItem, parts } = task;
  const { headDim: d } = plan.problem.dims;
  const { rq, rk, rv } = plan.thin;
  const places = placesOf(plan, headGroups, batchItem);
  const slot = places.first * plan.group;
  const heads = (places.last - places.first) * plan.group;
  for (let head = 0; parts.B.q_proj && head < heads; head++) {
    wasm.reset();
    const K = slice(workspace.K, Math.floor((slot + head) / plan.group), plan.keys * d);
    const rows = K.subarray(first * d, (first + n) * d);
    const left = sumOf(wasm, workspace.ls, partitionsOf(plan, 'ls', slot + head), first, n, rk, rq);
    product(wasm, wasm.put(rows), d, left, rq, n, slice(parts.B.q_proj, head, d * roundUp(rq, 8)));
  }
  const meet = (name: ProjectionName, of: 'ls' | 'lv', rank: number) => {
    if (rank === 0) return;
    wasm.reset();
    const left = sumOf(wasm, workspace[of], partitionsOf(plan, of, slot, heads), first, n, 0, rank);
    meetInputs(task, wasm, name, first, n, left, rank);
  };
  meet('k_proj', 'ls', rk);
  meet('v_proj', 'lv', rv);
}

/** Matrices (rows, width) that lie one after the other: `count` of them from number `first` on. */
interface Matrices {
  readonly first: number;
  readonly count: number;
  readonly rows: number;
  readonly width: number;
}

/** Left products of all partitions of `heads` heads from number `slot` on. */
export const partitionsOf = (
  { partitions, keys, thin }: ExactPlan,
  of: 'ls' | 'lv',
  slot: number,
  heads = 1,
): Matrices => ({
  ...{ first: slot * partitions, count: heads * partitions },
  ...{ rows: keys, width: of === 'ls' ? thin.ls : thin.pv },
});

/** Rows [first, first + n), columns [column, column + r) of the sum of matrices: the address of (n, r). */
export function sumOf(
  wasm: Wasm,
  x: Float32Array,
  { first: from, count, rows, width }: Matrices,
  first: number,
  n: number,
  column = 0,
  r = width,
): number {
  const out = wasm.allocFloats(n * r);
  // As far apart as they are in x, or as copies of the same size come to lie.
  const [at = 0, next = at] = Array.from({ length: count }, (_, k) =>
    wasm.put(slice(x, from + k, rows * width).subarray(first * width, (first + n) * width)),
  );
  wasm.fn.sum_parts(count, n, r, at + 4 * column, (next - at) / 4, width, out);
  return out;
}

/** lora_A^T (in, r8) += X^T thin, for n tokens. */
function meetInputs(
  { plan, batchItem, parts }: ContractTask,
  wasm: Wasm,
  name: ProjectionName,
  first: number,
  n: number,
  thin: number,
  r: number,
): void {
  const to = parts.A[name];
  if (!to) return;
  const { dims, inputs, projections } = plan.problem;
  const columns = projections[name].inFeatures;
  const input = { q_proj: inputs.query, k_proj: inputs.key, v_proj: inputs.value }[name];
  const length = name === 'q_proj' ? dims.queryLength : dims.keyLength;
  const X = rowsOf(input, columns, batchItem * length + first, n);
  product(wasm, wasm.put(X), columns, thin, r, n, to);
}

/** Tokens whose products are added up before they meet the sum of the others: short chains of float32 round little. */
export const CHAIN_TOKENS = 64;

/** to (m, r8) += x^T thin, for the addresses of x (n, m) and thin (n, r), padded with zeros to r8 columns. */
export function product(
  wasm: Wasm,
  x: number,
  m: number,
  thin: number,
  r: number,
  n: number,
  to: Float32Array,
): void {
  const r8 = roundUp(r, 8);
  const packed = wasm.allocFloats(packedFloats(CHAIN_TOKENS, r));
  const at = wasm.put(to);
  for (let first = 0; first < n; first += CHAIN_TOKENS) {
    const count = Math.min(CHAIN_TOKENS, n - first);
    wasm.fn.pack(count, r, thin + 4 * first * r, r, packed);
    wasm.fn.gemm_tn(m, r8, count, x + 4 * first * m, m, packed, at, r8, true);
  }
  wasm.keep(to, at);
}
