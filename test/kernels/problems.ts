/** Random attention problems for tests of kernels. */
import { CAUSAL, keyRanges, keysOfRow, type Mask, NO_MASK } from '../../workers/mask.js';
import type { Adapter, AttentionProblem, Projection, Rotary } from '../../workers/problem.js';
import type { Tensor } from '../../workers/tensor/tensor.js';
import { normal } from '../support/random.js';

export interface ProblemOptions {
  batch?: number;
  queryLength?: number;
  keyLength?: number;
  heads?: number;
  keyValueHeads?: number;
  headDim?: number;
  valueDim?: number;
  inFeatures?: number;
  /** Ranks of the adapters; 0 or absent: frozen. */
  ranks?: { q?: number; k?: number; v?: number };
  bias?: boolean;
  causal?: boolean;
  /** true: all channels; else the first so many. */
  rotary?: boolean | number;
  keyLengths?: number[];
  /** In place of causal and keyLengths. */
  mask?: Mask;
  softcap?: number;
  sinks?: boolean;
  objective?: 'target' | 'grad_output';
  /** Standard deviation of the logits, about. */
  spread?: number;
  dtype?: 'float32' | 'float64';
  seed: number;
}

export function tensor(
  shape: number[],
  dtype: 'float32' | 'float64',
  fill: (k: number) => number,
): Tensor {
  const size = shape.reduce((a, b) => a * b, 1);
  const data =
    dtype === 'float32'
      ? new Float32Array(new SharedArrayBuffer(4 * size))
      : new Float64Array(new SharedArrayBuffer(8 * size));
  for (let k = 0; k < size; k++) data[k] = fill(k);
  return { dtype, shape, data };
}

/** As Transformers computes them; item b of the batch begins at position 3 b. */
export function rotaryTables(
  batch: number,
  length: number,
  d: number,
  dtype: 'float32' | 'float64',
): Rotary {
  const angle = (k: number) => {
    const [item, token, c] = [Math.floor(k / (length * d)), Math.floor(k / d) % length, k % d];
    return (3 * item + token) * 10000 ** ((-2 * (c % (d / 2))) / d);
  };
  const make = (of: (x: number) => number) =>
    tensor([batch, length, d], dtype, (k) => of(angle(k)));
  return { cos: make(Math.cos), sin: make(Math.sin) };
}

/** Attention states: queries, keys and values as they are, standard normal but for the spread of the logits. */
export function randomStates(options: Omit<ProblemOptions, 'ranks' | 'rotary' | 'bias'>) {
  const projected = randomProblem({ ...options, ranks: {} });
  const { batch, queryLength, keyLength, heads, keyValueHeads, headDim, valueDim } = projected.dims;
  const random = normal(options.seed + 1);
  const size = Math.sqrt(options.spread ?? 1);
  const states = (length: number, count: number, width: number, scale: number) =>
    tensor([batch, length, count, width], options.dtype ?? 'float32', () => scale * random());
  const identity = (width: number): Projection => ({
    ...{ weight: null, bias: null, adapter: null, outFeatures: width, inFeatures: width },
  });
  return {
    ...projected,
    inputs: {
      query: states(queryLength, heads, headDim, size),
      key: states(keyLength, keyValueHeads, headDim, size),
      value: states(keyLength, keyValueHeads, valueDim, 1),
    },
    projections: {
      q_proj: identity(heads * headDim),
      k_proj: identity(keyValueHeads * headDim),
      v_proj: identity(keyValueHeads * valueDim),
    },
  } satisfies AttentionProblem;
}

/** ln of the row sums, (B, H, Lq), from the scores as they stand in the formula. */
export function logSumExp({
  dims,
  inputs,
  scaling,
  softcap,
  sinks,
  mask,
}: AttentionProblem): Tensor {
  const { batch, heads, keyValueHeads, queryLength, keyLength, headDim: d } = dims;
  return tensor([batch, heads, queryLength], 'float32', (index) => {
    const [row, head] = [index % queryLength, Math.floor(index / queryLength) % heads];
    const item = Math.floor(index / queryLength / heads);
    const q = ((item * queryLength + row) * heads + head) * d;
    const seen = keysOfRow({ dims, mask }, item, row);
    const logits = sinks ? [sinks.data[head]!] : [];
    for (let j = seen.first; j < seen.last; j++) {
      const shared = Math.floor((head * keyValueHeads) / heads);
      const k = ((item * keyLength + j) * keyValueHeads + shared) * d;
      let s = 0;
      for (let c = 0; c < d; c++) s += inputs.query.data[q + c]! * inputs.key.data[k + c]!;
      s *= scaling;
      logits.push(softcap ? softcap * Math.tanh(s / softcap) : s);
    }
    if (logits.length === 0) return 0;
    const max = Math.max(...logits);
    return max + Math.log(logits.reduce((sum, s) => sum + Math.exp(s - max), 0));
  });
}

/** Attention states with the row sums of their forward pass. */
export function statesWithSums(options: Parameters<typeof randomStates>[0]): AttentionProblem {
  const states = randomStates(options);
  return { ...states, known: { logSumExp: logSumExp(states) } };
}

export function randomProblem(options: ProblemOptions): AttentionProblem {
  const { batch = 1, queryLength = 64, heads = 1, headDim = 16, inFeatures = 24 } = options;
  const { keyLength = queryLength, keyValueHeads = heads, valueDim = headDim } = options;
  const { ranks = { q: 4, k: 4, v: 4 }, dtype = 'float32', spread = 1 } = options;
  const random = normal(options.seed);
  const make = (shape: number[], scale: number) => tensor(shape, dtype, () => scale * random());

  const adapter = (out: number, rank: number): Adapter => ({
    A: make([rank, inFeatures], inFeatures ** -0.5),
    B: make([out, rank], 0.3 * rank ** -0.5),
    rank,
    scaling: 2,
  });
  const projection = (out: number, rank: number, size: number): Projection => ({
    weight: make([out, inFeatures], size * inFeatures ** -0.5),
    bias: options.bias ? make([out], 0.1) : null,
    adapter: rank ? adapter(out, rank) : null,
    outFeatures: out,
    inFeatures,
  });
  const X = make([batch, queryLength, inFeatures], 1);
  const XK = keyLength === queryLength ? X : make([batch, keyLength, inFeatures], 1);
  const size = Math.sqrt(spread);
  return {
    dims: { batch, queryLength, keyLength, heads, keyValueHeads, headDim, valueDim },
    inputs: { query: X, key: XK, value: XK },
    projections: {
      q_proj: projection(heads * headDim, ranks.q ?? 0, size),
      k_proj: projection(keyValueHeads * headDim, ranks.k ?? 0, size),
      v_proj: projection(keyValueHeads * valueDim, ranks.v ?? 0, 1),
    },
    scaling: headDim ** -0.5,
    mask: options.mask ?? {
      ...(options.causal ? CAUSAL : NO_MASK),
      ...(options.keyLengths && {
        keys: keyRanges(options.keyLengths.map((last) => ({ first: 0, last }))),
      }),
    },
    ...(options.softcap && { softcap: options.softcap }),
    ...(options.sinks && { sinks: make([heads], 1) }),
    ...(options.rotary && {
      rotary: rotaryTables(
        ...([batch, queryLength] as const),
        options.rotary === true ? headDim : options.rotary,
        dtype,
      ),
    }),
    objective: {
      kind: options.objective ?? 'grad_output',
      tensor: make([batch, queryLength, heads * valueDim], 1),
    },
  };
}
