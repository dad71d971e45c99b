/** Random attention problems with a chosen spectrum, tail and logit size, and their exact gradients. */
import { TENSORS, type TensorName } from '../../../workers/kernels/low-rank/head/tensors.js';
import { Random } from '../../../workers/kernels/random.js';
import { CAUSAL, NO_MASK } from '../../../workers/mask.js';
import type { AttentionProblem, Projection } from '../../../workers/problem.js';
import type { Tensor } from '../../../workers/tensor/tensor.js';
import { named, reference } from '../run.js';

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

/** The exact gradient of each tensor in float64; empty where it is frozen. */
export function exactGradients(problem: AttentionProblem): Record<TensorName, Float64Array> {
  const exact = named(reference(problem)) as Map<string, Float64Array>;
  const gradients = TENSORS.map((name) => [name, exact.get(name) ?? new Float64Array(0)]);
  return Object.fromEntries(gradients) as Record<TensorName, Float64Array>;
}
