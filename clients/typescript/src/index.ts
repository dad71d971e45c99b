/** What `import ... from 'loragrad-client'` gives. */

export type { Dtype } from '../../../workers/tensor/dtype.js';
export type * from './api.js';
export {
  type CallOptions,
  Client,
  type ClientOptions,
  type ComputeOptions,
  type JobStep,
} from './client.js';
export { decodeRequest, encodeRequest } from './codec.js';
export { ProblemError, ServiceUnreachableError } from './errors.js';
export { KeptTensor } from './kept-tensor.js';
export type { GivenTensor, NestedList, Tensor, TensorInput } from './tensors.js';
