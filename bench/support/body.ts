/** A problem as the body of POST /gradient. */
import { Packr } from 'msgpackr/pack';
import type { AttentionProblem, Projection } from '../../workers/problem.js';
import type { Tensor } from '../../workers/tensor/tensor.js';

type Encode = (tensor: Tensor) => unknown;

const bytes = ({ data }: Tensor) => Buffer.from(data.buffer, data.byteOffset, data.byteLength);

function request(problem: AttentionProblem, encode: Encode): Record<string, unknown> {
  const wire = (tensor: Tensor) => ({
    dtype: tensor.dtype,
    shape: tensor.shape,
    data: encode(tensor),
  });
  const projection = ({ weight, adapter }: Projection) => ({
    weight: wire(weight!),
    ...(adapter && {
      lora_A: wire(adapter.A),
      lora_B: wire(adapter.B),
      lora_alpha: adapter.scaling * adapter.rank,
    }),
  });
  const { q_proj, k_proj, v_proj } = problem.projections;
  return {
    hidden_states: wire(problem.inputs.query),
    q_proj: projection(q_proj),
    k_proj: projection(k_proj),
    v_proj: projection(v_proj),
    num_attention_heads: problem.dims.heads,
    [problem.objective.kind]: wire(problem.objective.tensor),
  };
}

const packr = new Packr({ useRecords: false });

export interface Body {
  readonly contentType: string;
  readonly bytes: Buffer;
}

/** @param options fields of the request beside the tensors. */
export function messagePackBody(problem: AttentionProblem, options: object = {}): Body {
  return {
    contentType: 'application/vnd.msgpack',
    bytes: Buffer.from(packr.pack({ ...request(problem, bytes), ...options })),
  };
}

export function jsonBody(problem: AttentionProblem): Body {
  const encode = (tensor: Tensor) => bytes(tensor).toString('base64');
  return {
    contentType: 'application/json',
    bytes: Buffer.from(JSON.stringify(request(problem, encode))),
  };
}
