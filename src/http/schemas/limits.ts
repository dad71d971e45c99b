/** The answer of GET /limits. */
import Type from 'typebox';

const limit = (description: string) => Type.Integer({ description });

export const LimitsSchema = Type.Object(
  {
    kernels: Type.String({
      description:
        'Build of the inner loops in use: avx512, avx2, neon, wasm-relaxed or wasm-plain.',
    }),
    max_body_bytes: limit('Largest MessagePack body, bytes.'),
    max_json_body_bytes: limit('Largest JSON body, bytes.'),
    max_requests: limit('Requests with a body in the house at once; more get 429.'),
    max_inflight_bytes: limit(
      'Sum of the sizes of their bodies, tensors that they refer to included, bytes; more get 429.',
    ),
    deadline_ms: limit('Longest time from the head of a request to its answer, ms.'),
    body_timeout_ms: limit('Longest time for a request to arrive whole, ms.'),
    max_store_bytes: limit(
      'Memory of all tensors that PUT /tensors keeps, bytes; float16 and bfloat16 count as float32.',
    ),
    max_depth: limit('Maps and arrays inside each other.'),
    max_keys: limit(
      'Keys of all maps of a body together; also maps, and entries of lists without numbers.',
    ),
    max_elements: limit('Elements of all arrays of a body together (nested lists).'),
    max_arrays: limit('Arrays in a body: the rows of nested lists.'),
    max_tensors: limit('Tensors in a body.'),
    max_key_bytes: limit('Bytes of one key.'),
    max_string_bytes: limit('Bytes of one string other than base64 data.'),
    max_features: limit('Features of the low-rank kernel.'),
    max_low_rank_width: limit('Width of a head that the low-rank kernel takes.'),
    max_dimensions: limit('Dimensions of a tensor.'),
  },
  { $id: 'Limits', description: 'Every limit that a request can hit.' },
);
