/** Patience with a busy service: back-off that doubles, and never less than Retry-After. */
import type { Answer } from './transport.js';

const FIRST_MS = 250;
const LONGEST_MS = 15_000;
/** The longest time that a timer can wait. */
const TIMER_MS = 2 ** 31 - 1;
/** Attempts after the first when nobody listens: some 8 s, in which a service starts again. */
const REFUSED_RETRIES = 5;

/** 502 is how a proxy tells of a lost connection: the service behind it is being restarted. */
const BUSY: ReadonlySet<number> = new Set([429, 502, 503]);
/** The connection broke after it was made, as when the service is restarted. */
const LOST: ReadonlySet<unknown> = new Set(['ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET']);
const REFUSED: ReadonlySet<unknown> = new Set(['ECONNREFUSED', 'ETIMEDOUT', 'EAI_AGAIN']);

interface Failure {
  readonly code?: unknown;
  readonly cause?: { readonly code?: unknown };
}

/** How often an attempt that failed with this error may be repeated. */
function patience(error: unknown, retries: number): number {
  const { code, cause } = error as Failure;
  const known = code ?? cause?.code;
  if (LOST.has(known)) return retries;
  // The fetch of browsers and Deno throws a TypeError that does not say what went wrong.
  const nameless = known === undefined && error instanceof TypeError;
  return nameless || REFUSED.has(known) ? Math.min(retries, REFUSED_RETRIES) : 0;
}

/** Retry-After in milliseconds, from seconds or from a date; 0 without one. */
export function retryAfterMs(answer: Answer | null): number {
  const value = answer?.headers.get('retry-after');
  if (!value) return 0;
  const ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Math.max(0, ms || 0);
}

/** Random, so that clients that were refused together do not come back together. */
function backOffMs(failures: number): number {
  return Math.min(LONGEST_MS, FIRST_MS * 2 ** failures) * (0.5 + Math.random() / 2);
}

/** Resolves after `ms`, or rejects with the reason of the signal. */
export function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const onAbort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', onAbort);
      resolve();
    }, ms);
    if (signal?.aborted) onAbort();
    else signal?.addEventListener('abort', onAbort, { once: true });
  });
}

/**
 * @param attempt sends the request; every request of this client may be sent again.
 * @param retries attempts after the first.
 * @returns the first answer that is none of 429, 502 and 503, or the last one.
 * @throws the reason of `signal` when it aborts, or what `attempt` throws.
 */
export async function withRetries(
  attempt: () => Promise<Answer>,
  retries: number,
  signal: AbortSignal | undefined,
): Promise<Answer> {
  for (let failures = 0; ; failures++) {
    const answer = await attempt().catch((error: unknown) => {
      if (signal?.aborted || failures >= patience(error, retries)) throw error;
      return null;
    });
    if (answer && (failures >= retries || !BUSY.has(answer.status))) return answer;
    await pause(Math.min(TIMER_MS, retryAfterMs(answer) + backOffMs(failures)), signal);
  }
}
