/** The last phase of a gradient: results are rounded to the dtypes that they are answered in. */

import type { Job } from '../../workers/job.js';
import type { ForwardResult, GradientResult } from '../../workers/kernels/result.js';
import {
  type AttentionLayer,
  type AttentionProblem,
  PROJECTIONS,
  type ProjectionName,
  STATES,
  type StatesName,
} from '../../workers/problem.js';
import { encodeJob } from '../../workers/tasks/encode.js';
import type { EncodedTensor } from '../../workers/tensor/encoded.js';
import type { Tensor } from '../../workers/tensor/tensor.js';

export interface EncodeOptions {
  readonly gradients: boolean;
  /** Whether tensors of the answer carry a batch dimension. */
  readonly batched: boolean;
}

export interface EncodedResult {
  readonly gradients?: Partial<
    Record<ProjectionName, { readonly lora_A: EncodedTensor; readonly lora_B: EncodedTensor }>
  >;
  readonly attention_output?: EncodedTensor;
  readonly input_gradients?: Partial<Record<StatesName, EncodedTensor>>;
}

interface Outgoing {
  readonly data: Float32Array | Float64Array;
  /** Gives the dtype: gradients come in that of their tensor, outputs in that of the objective. */
  readonly like: Tensor;
  readonly shape: readonly number[];
}

/** The tensor that the client sent under this name. */
function inputNamed({ inputs }: AttentionLayer, name: StatesName): Tensor {
  const of = (role: 'query' | 'key' | 'value') =>
    STATES.self[role] === name || STATES.cross[role] === name;
  return inputs[(['query', 'key', 'value'] as const).find(of)!];
}

export function* encodePhase(
  problem: AttentionProblem,
  result: GradientResult,
  options: EncodeOptions,
): Job<EncodedResult> {
  const outgoing: Outgoing[] = [];
  const adapted: ProjectionName[] = [];
  for (const name of options.gradients ? PROJECTIONS : []) {
    const { adapter } = problem.projections[name];
    const gradient = result.gradients[name];
    if (!adapter || !gradient) continue;
    adapted.push(name);
    outgoing.push({ data: gradient.lora_A, like: adapter.A, shape: adapter.A.shape });
    outgoing.push({ data: gradient.lora_B, like: adapter.B, shape: adapter.B.shape });
  }
  if (result.attentionOutput) {
    const { tensor } = problem.objective;
    const shape = options.batched ? tensor.shape : tensor.shape.slice(1);
    outgoing.push({ data: result.attentionOutput, like: tensor, shape });
  }
  const firstInput = outgoing.length;
  const states = Object.keys(result.inputGradients ?? {}) as StatesName[];
  for (const name of states) {
    const like = inputNamed(problem, name);
    const shape = options.batched ? like.shape : like.shape.slice(1);
    outgoing.push({ data: result.inputGradients![name]!, like, shape });
  }
  const encoded = yield* encodeJob(
    outgoing.map(({ data, like, shape }) => ({ data, dtype: like.dtype, shape })),
  );
  return {
    ...(options.gradients && {
      gradients: Object.fromEntries(
        adapted.map((name, k) => [name, { lora_A: encoded[2 * k], lora_B: encoded[2 * k + 1] }]),
      ),
    }),
    ...(result.attentionOutput && { attention_output: encoded[2 * adapted.length] }),
    ...(states.length > 0 && {
      input_gradients: Object.fromEntries(states.map((name, k) => [name, encoded[firstInput + k]])),
    }),
  };
}

/** The attention output in the dtype of hidden_states or query_states. */
export function* encodeForwardPhase(
  layer: AttentionLayer,
  { attentionOutput }: ForwardResult,
  batched: boolean,
): Job<EncodedTensor> {
  const { batch, queryLength, heads, valueDim } = layer.dims;
  const shape = [batch, queryLength, heads * valueDim].slice(batched ? 0 : 1);
  const { dtype } = layer.inputs.query;
  const [encoded] = yield* encodeJob([{ data: attentionOutput, dtype, shape }]);
  return encoded;
}
