/** What `import ... from 'loragrad'` gives. */

export type { Dtype } from '../../workers/tensor/dtype.js';
export { type CallOptions, Client, type ClientOptions } from './client.js';
export { KeptTensor } from './kept-tensor.js';
export { ProblemError } from './problem-error.js';
export type {
  ForwardAnswer,
  ForwardRequest,
  GradientAnswer,
  GradientRequest,
  Limits,
  PlanAnswer,
  Tensor,
  TensorInput,
} from './types.js';
