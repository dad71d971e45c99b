import { PROBLEM_MEDIA_TYPE, type ProblemDetails } from '../errors.js';
import type { Answer } from './retries.js';

/** A refusal of the service, or of something in front of it; `message` is the human sentence. */
export class ProblemError extends Error {
  override readonly name = 'ProblemError';
  /** Stable: 'urn:loragrad:problem:...'; 'about:blank' when the answer came from something else. */
  readonly type: ProblemDetails['type'];
  readonly title: string;
  /** HTTP status. */
  readonly status: number;
  /** Id of the request, as in the log of the service. */
  readonly instance: string | undefined;
  /** RFC 6901 pointer to the part of the request at fault. */
  readonly pointer: string | undefined;
  readonly limit: number | undefined;
  readonly actual: number | undefined;
  /** References that the service does not have: 'sha256:<hex>'. */
  readonly missing: readonly string[] | undefined;

  constructor(details: Omit<ProblemDetails, 'instance'> & { readonly instance?: string }) {
    super(details.detail);
    this.type = details.type;
    this.title = details.title;
    this.status = details.status;
    this.instance = details.instance;
    this.pointer = details.pointer;
    this.limit = details.limit;
    this.actual = details.actual;
    this.missing = details.missing;
  }
}

/** @param answer with a status that is no success. */
export function problemOf({ status, headers, body }: Answer): ProblemError {
  // The answer to HEAD has the header without the body.
  if (body.length > 0 && headers.get('content-type')?.startsWith(PROBLEM_MEDIA_TYPE)) {
    return new ProblemError(JSON.parse(new TextDecoder().decode(body)) as ProblemDetails);
  }
  return new ProblemError({
    type: 'about:blank',
    title: 'An answer without a description',
    status,
    detail: `The answer has status ${status} and does not say why.`,
  });
}
