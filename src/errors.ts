/** An error that has an answer, and any thrown value as one. */
import { STATUS_CODES } from 'node:http';
import { PROBLEMS, type ProblemKind, problemType } from './problem-kinds.js';

export const PROBLEM_MEDIA_TYPE = 'application/problem+json';

export interface ProblemOptions {
  /** RFC 6901 pointer to the part of the body at fault: '/q_proj/lora_A'. */
  readonly pointer?: string | undefined;
  readonly limit?: number | undefined;
  readonly actual?: number | undefined;
  /** References that the store does not have: 'sha256:<hex>'. */
  readonly missing?: readonly string[] | undefined;
  readonly headers?: Readonly<Record<string, string>> | undefined;
  readonly cause?: unknown;
}

/** The body of an error answer. */
export interface ProblemDetails {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail: string;
  readonly instance: string;
  readonly pointer?: string;
  readonly limit?: number;
  readonly actual?: number;
  readonly missing?: readonly string[];
}

/** An error with an answer. `message` is the human sentence of the answer's `detail`. */
export class Problem extends Error {
  override readonly name = 'Problem';
  readonly statusCode: number;

  constructor(
    readonly kind: ProblemKind,
    message: string,
    readonly options: ProblemOptions = {},
  ) {
    // A problem is an answer and no fault: where it was made tells nothing that it does not say, and takes
    // as long as the rest of a refusal. A cause keeps its stack.
    const { stackTraceLimit } = Error;
    Error.stackTraceLimit = 0;
    super(message, { cause: options.cause });
    Error.stackTraceLimit = stackTraceLimit;
    this.statusCode = PROBLEMS[kind].status;
  }

  /** @param instance identifies this occurrence: the request id. */
  details(instance: string): ProblemDetails {
    const { pointer, limit, actual, missing } = this.options;
    return {
      type: problemType(this.kind),
      title: PROBLEMS[this.kind].title,
      status: this.statusCode,
      detail: this.message,
      instance,
      ...(pointer !== undefined && { pointer }),
      ...(limit !== undefined && { limit }),
      ...(actual !== undefined && { actual }),
      ...(missing !== undefined && { missing }),
    };
  }
}

/** Messages of the framework quote whole addresses. */
const LONGEST_DETAIL = 200;

/** Framework errors by their code, as problems of ours. */
const FRAMEWORK_KINDS: Readonly<Record<string, ProblemKind>> = {
  FST_ERR_CTP_BODY_TOO_LARGE: 'body-too-large',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'unsupported-media-type',
  FST_ERR_CTP_EMPTY_JSON_BODY: 'malformed-body',
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: 'bad-request',
  FST_ERR_CTP_EMPTY_TYPE: 'unsupported-media-type',
  FST_ERR_MAX_PARAM_LENGTH: 'uri-too-long',
  ERR_HTTP_REQUEST_TIMEOUT: 'request-timeout',
  HPE_HEADER_OVERFLOW: 'headers-too-large',
};

interface ErrorLike {
  readonly code?: string;
  readonly statusCode?: number;
  readonly message?: string;
}

/** Any thrown value as a problem. What was not foreseen is an internal error and says nothing of it. */
export function toProblem(error: unknown): Problem {
  if (error instanceof Problem) return error;
  const { code, statusCode, message } = (error ?? {}) as ErrorLike;
  if (code === 'ECONNRESET') {
    return new Problem('client-gone', 'The client closed the connection.', { cause: error });
  }
  if (code === 'EMFILE' || code === 'ENFILE') {
    const said = 'As many files and connections are open as the system allows. Try again later.';
    return new Problem('queue-full', said, { cause: error, headers: { 'retry-after': '10' } });
  }
  const kind = code === undefined ? undefined : FRAMEWORK_KINDS[code];
  if (kind) {
    // Fastify says no more of a media type than that it is not supported.
    const said = kind === 'unsupported-media-type' ? PROBLEMS[kind].remedy : message;
    return new Problem(kind, said?.slice(0, LONGEST_DETAIL) ?? PROBLEMS[kind].title, {
      cause: error,
    });
  }
  if (statusCode !== undefined && statusCode >= 400 && statusCode < 500) {
    const said = message?.slice(0, LONGEST_DETAIL);
    return new Problem('bad-request', said ?? STATUS_CODES[statusCode] ?? 'Bad request', {
      cause: error,
    });
  }
  return new Problem('internal-error', 'The service failed; the log has the details.', {
    cause: error,
  });
}
