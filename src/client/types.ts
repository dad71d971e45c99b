/** What the client takes and gives: the types of the schemas, with tensors in memory as their leaves. */
import type { Static } from 'typebox';
import type { Dtype } from '../../workers/tensor/dtype.js';
import type { EncodedTensor } from '../../workers/tensor/encoded.js';
import type { GivenTensor } from '../../workers/tensor/tensor.js';
import type {
  ForwardAnswerSchema,
  GradientAnswerSchema,
  PlanAnswerSchema,
} from '../http/schemas/answers.js';
import type { LimitsSchema } from '../http/schemas/limits.js';
import type {
  ForwardRequest as WireForwardRequest,
  GradientRequest as WireRequest,
} from '../request/request.js';
import type { KeptTensor } from './kept-tensor.js';

/** A dense tensor in memory. */
export interface Tensor {
  /** Type on the wire; float16 and bfloat16 are float32 in memory, and rounded on their way out. */
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Row-major (C order), as many elements as the product of the shape. */
  readonly data: Float32Array | Float64Array;
}

/** Without dtype a tensor travels as float32 or float64, as its data is. */
export type TensorInput = Omit<Tensor, 'dtype'> & Partial<Pick<Tensor, 'dtype'>>;

/** T with another type of tensors. */
type WithTensors<T, Leaf> = T extends GivenTensor | EncodedTensor
  ? Leaf
  : T extends readonly unknown[]
    ? T
    : T extends object
      ? { [Key in keyof T]: WithTensors<T[Key], Leaf> }
      : T;

export type GradientRequest = WithTensors<WireRequest, TensorInput | KeptTensor>;
export type ForwardRequest = WithTensors<WireForwardRequest, TensorInput | KeptTensor>;
export type ForwardAnswer = WithTensors<Static<typeof ForwardAnswerSchema>, Tensor>;
export type GradientAnswer = WithTensors<Static<typeof GradientAnswerSchema>, Tensor>;
export type PlanAnswer = Static<typeof PlanAnswerSchema>;
export type Limits = Static<typeof LimitsSchema>;
