/** A problem of any size for warming up and for measuring: one head, adapters on queries and values. */
import { NO_MASK } from '../mask.js';
import type { AttentionProblem, Projection } from '../problem.js';
import { allocateTensor, type Tensor } from '../tensor/tensor.js';

/** X (L, width), d = dv = width, entries of unit size; small logits. */
export function sampleProblem(length: number, width: number, rank: number): AttentionProblem {
  let state = 1;
  const random = () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.sqrt(12) * (state / 2 ** 32 - 0.5);
  };
  const tensor = (shape: readonly number[], deviation: number): Tensor => {
    const made = allocateTensor('float32', shape);
    for (let k = 0; k < made.data.length; k++) made.data[k] = deviation * random();
    return made;
  };
  const projection = (adapted: boolean): Projection => ({
    weight: tensor([width, width], 0.5 / Math.sqrt(width)),
    bias: null,
    adapter: adapted
      ? {
          A: tensor([rank, width], 1 / Math.sqrt(width)),
          B: tensor([width, rank], 0.1),
          rank,
          scaling: 1,
        }
      : null,
    outFeatures: width,
    inFeatures: width,
  });
  const states = tensor([1, length, width], 1);
  return {
    dims: {
      batch: 1,
      queryLength: length,
      keyLength: length,
      heads: 1,
      keyValueHeads: 1,
      headDim: width,
      valueDim: width,
    },
    inputs: { query: states, key: states, value: states },
    projections: { q_proj: projection(true), k_proj: projection(false), v_proj: projection(true) },
    scaling: 1 / Math.sqrt(width),
    mask: NO_MASK,
    objective: { kind: 'grad_output', tensor: tensor([1, length, width], 1) },
  };
}
