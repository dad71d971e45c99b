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
    max_json_body_bytes: limit('Largest JSON body, and longest answer in JSON, bytes.'),
    max_requests: limit(
      'Requests that may compute or wait to at the same time; others wait up to a second for a place, then get 429.',
    ),
    max_inflight_bytes: limit(
      'Bytes of all bodies that have arrived, of tensors that they refer to, and of answers that are computed or not yet read; more get 429. Also the largest answer.',
    ),
    max_compute_bytes: limit(
      'Memory for one computation, and for all running ones together, bytes, as predicted from their shapes.',
    ),
    max_compute_seconds: limit('Longest computation, in predicted seconds of one worker.'),
    max_heads: limit('Query heads of all batch items together.'),
    max_low_rank_heads: limit('The same for the low-rank kernel.'),
    min_bytes_per_second: limit(
      'Lowest average rate at which a body may arrive and an answer may be read.',
    ),
    patience_ms: limit('Longest pause while a body is sent or an answer is read, ms.'),
    deadline_ms: limit('Longest time from the head of a request to its answer, ms.'),
    job_deadline_ms: limit('The same for jobs (requests with Prefer: respond-async), ms.'),
    job_ttl_ms: limit('How long the answer of a job is kept until it is fetched, ms.'),
    max_jobs: limit('Jobs that are computed or whose answers are kept; more get 429.'),
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
