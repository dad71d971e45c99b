/** The last phase of a gradient: results are rounded to the dtypes that they are answered in. */
import { encodeJob } from '../../workers/encode.js';
import type { Job } from '../../workers/kernels/job.js';
import type { GradientResult } from '../../workers/kernels/result.js';
import { type AttentionProblem, PROJECTIONS, type ProjectionName } from '../lora/problem.js';
import type { EncodedTensor } from '../tensor/encoded.js';
import type { Tensor } from '../tensor/tensor.js';

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
}

interface Outgoing {
  readonly data: Float32Array | Float64Array;
  /** Gives the dtype: gradients come in that of their adapter, outputs in that of the objective. */
  readonly like: Tensor;
  readonly shape: readonly number[];
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
  };
}
