/**
 * Partial sums of all lanes and heads meet the inputs, a stretch of tokens a task.
 *
 *     d lora_A_Q = s beta (dS K B_Q)^T X^Q       d lora_B_Q = s beta K^T (dS^T X^Q A_Q^T)
 *     d lora_A_K = s beta (dS^T Q B_K)^T X^K     d lora_B_K = s beta Q^T (dS X^K A_K^T)
 *     d lora_A_V = s (P^T G B_V)^T X^V           d lora_B_V = s G^T (P X^V A_V^T)
 *
 * The factors s beta come in at the very end.
 */
import type { ProjectionName } from '../../problem.js';
import { type ExactPlan, roundUp, type Unit, type Workspace } from '../attention/plan.js';
import type { Wasm } from '../inner/instance.js';
import { type Floats, pack, rowsOf, slice } from '../inner/operands.js';

/** Tokens in WebAssembly memory at once. */
export const TOKENS = 256;

export interface ContractTask {
  readonly kernel: 'exact';
  readonly step: 'contract';
  readonly plan: ExactPlan;
  readonly workspace: Workspace;
  readonly units: readonly Unit[];
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

/** Places in the wave of the units of one batch item. */
export function placesOf(units: readonly Unit[], batchItem: number): number[] {
  return units.flatMap((unit, place) => (unit.batchItem === batchItem ? [place] : []));
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
  const { plan, workspace, units, batchItem } = task;
  const { queryLength } = plan.problem.dims;
  const { rq } = plan.thin;
  const right = new Float64Array(n * rq);
  for (const place of placesOf(units, batchItem)) {
    for (let x = 0; x < plan.group; x++) {
      const head = slice(workspace.rightQ, place * plan.group + x, queryLength * rq);
      for (let k = 0; k < right.length; k++) right[k]! += head[first * rq + k]!;
    }
  }
  meetInputs(task, wasm, 'q_proj', first, n, right, rq);
}

function contractKeys(task: ContractTask, wasm: Wasm, first: number, n: number): void {
  const { plan, workspace, units, batchItem, parts } = task;
  const { headDim: d } = plan.problem.dims;
  const { rq, rk, rv, ls: ps, pv } = plan.thin;
  const leftK = new Float64Array(n * rk);
  const leftV = new Float64Array(n * rv);
  const leftQ = new Float64Array(n * rq);
  const places = placesOf(units, batchItem);
  places.forEach((place, index) => {
    for (let x = 0; x < plan.group; x++) {
      const slot = place * plan.group + x;
      wasm.reset();
      const ls = addLanes(plan, wasm, workspace.ls, slot, ps, first, n);
      addColumns(ls, 0, ps, leftK, rk, n);
      addColumns(ls, rk, ps, leftQ.fill(0), rq, n);
      addColumns(addLanes(plan, wasm, workspace.lv, slot, pv, first, n), 0, pv, leftV, rv, n);
      if (parts.B.q_proj) {
        wasm.reset();
        const K = slice(workspace.K, place, plan.keys * d);
        const rows = K.subarray(first * d, (first + n) * d);
        const r8 = roundUp(rq, 8);
        product(wasm, rows, d, leftQ, rq, n, slice(parts.B.q_proj, index * plan.group + x, d * r8));
      }
    }
  });
  meetInputs(task, wasm, 'k_proj', first, n, leftK, rk);
  meetInputs(task, wasm, 'v_proj', first, n, leftV, rv);
}

/**
 * Sums (n, width) over the lanes of `heads` heads from number `slot` on, of left products (lane, keys, width) from
 * key `first` on. They lie in WebAssembly memory, until something is allocated.
 */
export function addLanes(
  plan: ExactPlan,
  wasm: Wasm,
  left: Float32Array,
  slot: number,
  width: number,
  first: number,
  n: number,
  heads = 1,
): Float64Array {
  const size = n * width;
  const sums = wasm.alloc(8 * size);
  const part = wasm.allocFloats(size);
  wasm.f64(sums, size).fill(0);
  for (let lane = slot * plan.lanes; lane < (slot + heads) * plan.lanes; lane++) {
    const all = slice(left, lane, plan.keys * width);
    wasm.f32(part, size).set(all.subarray(first * width, first * width + size));
    wasm.fn.fold(size, part, sums);
  }
  return wasm.f64(sums, size);
}

/** to (n, r) += columns [c, c + r) of from (n, pitch). */
function addColumns(
  from: Float64Array,
  c: number,
  pitch: number,
  to: Float64Array,
  r: number,
  n: number,
): void {
  for (let i = 0; i < n; i++) {
    for (let x = 0; x < r; x++) to[i * r + x]! += from[i * pitch + c + x]!;
  }
}

/** lora_A^T (in, r8) += X^T thin, for n tokens. */
function meetInputs(
  { plan, batchItem, parts }: ContractTask,
  wasm: Wasm,
  name: ProjectionName,
  first: number,
  n: number,
  thin: Float64Array,
  r: number,
): void {
  const to = parts.A[name];
  if (!to) return;
  const { dims, inputs, projections } = plan.problem;
  const columns = projections[name].inFeatures;
  const input = { q_proj: inputs.query, k_proj: inputs.key, v_proj: inputs.value }[name];
  const length = name === 'q_proj' ? dims.queryLength : dims.keyLength;
  wasm.reset();
  const X = rowsOf(input, columns, batchItem * length + first, n);
  product(wasm, X, columns, thin, r, n, to);
}

/** to (m, r8) += x^T thin, for x (n, m) and thin (n, r), padded with zeros to r8 columns. */
export function product(
  wasm: Wasm,
  x: Floats,
  m: number,
  thin: Floats,
  r: number,
  n: number,
  to: Float32Array,
): void {
  const r8 = roundUp(r, 8);
  const packed = pack(wasm, thin, n, r);
  const at = wasm.put(to);
  const xAt = wasm.put(x);
  wasm.fn.gemm_tn(m, r8, n, xAt, m, packed, at, r8, true);
  to.set(wasm.f32(at, to.length));
}
