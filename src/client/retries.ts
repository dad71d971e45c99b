/** Patience with a busy service: back-off that doubles, and never less than Retry-After. */
import { setTimeout as sleep } from 'node:timers/promises';

/** An HTTP answer, read whole. */
export interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Uint8Array;
}

const FIRST_MS = 250;
const LONGEST_MS = 15_000;
/** The longest time that a timer can wait. */
const TIMER_MS = 2 ** 31 - 1;

const BUSY: ReadonlySet<number> = new Set([429, 503]);
/** The connection broke after it was made, as when the service is restarted. */
const LOST: ReadonlySet<unknown> = new Set(['ECONNRESET', 'EPIPE', 'UND_ERR_SOCKET']);

function connectionLost(error: unknown): boolean {
  const { cause } = error as { readonly cause?: { readonly code?: unknown } };
  return LOST.has(cause?.code);
}

/** Retry-After in milliseconds, from seconds or from a date; 0 without one. */
function retryAfterMs(answer: Answer | null): number {
  const value = answer?.headers.get('retry-after');
  if (!value) return 0;
  const ms = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Math.max(0, ms || 0);
}

/** Random, so that clients that were refused together do not come back together. */
function backOffMs(failures: number): number {
  return Math.min(LONGEST_MS, FIRST_MS * 2 ** failures) * (0.5 + Math.random() / 2);
}

/**
 * @param attempt sends the request; every request of this client may be sent again.
 * @param retries attempts after the first.
 * @returns the first answer that is neither 429 nor 503, or the last one.
 * @throws the reason of `signal` when it aborts, or what `attempt` throws.
 */
export async function withRetries(
  attempt: () => Promise<Answer>,
  retries: number,
  signal: AbortSignal | undefined,
): Promise<Answer> {
  for (let failures = 0; ; failures++) {
    const last = failures >= retries;
    const answer = await attempt().catch((error: unknown) => {
      if (last || signal?.aborted || !connectionLost(error)) throw error;
      return null;
    });
    if (answer && (last || !BUSY.has(answer.status))) return answer;
    const pause = Math.min(TIMER_MS, retryAfterMs(answer) + backOffMs(failures));
    await sleep(pause, undefined, signal && { signal }).catch(() => signal?.throwIfAborted());
  }
}
