/** The last phase of a gradient: results are rounded to the dtypes that they are answered in. */

import type { Job } from '../../workers/job.js';
import type { ForwardResult, GradientResult } from '../../workers/kernels/result.js';
import {
  type AttentionLayer,
  type AttentionProblem,
  hasAttentionStates,
  PROJECTIONS,
  type ProjectionName,
  STATES,
  type StatesName,
} from '../../workers/problem.js';
import { encodeJob, type Sent } from '../../workers/tasks/encode.js';
import type { EncodedTensor } from '../../workers/tensor/encoded.js';
import type { Tensor } from '../../workers/tensor/tensor.js';
import { Problem } from '../errors.js';
import type { OUTPUTS_DTYPES } from '../request/request.js';

export interface EncodeOptions {
  readonly gradients: boolean;
  /** Whether tensors of the answer carry a batch dimension. */
  readonly batched: boolean;
  /** same: every tensor in the dtype of the tensor that it belongs to. */
  readonly outputsDtype: (typeof OUTPUTS_DTYPES)[number];
}

export interface EncodedResult {
  readonly gradients?: Partial<
    Record<ProjectionName, { readonly lora_A: EncodedTensor; readonly lora_B: EncodedTensor }> &
      Record<StatesName | 'sinks', EncodedTensor>
  >;
  readonly attention_output?: EncodedTensor;
  readonly input_gradients?: Partial<Record<StatesName, EncodedTensor>>;
}

/** The tensors of an answer, and each of them by its name in the answer's `error`, with what rounding did to it. */
export interface Encoded<Tensors> {
  readonly tensors: Tensors;
  readonly byName: ReadonlyMap<string, Sent>;
}

interface Outgoing {
  /** As in the answer's `error`. */
  readonly name: string;
  readonly data: Float32Array | Float64Array;
  /** Gives the dtype: gradients come in that of their tensor, outputs in that of the objective. */
  readonly like: Tensor;
  readonly shape: readonly number[];
}

/** The gradient of an input as the answer's `error` names it; attention states are what is differentiated. */
export function stateGradient(layer: AttentionLayer, name: StatesName): string {
  return hasAttentionStates(layer) ? name : `input_gradients.${name}`;
}

/** The tensor that the client sent under this name. */
function inputNamed({ inputs }: AttentionLayer, name: StatesName): Tensor {
  const of = (role: 'query' | 'key' | 'value') =>
    Object.values(STATES).some((names) => names[role] === name);
  return inputs[(['query', 'key', 'value'] as const).find(of)!];
}

export function* encodePhase(
  problem: AttentionProblem,
  result: GradientResult,
  options: EncodeOptions,
): Job<Encoded<EncodedResult>> {
  const outgoing: Outgoing[] = [];
  const adapted: ProjectionName[] = [];
  for (const name of options.gradients ? PROJECTIONS : []) {
    const { adapter } = problem.projections[name];
    const gradient = result.gradients[name];
    if (!adapter || !gradient) continue;
    adapted.push(name);
    const of = (tensor: 'lora_A' | 'lora_B', like: Tensor) =>
      outgoing.push({ name: `${name}.${tensor}`, data: gradient[tensor], like, shape: like.shape });
    of('lora_A', adapter.A);
    of('lora_B', adapter.B);
  }
  const shapeOf = ({ shape }: Tensor) => (options.batched ? shape : shape.slice(1));
  if (result.attentionOutput) {
    const { tensor: like } = problem.objective;
    const data = result.attentionOutput;
    outgoing.push({ name: 'attention_output', data, like, shape: shapeOf(like) });
  }
  const states = Object.keys(result.inputGradients ?? {}) as StatesName[];
  for (const name of states) {
    const like = inputNamed(problem, name);
    const data = result.inputGradients![name]!;
    outgoing.push({ name: stateGradient(problem, name), data, like, shape: shapeOf(like) });
  }
  const sinks = options.gradients ? result.sinks : null;
  if (sinks) {
    const like = problem.sinks!;
    outgoing.push({ name: 'sinks', data: sinks, like, shape: like.shape });
  }
  const byName = yield* encode(outgoing, options);
  const tensor = (name: string) => byName.get(name)!.tensor;
  const given = hasAttentionStates(problem);
  return {
    byName,
    tensors: {
      ...(options.gradients && {
        gradients: {
          ...Object.fromEntries(
            adapted.map((name) => [
              name,
              { lora_A: tensor(`${name}.lora_A`), lora_B: tensor(`${name}.lora_B`) },
            ]),
          ),
          ...(given && Object.fromEntries(states.map((name) => [name, tensor(name)]))),
          ...(sinks && { sinks: tensor('sinks') }),
        },
      }),
      ...(result.attentionOutput && { attention_output: tensor('attention_output') }),
      ...(states.length > 0 &&
        !given && {
          input_gradients: Object.fromEntries(
            states.map((name) => [name, tensor(`input_gradients.${name}`)]),
          ),
        }),
    },
  };
}

/** The attention output in the dtype of hidden_states or query_states. */
export function* encodeForwardPhase(
  layer: AttentionLayer,
  { attentionOutput: data }: ForwardResult,
  options: EncodeOptions,
): Job<Encoded<EncodedTensor>> {
  const { batch, queryLength, heads, valueDim } = layer.dims;
  const width = hasAttentionStates(layer) ? [heads, valueDim] : [heads * valueDim];
  const shape = [batch, queryLength, ...width].slice(options.batched ? 0 : 1);
  const name = 'attention_output';
  const outgoing = [{ name, data, like: layer.inputs.query, shape }];
  const byName = yield* encode(outgoing, options);
  return { tensors: byName.get(name)!.tensor, byName };
}

/** @throws {Problem} when a number is finite and its dtype cannot hold it. */
function* encode(
  outgoing: readonly Outgoing[],
  { outputsDtype }: EncodeOptions,
): Job<ReadonlyMap<string, Sent>> {
  const sent = yield* encodeJob(
    outgoing.map(({ data, like, shape }) => {
      return { data, dtype: outputsDtype === 'same' ? like.dtype : outputsDtype, shape };
    }),
  );
  outgoing.forEach(({ name }, k) => {
    const { dtype, infinite } = sent[k].narrowing;
    if (infinite === 0) return;
    throw new Problem(
      'not-finite',
      `${titleOf(name)} has ${infinite} ${infinite === 1 ? 'number' : 'numbers'} too large for ${dtype}. ${dtype === 'float32' ? 'Send its tensor in float64.' : 'Ask for outputs_dtype float32.'}`,
      { pointer: '/outputs_dtype' },
    );
  });
  return new Map(outgoing.map(({ name }, k) => [name, sent[k]]));
}

/** A tensor of the answer in a sentence: 'q_proj.lora_A', 'input_gradients.hidden_states', ... */
export function titleOf(name: string): string {
  if (name === 'attention_output') return 'The attention output';
  return `The gradient of ${name.replace('input_gradients.', '')}`;
}
