/** Whether a worker is through with its timeslice in time, and whether it is alive at all. */

export interface WatchOptions {
  /** The worker counts it up as long as it lives: whenever it asks whether it is to stop. */
  readonly beat: Int32Array;
  readonly overdueMs: number;
  /** Longest time without a beat. */
  readonly hungMs: number;
  /** Whether the timeslice was given up. */
  readonly stopped: () => boolean;
  readonly onOverdue: () => void;
  readonly onHung: () => void;
}

export interface TimesliceWatch {
  readonly overdue: boolean;
  stop(): void;
}

/** A task that was told to stop and does not: it asks too seldom, and nobody wants what it makes. */
const STOPPED_MS = 5000;
const LOOK_MS = 1000;

export function watchTimeslice(options: WatchOptions): TimesliceWatch {
  const { beat, overdueMs, hungMs, stopped, onOverdue, onHung } = options;
  let overdue = false;
  let ended = false;
  let timer: NodeJS.Timeout;
  const look = (last: number, since: number, stoppedSince: number) => {
    const now = performance.now();
    const count = Atomics.load(beat, 0);
    const alive = count === last ? since : now;
    const given = stopped() ? Math.min(stoppedSince, now) : Number.POSITIVE_INFINITY;
    if (ended) return;
    if (now - alive > hungMs || now - given > STOPPED_MS) onHung();
    else timer = setTimeout(look, Math.min(LOOK_MS, hungMs / 4), count, alive, given);
  };
  timer = setTimeout(() => {
    overdue = true;
    onOverdue();
    look(Atomics.load(beat, 0), performance.now(), Number.POSITIVE_INFINITY);
  }, overdueMs);
  return {
    get overdue() {
      return overdue;
    },
    stop: () => {
      ended = true;
      clearTimeout(timer);
    },
  };
}
