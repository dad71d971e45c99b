/** What a call throws, beside the reason of its signal. */
import type { Problem } from './api.js';
import type { Answer } from './transport.js';

const PROBLEM_MEDIA_TYPE = 'application/problem+json';

/** What an answer says about itself; one that does not come from the service says less. */
type Details = Omit<Problem, 'type' | 'instance'> &
  Partial<Pick<Problem, 'instance'>> & { readonly type: string };

/** A refusal of the service, or of something in front of it; `message` is the human sentence. */
export class ProblemError extends Error {
  override readonly name = 'ProblemError';
  /** Where the request went. */
  readonly url: string;
  /** Stable: 'urn:loragrad:problem:...'; 'about:blank' when the answer came from something else. */
  readonly type: string;
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

  constructor(details: Details, url: URL) {
    super(details.detail);
    this.url = url.href;
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

/** No answer: nobody listens at this address, or the connection broke again and again. */
export class ServiceUnreachableError extends Error {
  override readonly name = 'ServiceUnreachableError';
  readonly url: string;

  constructor(url: URL, cause: unknown) {
    const { message, cause: deeper } = cause as Error;
    const why = deeper instanceof Error ? deeper.message : message;
    super(`${url.href} does not answer: ${why}`, { cause });
    this.url = url.href;
  }
}

/** null: the answer does not describe itself. */
function detailsOf({ headers, body }: Answer): Problem | null {
  if (!headers.get('content-type')?.startsWith(PROBLEM_MEDIA_TYPE)) return null;
  try {
    return JSON.parse(new TextDecoder().decode(body)) as Problem | null;
  } catch {
    // That to HEAD has the header without the body; another one may be cut short on its way.
    return null;
  }
}

/** @param answer with a status that is no success. */
export function problemOf(answer: Answer, url: URL): ProblemError {
  const details = detailsOf(answer);
  if (details) return new ProblemError(details, url);
  const { status } = answer;
  return new ProblemError(
    {
      type: 'about:blank',
      title: 'An answer without a description',
      status,
      detail: `${url.href} answers with status ${status} and does not say why.`,
    },
    url,
  );
}
