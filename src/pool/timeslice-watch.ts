/** Whether a worker is through with its timeslice in time, and whether it is alive at all. */

interface WatchOptions {
  /** The worker counts it up as long as it lives: whenever it asks whether it is to stop. */
  readonly beat: () => number;
  readonly overdueMs: number;
  /** Longest time without a beat, of that in which it was watched. */
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

/** A task that was told to stop and does not: it polls too seldom, and its result is not wanted. */
const STOPPED_MS = 5000;
const LOOK_MS = 1000;

export function watchTimeslice(options: WatchOptions): TimesliceWatch {
  const { beat, overdueMs, hungMs, stopped, onOverdue, onHung } = options;
  let overdue = false;
  let ended = false;
  let timer: NodeJS.Timeout;
  const every = Math.min(LOOK_MS, hungMs / 4);
  let [last, looked] = [0, 0];
  // Time in which this thread could not look is no evidence: it was held up, or the whole process was.
  let [silent, given] = [0, 0];
  const look = () => {
    const now = performance.now();
    const count = beat();
    const passed = Math.min(now - looked, 2 * every);
    silent = count === last ? silent + passed : 0;
    given = stopped() ? given + passed : 0;
    [last, looked] = [count, now];
    if (ended) return;
    if (silent > hungMs || given > STOPPED_MS) onHung();
    else timer = setTimeout(look, every);
  };
  timer = setTimeout(() => {
    overdue = true;
    onOverdue();
    [last, looked] = [beat(), performance.now()];
    look();
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
