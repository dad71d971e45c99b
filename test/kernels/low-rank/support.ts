/** Random attention problems with a chosen spectrum, tail and logit size, and their exact gradients. */

import { TENSORS, type TensorName } from '../../../workers/kernels/low-rank/head/tensors.js';
import { Random } from '../../../workers/kernels/random.js';
import { CAUSAL, NO_MASK } from '../../../workers/mask.js';
import type { AttentionProblem, Projection } from '../../../workers/problem.js';
import type { Tensor } from '../../../workers/tensor/tensor.js';

export interface Recipe {
  readonly seed: number;
  readonly queryLength: number;
  readonly keyLength?: number;
  readonly d: number;
  readonly dv?: number;
  readonly inputs?: number;
  readonly batch?: number;
  readonly heads?: number;
  readonly keyValueHeads?: number;
  readonly rank?: number;
  readonly adapted?: string;
  readonly spectrum?: 'flat' | 'harmonic' | 'exponential';
  readonly tail?: 'normal' | 't4' | 'few huge rows' | 'one huge key';
  /** Standard deviation of the logits of the bulk. */
  readonly deviation: number;
  readonly causal?: boolean;
  readonly kind?: 'target' | 'grad_output';
  /**
   * Values are made of the keys' states, and half of the objective's variance is a linear map of the
   * query's state: rows of the gradient then add up as they do in training. Otherwise all is noise.
   */
  readonly related?: boolean;
  /** Of all states and of the objective, over their deviation; 0 by default. */
  readonly mean?: number;
}

export function normal(random: Random): number {
  const radius = Math.sqrt(-2 * Math.log(1 - random.uniform()));
  return radius * Math.cos(2 * Math.PI * random.uniform());
}

export function tensor(shape: readonly number[], fill: (i: number) => number): Tensor {
  const n = shape.reduce((a, b) => a * b, 1);
  const data = new Float32Array(new SharedArrayBuffer(4 * n));
  for (let i = 0; i < n; i++) data[i] = fill(i);
  return { dtype: 'float32', shape, data };
}

/**
 * Cross-attention with three inputs of d_in = d times the number of heads by default. The weights of
 * q_proj and k_proj are diagonal with the asked-for spectrum, scaled to the asked-for logit deviation.
 */
export function makeProblem(recipe: Recipe): AttentionProblem {
  const {
    seed,
    queryLength,
    keyLength = queryLength,
    d,
    dv = d,
    heads = 1,
    keyValueHeads = heads,
    inputs = d,
    batch = 1,
    rank = 2,
    adapted = 'qkv',
    spectrum = 'exponential',
    tail = 'normal',
    deviation,
    causal = false,
    kind = 'grad_output',
    related = false,
    mean = 0,
  } = recipe;
  const random = new Random(seed);
  const size = (a: number) =>
    spectrum === 'flat' ? 1 : spectrum === 'harmonic' ? 1 / (a + 1) : Math.exp(-a / 4);
  let square = 0;
  for (let a = 0; a < d; a++) square += size(a) ** 2;
  const headGroup = Math.sqrt(deviation / Math.sqrt(square));
  const scaling = 1 / Math.sqrt(d);
  // beta q.k with q_a, k_a of deviation s_a each has deviation beta sqrt(sum s_a^4).
  const level = (a: number) => headGroup * Math.sqrt(size(a)) * d ** 0.25;
  const states = (length: number, huge: number) => {
    const scale = new Float64Array(batch * length).fill(1);
    if (tail === 't4') {
      for (let i = 0; i < scale.length; i++) {
        let chi = 0;
        for (let n = 0; n < 4; n++) chi += normal(random) ** 2;
        scale[i] = Math.sqrt(2 / chi);
      }
    }
    for (let n = 0; n < huge; n++) scale[random.integer(scale.length)] = 12;
    return tensor(
      [batch, length, inputs],
      (i) => scale[Math.floor(i / inputs)] * normal(random) + mean,
    );
  };
  const few = tail === 'few huge rows' ? 3 : 0;
  const query = states(queryLength, few);
  const key = states(keyLength, tail === 'one huge key' ? 1 : few);
  const value = related ? key : states(keyLength, 0);
  const projection = (name: string, out: number, diagonal: boolean): Projection => {
    const width = name === 'v' ? dv : d;
    return {
      weight: tensor([out, inputs], (i) => {
        const [row, column] = [Math.floor(i / inputs), i % inputs];
        if (!diagonal) return normal(random) / Math.sqrt(inputs);
        return row % width === column % width ? level(column % width) : 0;
      }),
      bias: tensor([out], () => 0.05 * normal(random)),
      adapter: adapted.includes(name)
        ? {
            A: tensor([rank, inputs], () => normal(random) / Math.sqrt(inputs)),
            B: tensor([out, rank], () => (0.1 * normal(random) * headGroup) / Math.sqrt(rank)),
            rank,
            scaling: 2,
          }
        : null,
      outFeatures: out,
      inFeatures: inputs,
    };
  };
  const width = heads * dv;
  const objective = tensor([batch, queryLength, width], () => normal(random) + mean);
  if (related) addLinearMap(query, objective, random);
  return {
    dims: {
      batch,
      queryLength,
      keyLength,
      heads,
      keyValueHeads,
      headDim: d,
      valueDim: dv,
    },
    inputs: { query, key, value },
    projections: {
      q_proj: projection('q', heads * d, true),
      k_proj: projection('k', keyValueHeads * d, true),
      v_proj: projection('v', keyValueHeads * dv, false),
    },
    scaling,
    mask: causal ? CAUSAL : NO_MASK,
    objective: { kind, tensor: objective },
  };
}

/** y_i <- (y_i + C x_i) / sqrt(2) with a random C (width of y, width of x) that keeps the size of rows. */
function addLinearMap(x: Tensor, y: Tensor, random: Random): void {
  const [inputs, width] = [x.shape, y.shape].map((shape) => shape[shape.length - 1]);
  const map = Float64Array.from({ length: width * inputs }, () => normal(random));
  for (let i = 0; i < y.data.length / width; i++) {
    for (let c = 0; c < width; c++) {
      let sum = 0;
      for (let a = 0; a < inputs; a++) sum += map[c * inputs + a] * x.data[i * inputs + a];
      y.data[i * width + c] = (y.data[i * width + c] + sum / Math.sqrt(inputs)) / Math.SQRT2;
    }
  }
}

export type Gradients = Record<TensorName, Float64Array>;

/** y (n, out) = x (n, in) w (out, in)' . */
function times(x: ArrayLike<number>, n: number, inputs: number, w: ArrayLike<number>, out: number) {
  const y = new Float64Array(n * out);
  for (let i = 0; i < n; i++) {
    for (let o = 0; o < out; o++) {
      let sum = 0;
      for (let a = 0; a < inputs; a++) sum += x[i * inputs + a] * w[o * inputs + a];
      y[i * out + o] = sum;
    }
  }
  return y;
}

function project(p: Projection, x: ArrayLike<number>, n: number): Float64Array {
  const { inFeatures, outFeatures, adapter, bias, weight } = p;
  const y = times(x, n, inFeatures, weight!.data, outFeatures);
  if (bias) for (let i = 0; i < y.length; i++) y[i] += bias.data[i % outFeatures];
  if (adapter) {
    const low = times(x, n, inFeatures, adapter.A.data, adapter.rank);
    const up = times(low, n, adapter.rank, adapter.B.data, outFeatures);
    for (let i = 0; i < y.length; i++) y[i] += adapter.scaling * up[i];
  }
  return y;
}

/** Exact gradients by the textbook formulas, in float64, with whole rows of P: the oracle. */
export function exactGradients(problem: AttentionProblem): Gradients {
  const { dims, projections, inputs, mask, objective, scaling: beta } = problem;
  const { batch, queryLength: nq, keyLength: nk, heads, keyValueHeads, headDim: d } = dims;
  const dv = dims.valueDim;
  const { q_proj, k_proj, v_proj } = projections;
  const result = {} as Gradients;
  const sizes = [q_proj, k_proj, v_proj].flatMap((p) => [
    (p.adapter?.rank ?? 0) * p.inFeatures,
    (p.adapter?.rank ?? 0) * p.outFeatures,
  ]);
  TENSORS.forEach((name, t) => {
    result[name] = new Float64Array(sizes[t]);
  });
  for (let b = 0; b < batch; b++) {
    const part = (t: Tensor) =>
      t.data.subarray((b * t.data.length) / batch, ((b + 1) * t.data.length) / batch);
    const [xq, xk, xv] = [part(inputs.query), part(inputs.key), part(inputs.value)];
    const q = project(q_proj, xq, nq);
    const k = project(k_proj, xk, nk);
    const v = project(v_proj, xv, nk);
    const y = part(objective.tensor);
    const dq = new Float64Array(q.length);
    const dk = new Float64Array(k.length);
    const dvs = new Float64Array(v.length);
    for (let h = 0; h < heads; h++) {
      const hk = Math.floor(h / (heads / keyValueHeads));
      for (let i = 0; i < nq; i++) {
        const seen = mask.right === 0 ? Math.min(i + 1, nk) : nk;
        const s = new Float64Array(seen);
        const qi = (i * heads + h) * d;
        let max = -Infinity;
        for (let j = 0, kj = hk * d; j < seen; j++, kj += keyValueHeads * d) {
          let dot = 0;
          for (let a = 0; a < d; a++) dot += q[qi + a] * k[kj + a];
          s[j] = beta * dot;
          max = Math.max(max, s[j]);
        }
        let total = 0;
        for (let j = 0; j < seen; j++) {
          s[j] = Math.exp(s[j] - max);
          total += s[j];
        }
        const o = new Float64Array(dv);
        for (let j = 0, vj = hk * dv; j < seen; j++, vj += keyValueHeads * dv) {
          s[j] /= total;
          const p = s[j];
          for (let a = 0; a < dv; a++) o[a] += p * v[vj + a];
        }
        const g = o.map((x, a) => {
          const given = y[(i * heads + h) * dv + a];
          return objective.kind === 'target' ? x - given : given;
        });
        let shift = 0;
        for (let a = 0; a < dv; a++) shift += g[a] * o[a];
        for (let j = 0, vj = hk * dv; j < seen; j++, vj += keyValueHeads * dv) {
          const p = s[j];
          let t = -shift;
          for (let a = 0; a < dv; a++) {
            t += g[a] * v[vj + a];
            dvs[vj + a] += p * g[a];
          }
          const ds = beta * p * t;
          const kj = (j * keyValueHeads + hk) * d;
          for (let a = 0; a < d; a++) {
            dq[qi + a] += ds * k[kj + a];
            dk[kj + a] += ds * q[qi + a];
          }
        }
      }
    }
    adapterGradient(q_proj, xq, dq, nq, result, 'q_proj');
    adapterGradient(k_proj, xk, dk, nk, result, 'k_proj');
    adapterGradient(v_proj, xv, dvs, nk, result, 'v_proj');
  }
  return result;
}

/** dA += s (dY B)'X, dB += s dY'(X A'). */
function adapterGradient(
  p: Projection,
  x: ArrayLike<number>,
  dy: Float64Array,
  n: number,
  result: Gradients,
  name: 'q_proj' | 'k_proj' | 'v_proj',
): void {
  if (!p.adapter) return;
  const { A, B, rank, scaling } = p.adapter;
  const [dA, dB] = [result[`${name}.lora_A`], result[`${name}.lora_B`]];
  for (let i = 0; i < n; i++) {
    for (let r = 0; r < rank; r++) {
      let back = 0;
      let low = 0;
      for (let o = 0; o < p.outFeatures; o++)
        back += dy[i * p.outFeatures + o] * B.data[o * rank + r];
      for (let c = 0; c < p.inFeatures; c++) {
        low += x[i * p.inFeatures + c] * A.data[r * p.inFeatures + c];
        dA[r * p.inFeatures + c] += scaling * back * x[i * p.inFeatures + c];
      }
      for (let o = 0; o < p.outFeatures; o++) {
        dB[o * rank + r] += scaling * low * dy[i * p.outFeatures + o];
      }
    }
  }
}

export function norm(x: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < x.length; i++) sum += x[i] * x[i];
  return Math.sqrt(sum);
}

export function distance(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < a.length; i++) sum += (a[i] - b[i]) ** 2;
  return Math.sqrt(sum);
}
