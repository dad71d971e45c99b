/** Right products of one row block: dS [K B_Q | X^K A_K^T] and P X^V A_V^T; or dS K at full width. */

import type { TensorData } from '../../tensor/tensor.js';
import { ROWS } from '../inner/block.js';
import type { Wasm } from '../inner/instance.js';
import { slice } from '../inner/operands.js';
import type { AttentionMemory } from './memory.js';
import type { ExactPlan } from './plan.js';
import { inverse } from './rows.js';
import type { Partitions, RowBlock } from './task.js';

/** Norms weigh the draws of rows: a sum of them is to stay finite. */
export const LARGEST_NORM = 2 ** 100;

function norm(x: TensorData): number {
  let sum = 0;
  for (const a of x) sum += a * a;
  return Math.sqrt(sum);
}

/** Sums over stretches of keys come in float32 and are added up in float64. */
export class RightSums {
  readonly #wasm: Wasm;
  readonly #memory: AttentionMemory;
  readonly #ps: number;
  readonly #pv: number;

  constructor({ thin }: ExactPlan, wasm: Wasm, memory: AttentionMemory) {
    this.#wasm = wasm;
    this.#memory = memory;
    this.#ps = thin.us || thin.right ? thin.ps : 0;
    this.#pv = thin.uv;
  }

  clear(): void {
    this.#s.fill(0);
    this.#v.fill(0);
  }

  /** (ROWS, ps) and (ROWS, pv), before division by the row sums. */
  get #s(): Float64Array {
    return this.#wasm.f64(this.#memory.rightS, ROWS * this.#ps);
  }

  get #v(): Float64Array {
    return this.#wasm.f64(this.#memory.rightV, ROWS * this.#pv);
  }

  /** Takes what the kernel has summed since the last time. */
  flush(): void {
    const { fields, rightS, rightV } = this.#memory;
    this.#wasm.fn.fold(ROWS * this.#ps, fields.rs, rightS);
    this.#wasm.fn.fold(ROWS * this.#pv, fields.rv, rightV);
  }

  /** The first columns of row i of both, divided by its row sum. */
  take(i: number, s: Float64Array, v: Float64Array): void {
    const scale = this.#inverse(i);
    const [scores, values] = [this.#s, this.#v];
    for (let c = 0; c < s.length; c++) s[c] = Math.fround(scores[i * this.#ps + c]! * scale);
    for (let c = 0; c < v.length; c++) v[c] = Math.fround(values[i * this.#pv + c]! * scale);
  }

  /** Adds `factor` times both, of the first n rows, to s (n, ps) and v (n, pv). */
  addTo(n: number, factor: number, s: Float32Array, v: Float32Array): void {
    const sums = this.#wasm.f64(this.#memory.fields.sum, ROWS);
    const add = (from: Float64Array, width: number, to: Float32Array) => {
      for (let i = 0, at = 0; i < n; i++) {
        const scale = factor * inverse(sums[i]!);
        for (let c = 0; c < width; c++, at++) to[at]! += scale * from[at]!;
      }
    };
    add(this.#s, this.#ps, s);
    add(this.#v, this.#pv, v);
  }

  #inverse(i: number): number {
    return inverse(this.#wasm.f64(this.#memory.fields.sum, ROWS)[i]!);
  }

  /**
   * Keeps dS K B_Q or dS K for the contraction with X^Q, and adds Q^T (dS X^K A_K^T) and G^T (P X^V A_V^T)
   * to the partition's totals.
   */
  contract(task: Partitions, memory: AttentionMemory, { partition, first, n }: RowBlock) {
    const { plan, workspace } = task;
    const { queryLength, headDim: d, valueDim: dv } = plan.problem.dims;
    const { rq, rk, rv, right } = plan.thin;
    const s = this.#s;
    const kept = slice(workspace.rightQ, partition.place, queryLength * right);
    const [normS, normQS, normDQ] = [workspace.normS, workspace.normQS, workspace.normDQ].map(
      (norms) => slice(norms, partition.place, queryLength),
    );
    const mean = memory.fields.t ? this.#wasm.f32(memory.fields.mean, n) : null;
    for (let i = 0; i < n; i++) {
      const scale = this.#inverse(i);
      const carried = scale * norm(s.subarray(i * this.#ps, (i + 1) * this.#ps));
      const q = norm(this.#wasm.f32(memory.qRows + 4 * i * d, d));
      normS![first + i] = Math.min(carried, LARGEST_NORM);
      normQS![first + i] = Math.min(carried * q, LARGEST_NORM);
      normDQ![first + i] = mean ? Math.min(Math.abs(mean[i]!) * q, LARGEST_NORM) : 0;
      for (let c = 0; c < right; c++) {
        kept[(first + i) * right + c] = s[i * this.#ps + c]! * scale;
      }
    }
    const number = partition.place * plan.partitions + partition.partition;
    const outK = slice(workspace.outK, number, d * rk);
    const outV = slice(workspace.outV, number, dv * rv);
    this.#contractRows(n, s.subarray(rq), this.#ps, rk, memory.qRows, d, outK);
    this.#contractRows(n, this.#v, this.#pv, rv, memory.gRows, dv, outV);
  }

  /** out (width, r) += x^T y for x (n, width) and y = the first r of `pitch` columns of right, over the row sums. */
  #contractRows(
    n: number,
    right: Float64Array,
    pitch: number,
    r: number,
    x: number,
    width: number,
    out: Float64Array,
  ): void {
    if (r === 0) return;
    const { rightRows, rightPacked, contracted } = this.#memory;
    const wasm = this.#wasm;
    const y = wasm.f32(rightRows, n * r);
    for (let i = 0; i < n; i++) {
      const scale = this.#inverse(i);
      for (let c = 0; c < r; c++) y[i * r + c] = right[i * pitch + c]! * scale;
    }
    wasm.fn.pack(n, r, rightRows, r, rightPacked);
    wasm.fn.gemm_tn(width, r, n, x, width, rightPacked, contracted, r, false);
    const product = wasm.f32(contracted, width * r);
    for (let c = 0; c < product.length; c++) out[c]! += product[c]!;
  }
}
