/** Random problems for tests, already decoded. */
import { CAUSAL, NO_MASK } from '../../workers/mask.js';
import type { AttentionProblem, Projection } from '../../workers/problem.js';
import { allocateTensor, type Tensor } from '../../workers/tensor/tensor.js';
import { type Random, seededRandom } from './random.js';

export interface ProblemShape {
  readonly batch?: number;
  readonly length?: number;
  readonly keyLength?: number;
  readonly width?: number;
  readonly heads?: number;
  readonly keyValueHeads?: number;
  readonly headDim?: number;
  readonly valueDim?: number;
  readonly rank?: number;
  readonly adapted?: readonly ('q_proj' | 'k_proj' | 'v_proj')[];
  readonly causal?: boolean;
  readonly objective?: 'target' | 'grad_output';
}

export function randomTensor(random: Random, shape: readonly number[], deviation = 1): Tensor {
  const tensor = allocateTensor('float32', shape);
  for (let k = 0; k < tensor.data.length; k++) tensor.data[k] = deviation * random.normal();
  return tensor;
}

export function randomProblem(seed: number, shape: ProblemShape = {}): AttentionProblem {
  const random = seededRandom(seed);
  const { batch = 1, length = 16, width = 12, heads = 1, headDim = 8, rank = 2 } = shape;
  const { keyLength = length, keyValueHeads = heads, valueDim = headDim } = shape;
  const { adapted = ['q_proj', 'k_proj', 'v_proj'], causal = false } = shape;
  const projection = (name: 'q_proj' | 'k_proj' | 'v_proj', outFeatures: number): Projection => ({
    weight: randomTensor(random, [outFeatures, width], 1 / Math.sqrt(width)),
    bias: null,
    adapter: adapted.includes(name)
      ? {
          A: randomTensor(random, [rank, width], 1 / Math.sqrt(width)),
          B: randomTensor(random, [outFeatures, rank], 0.3),
          rank,
          scaling: 1,
        }
      : null,
    outFeatures,
    inFeatures: width,
  });
  const query = randomTensor(random, [batch, length, width]);
  const self = keyLength === length;
  const key = self ? query : randomTensor(random, [batch, keyLength, width]);
  return {
    dims: { batch, queryLength: length, keyLength, heads, keyValueHeads, headDim, valueDim },
    inputs: { query, key, value: key },
    projections: {
      q_proj: projection('q_proj', heads * headDim),
      k_proj: projection('k_proj', keyValueHeads * headDim),
      v_proj: projection('v_proj', keyValueHeads * valueDim),
    },
    scaling: 1 / Math.sqrt(headDim),
    mask: causal ? CAUSAL : NO_MASK,
    objective: {
      kind: shape.objective ?? 'grad_output',
      tensor: randomTensor(random, [batch, length, heads * valueDim]),
    },
  };
}
