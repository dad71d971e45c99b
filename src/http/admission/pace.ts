/**
 * Whether bytes move fast enough, on their way in or out: who sends or reads too slowly holds memory that
 * others could use. Pauses are forgiven, up to a limit.
 */
export interface PaceLimits {
  /** Bytes per second, on average since the beginning. */
  readonly minBytesPerSecond: number;
  /** Longest time without a byte, and the time before the average counts, ms. */
  readonly patienceMs: number;
}

class Pace {
  readonly #start: number;
  #last: number;
  #bytes = 0;

  /** @param now ms, of any clock. */
  constructor(
    private readonly limits: PaceLimits,
    now: number,
  ) {
    this.#start = now;
    this.#last = now;
  }

  /** @param bytes that have moved since the beginning. */
  isTooSlow(bytes: number, now: number): boolean {
    if (bytes > this.#bytes) this.#last = now;
    this.#bytes = bytes;
    const { minBytesPerSecond, patienceMs } = this.limits;
    if (now - this.#last > patienceMs) return true;
    const elapsed = now - this.#start;
    return elapsed > patienceMs && bytes < (minBytesPerSecond * elapsed) / 1000;
  }
}

/**
 * Look every now and then. A service that was held up itself finds its clock late and the bytes of that time not yet read:
 * it reads first, and judges then.
 *
 * @param moved bytes that have moved since the beginning.
 * @returns what stops the watch.
 */
export function watchPace(
  limits: PaceLimits,
  moved: () => number,
  tooSlow: () => void,
): () => void {
  const pace = new Pace(limits, performance.now());
  let isOver = false;
  const look = () => {
    if (isOver || !pace.isTooSlow(moved(), performance.now())) return;
    stop();
    tooSlow();
  };
  const timer = setInterval(() => setImmediate(look), Math.min(1000, limits.patienceMs / 2));
  timer.unref();
  const stop = () => {
    isOver = true;
    clearInterval(timer);
  };
  return stop;
}
