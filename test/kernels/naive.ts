/**
 * LoRA gradients in float32 as one would write them down first: every product rounded, every sum in
 * order, P of the whole head in memory. How far it is from float64 says what float32 can be expected
 * to give, and is the yardstick for the fast kernel.
 */
import { keysOf, keysOfRow, type Range } from '../../workers/mask.js';
import type { AttentionProblem, Projection, Rotary } from '../../workers/problem.js';

const { fround } = Math;

interface Matrix {
  readonly rows: number;
  readonly columns: number;
  readonly data: Float32Array;
}

const zeros = (rows: number, columns: number): Matrix => ({
  rows,
  columns,
  data: new Float32Array(rows * columns),
});

/** Rows [first, first + n) and columns [c, c + width) of row-major data. */
function part(
  data: Float32Array | Float64Array,
  pitch: number,
  first: number,
  n: number,
  c = 0,
  width = pitch,
): Matrix {
  const out = zeros(n, width);
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < width; k++) out.data[i * width + k] = data[(first + i) * pitch + c + k]!;
  }
  return out;
}

function transpose(a: Matrix): Matrix {
  const out = zeros(a.columns, a.rows);
  for (let i = 0; i < a.rows; i++) {
    for (let k = 0; k < a.columns; k++) out.data[k * a.rows + i] = a.data[i * a.columns + k]!;
  }
  return out;
}

function multiply(a: Matrix, b: Matrix, scale = 1): Matrix {
  const out = zeros(a.rows, b.columns);
  const n = b.columns;
  // The last four may be fewer: rows of zeros follow, which change no sum.
  const terms = 4 * Math.ceil(a.columns / 4);
  const left = new Float32Array(terms);
  const right = new Float32Array(terms * n);
  right.set(b.data);
  for (let i = 0; i < a.rows; i++) {
    const sums = out.data.subarray(i * n, (i + 1) * n);
    left.set(a.data.subarray(i * a.columns, (i + 1) * a.columns));
    // Each sum in the order of its terms, four while it is at hand; side by side they do not wait for each other.
    for (let k = 0; k < terms; k += 4) {
      const [x, y, z, w] = [left[k]!, left[k + 1]!, left[k + 2]!, left[k + 3]!];
      for (let j = 0; j < n; j++) {
        const at = k * n + j;
        let sum = fround(sums[j]! + fround(x * right[at]!));
        sum = fround(sum + fround(y * right[at + n]!));
        sum = fround(sum + fround(z * right[at + 2 * n]!));
        sums[j] = sum + fround(w * right[at + 3 * n]!);
      }
    }
    for (let j = 0; j < n; j++) sums[j]! *= fround(scale);
  }
  return out;
}

function addTo(total: Float32Array, x: Matrix, offset = 0): void {
  for (let k = 0; k < x.data.length; k++) total[offset + k]! += x.data[k]!;
}

function project(X: Matrix, p: Projection, head: number, width: number): Matrix {
  const out = multiply(X, transpose(part(p.weight!.data, p.inFeatures, head * width, width)));
  if (p.bias) {
    for (let k = 0; k < out.data.length; k++)
      out.data[k]! += p.bias.data[head * width + (k % width)]!;
  }
  if (p.adapter) {
    const { A, B, rank, scaling } = p.adapter;
    const low = multiply(X, transpose(part(A.data, p.inFeatures, 0, rank)));
    addTo(out.data, multiply(low, transpose(part(B.data, rank, head * width, width)), scaling));
  }
  return out;
}

/** Rows of batch item b, rotated by their positions, or with `back` by the transpose. */
function turn(x: Matrix, rotary: Rotary | undefined, b: number, back = false): Matrix {
  if (!rotary) return x;
  const d = x.columns;
  const out: Matrix = { ...x, data: x.data.slice() };
  const [, length, width] = rotary.cos.shape as [number, number, number];
  const item = rotary.cos.shape[0] === 1 ? 0 : b;
  const half = width / 2;
  for (let l = 0; l < x.rows; l++) {
    for (let c = 0; c < width; c++) {
      const pair = (c + half) % width;
      const table = (item * length + l) * width;
      const sign = c < half === back ? 1 : -1;
      const sin = rotary.sin.data[table + (back ? pair : c)]!;
      out.data[l * d + c] =
        fround(x.data[l * d + c]! * rotary.cos.data[table + c]!) +
        fround(sign * x.data[l * d + pair]! * sin);
    }
  }
  return out;
}

export interface NaiveResult {
  /** In the order lora_A, lora_B of the adapted projections among q, k, v. */
  readonly gradients: Map<string, Float32Array>;
  readonly output: Float32Array;
  /** dX^Q, dX^K, dX^V, summed over heads; (B, L, in). */
  readonly inputs: Readonly<Record<'q_proj' | 'k_proj' | 'v_proj', Float32Array>>;
}

export function naiveGradient(problem: AttentionProblem): NaiveResult {
  const { dims, projections, inputs, objective, scaling: beta } = problem;
  const { batch, queryLength: Lq, keyLength: Lk, heads, keyValueHeads } = dims;
  const { headDim: d, valueDim: dv } = dims;
  const gradients = new Map<string, Float32Array>();
  const output = new Float32Array(batch * Lq * heads * dv);
  const dX = {
    q_proj: new Float32Array(inputs.query.data.length),
    k_proj: new Float32Array(inputs.key.data.length),
    v_proj: new Float32Array(inputs.value.data.length),
  };

  const addGradient = (
    name: 'q_proj' | 'k_proj' | 'v_proj',
    X: Matrix,
    dY: Matrix,
    head: number,
    firstRow: number,
  ) => {
    const { adapter, inFeatures, outFeatures } = projections[name];
    const width = dY.columns;
    const W = part(projections[name].weight!.data, inFeatures, head * width, width);
    addTo(dX[name], multiply(dY, W), firstRow * inFeatures);
    if (!adapter) return;
    const { A, B, rank, scaling: s } = adapter;
    const totalA = gradients.get(`${name}.lora_A`) ?? new Float32Array(rank * inFeatures);
    const totalB = gradients.get(`${name}.lora_B`) ?? new Float32Array(outFeatures * rank);
    const Bh = part(B.data, rank, head * dY.columns, dY.columns);
    const up = multiply(dY, Bh, s);
    addTo(dX[name], multiply(up, part(A.data, inFeatures, 0, rank)), firstRow * inFeatures);
    addTo(totalA, multiply(transpose(multiply(dY, Bh)), X, s));
    const low = multiply(X, transpose(part(A.data, inFeatures, 0, rank)));
    addTo(totalB, multiply(transpose(dY), low, s), head * dY.columns * rank);
    gradients.set(`${name}.lora_A`, totalA).set(`${name}.lora_B`, totalB);
  };

  const dsinks = problem.sinks ? new Float32Array(heads) : null;
  for (let b = 0; b < batch; b++) {
    const XQ = part(inputs.query.data, projections.q_proj.inFeatures, b * Lq, Lq);
    const keys = Math.max(1, keysOf(problem, b).last);
    const XK = part(inputs.key.data, projections.k_proj.inFeatures, b * Lk, keys);
    const XV = part(inputs.value.data, projections.v_proj.inFeatures, b * Lk, keys);
    for (let h = 0; h < heads; h++) {
      const shared = Math.floor((h * keyValueHeads) / heads);
      const Q = turn(project(XQ, projections.q_proj, h, d), problem.rotary, b);
      const K = turn(project(XK, projections.k_proj, shared, d), problem.rotary, b);
      const V = project(XV, projections.v_proj, shared, dv);
      const P = multiply(Q, transpose(K), beta);
      const slope = cap(P, problem.softcap);
      const sinks = softmax(P, (row) => keysOfRow(problem, b, row), problem.sinks?.data[h]);
      const O = multiply(P, V);
      const G = part(objective.tensor.data, heads * dv, b * Lq, Lq, h * dv, dv);
      for (let i = 0; i < Lq; i++) {
        for (let c = 0; c < dv; c++) {
          const value = O.data[i * dv + c]!;
          output[(b * Lq + i) * heads * dv + h * dv + c] = value;
          if (objective.kind === 'target') G.data[i * dv + c] = value - G.data[i * dv + c]!;
        }
      }
      const dS = multiply(G, transpose(V));
      for (let i = 0; i < Lq; i++) {
        let mean = 0;
        for (let c = 0; c < dv; c++) {
          mean = fround(mean + fround(G.data[i * dv + c]! * O.data[i * dv + c]!));
        }
        if (dsinks) dsinks[h]! -= fround(sinks[i]! * mean);
        for (let j = i * keys; j < (i + 1) * keys; j++) {
          dS.data[j] = fround(P.data[j]! * fround(dS.data[j]! - mean)) * slope[j]!;
        }
      }
      const dQ = turn(multiply(dS, K, beta), problem.rotary, b, true);
      const dK = turn(multiply(transpose(dS), Q, beta), problem.rotary, b, true);
      addGradient('q_proj', XQ, dQ, h, b * Lq);
      addGradient('k_proj', XK, dK, shared, b * Lk);
      addGradient('v_proj', XV, multiply(transpose(P), G), shared, b * Lk);
    }
  }
  if (dsinks) gradients.set('sinks', dsinks);
  return { gradients, output, inputs: dX };
}

/** S = c tanh(S / c), in place. @returns its slope. */
function cap(S: Matrix, c: number | undefined): Float32Array {
  const slope = new Float32Array(S.data.length).fill(1);
  for (let k = 0; c && k < slope.length; k++) {
    const t = fround(Math.tanh(fround(S.data[k]! / c)));
    S.data[k] = c * t;
    slope[k] = 1 - fround(t * t);
  }
  return slope;
}

/** @returns the share of the sink in each row. */
function softmax(S: Matrix, keysOf: (row: number) => Range, sink?: number): Float32Array {
  const shares = new Float32Array(S.rows);
  for (let i = 0; i < S.rows; i++) {
    const row = S.data.subarray(i * S.columns, (i + 1) * S.columns);
    const { first, last } = keysOf(i);
    row.fill(Number.NEGATIVE_INFINITY, 0, first).fill(Number.NEGATIVE_INFINITY, last);
    const max = row.reduce((a, b) => Math.max(a, b), sink ?? Number.NEGATIVE_INFINITY);
    if (max === Number.NEGATIVE_INFINITY) {
      row.fill(0);
      continue;
    }
    shares[i] = sink === undefined ? 0 : Math.exp(fround(sink - max));
    let sum = shares[i]!;
    for (let j = 0; j < row.length; j++) {
      row[j] = Math.exp(fround(row[j]! - max));
      sum = fround(sum + row[j]!);
    }
    for (let j = 0; j < row.length; j++) row[j]! /= sum;
    shares[i]! /= sum;
  }
  return shares;
}
