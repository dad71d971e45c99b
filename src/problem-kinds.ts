/**
 * Every problem that the service can answer, in one place: a stable type, its status and what to do about it (RFC 9457).
 * docs/problems.md lists them; a test compares the two.
 */

interface Kind {
  readonly status: number;
  readonly title: string;
  /** What to do about it: shown in the documentation. */
  readonly remedy: string;
}

export const PROBLEMS = {
  'malformed-body': {
    status: 400,
    title: 'The body cannot be decoded',
    remedy:
      'Send exactly one MessagePack map or one JSON object: no extension types, nothing after it.',
  },
  'bad-request': {
    status: 400,
    title: 'The HTTP request is not valid',
    remedy: 'See the detail: a header or the URL is malformed.',
  },
  unauthorized: {
    status: 401,
    title: 'An API key is needed',
    remedy: 'Send Authorization: Bearer and the key, or x-api-key.',
  },
  'misdirected-request': {
    status: 421,
    title: 'The service does not answer to this host name',
    remedy: 'Use a name that the operator allows (LORAGRAD_HOSTS).',
  },
  'not-found': {
    status: 404,
    title: 'There is nothing at this address',
    remedy: 'GET /docs shows every route.',
  },
  'method-not-allowed': {
    status: 405,
    title: 'This address does not take this method',
    remedy: 'The Allow header names the methods that it takes.',
  },
  'not-acceptable': {
    status: 406,
    title: 'None of the accepted media types can be answered',
    remedy: 'Accept application/vnd.msgpack or application/json.',
  },
  'request-timeout': {
    status: 408,
    title: 'The request did not arrive in time',
    remedy: 'Send it faster or in smaller pieces; GET /limits tells how long one may take.',
  },
  'missing-tensors': {
    status: 409,
    title: 'Tensors that are referred to are not in the store',
    remedy:
      'The member missing lists all of them. PUT each to /tensors/{sha256}, then send the request again.',
  },
  'body-too-large': {
    status: 413,
    title: 'The body is too large',
    remedy:
      'GET /limits tells the limits. JSON bodies have a smaller one: use MessagePack for real tensors.',
  },
  'tensor-too-large': {
    status: 413,
    title: 'The tensor is larger than the store',
    remedy: 'Send it inside the request instead, or raise LORAGRAD_STORE_BYTES.',
  },
  'uri-too-long': {
    status: 414,
    title: 'The address is too long',
    remedy: 'GET /docs shows every route; none has a long address.',
  },
  'unsupported-media-type': {
    status: 415,
    title: 'The media type or the coding of the body is not supported',
    remedy:
      'Send application/vnd.msgpack, application/msgpack, application/x-msgpack or application/json, as it is or in a content coding that the header Accept-Encoding of the answer names.',
  },
  'expectation-failed': {
    status: 417,
    title: 'The header Expect asks for something unknown',
    remedy: 'Expect 100-continue or nothing.',
  },
  'unknown-key': {
    status: 422,
    title: 'A key is not known',
    remedy: 'Remove it or correct its spelling; the detail names the known keys.',
  },
  'missing-key': {
    status: 422,
    title: 'A key is missing',
    remedy: 'Add the key that the detail names.',
  },
  'conflicting-keys': {
    status: 422,
    title: 'Two keys exclude each other',
    remedy: 'Send one of the two.',
  },
  'invalid-value': {
    status: 422,
    title: 'A value is not valid',
    remedy: 'See the detail for what is expected at the pointer.',
  },
  'invalid-tensor': {
    status: 422,
    title: 'A tensor is not valid',
    remedy:
      'Send {dtype, shape, data}: little-endian, row-major, with prod(shape) x itemsize bytes of data.',
  },
  'digest-mismatch': {
    status: 422,
    title: 'The tensor is not the one that the URL names',
    remedy:
      'The URL holds the SHA-256 of "{dtype}\\n{shape joined by commas}\\n" and the data, little endian and row-major.',
  },
  'not-finite': {
    status: 422,
    title: 'A tensor holds NaN or infinity',
    remedy: 'The detail names the tensor and the first index; look there in the trainer.',
  },
  'shape-mismatch': {
    status: 422,
    title: 'Two shapes do not fit each other',
    remedy: 'The detail names both shapes and the rule between them.',
  },
  'limit-exceeded': {
    status: 422,
    title: 'A limit is exceeded',
    remedy: 'GET /limits tells the limits.',
  },
  'ends-workers': {
    status: 422,
    title: 'The computation ended its worker thread, twice',
    remedy:
      'The same body is refused for a minute. Look for the request id in the log of the service; others are not affected.',
  },
  'nothing-to-do': {
    status: 422,
    title: 'No projection has an adapter',
    remedy: 'Give lora_A and lora_B to at least one of q_proj, k_proj and v_proj.',
  },
  'tolerance-missed': {
    status: 422,
    title: 'The tolerance cannot be kept',
    remedy:
      'Take method auto or exact, the tolerance or the number of features that the detail names, or outputs_dtype float32.',
  },
  'queue-full': {
    status: 429,
    title: 'The service is busy',
    remedy: 'Wait as long as Retry-After says, then send the same request again.',
  },
  'quota-exceeded': {
    status: 429,
    title: 'The quota of the API key is used up',
    remedy: 'Wait as long as Retry-After says, or ask the operator for a larger one.',
  },
  'headers-too-large': {
    status: 431,
    title: 'The headers are too large',
    remedy: 'Send fewer or shorter headers.',
  },
  'client-gone': {
    status: 499,
    title: 'The client closed the connection',
    remedy: 'Seen in the log and the metrics only: the computation was stopped.',
  },
  'internal-error': {
    status: 500,
    title: 'The service failed',
    remedy: 'Look for the request id in the log of the service. The request is not at fault.',
  },
  'worker-lost': {
    status: 503,
    title: 'The computation lost its threads',
    remedy: 'Send the same request again after Retry-After: it is not at fault.',
  },
  'not-ready': {
    status: 503,
    title: 'The workers do not answer',
    remedy: 'Send the request to another instance, or again after Retry-After.',
  },
  'store-full': {
    status: 503,
    title: 'The store of the queue is full',
    remedy:
      'Send the same request again after Retry-After; the operator can give the store more memory.',
  },
  'store-away': {
    status: 503,
    title: 'The store of the queue does not answer',
    remedy:
      'Send the same request again after Retry-After: whether there is such a job is not known now.',
  },
  'shutting-down': {
    status: 503,
    title: 'The service is shutting down',
    remedy: 'Send the request to another instance, or again after Retry-After.',
  },
  'deadline-exceeded': {
    status: 504,
    title: 'The computation took longer than the deadline',
    remedy: 'Send a smaller problem or raise LORAGRAD_DEADLINE_MS.',
  },
} as const satisfies Record<string, Kind>;

export type ProblemKind = keyof typeof PROBLEMS;

export function problemType<Kind extends ProblemKind>(kind: Kind): `urn:loragrad:problem:${Kind}` {
  return `urn:loragrad:problem:${kind}`;
}
