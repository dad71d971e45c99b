/** Loaded before the service (node --import): its worker threads end themselves now and then, in the middle of a timeslice. */
import { isMainThread, workerData } from 'node:worker_threads';

/** Of looks at the clock, of which a timeslice has a few. */
const CHANCE = Number(process.env.DEADLY_CHANCE);
/** Of the process: before that it starts, and has to have all its workers. */
const GRACE_SECONDS = 15;

// The engine's thread has a pool below it; those of the pool have kernels.
if (!isMainThread && !('pool' in workerData)) {
  const now = performance.now.bind(performance);
  performance.now = () => {
    if (process.uptime() > GRACE_SECONDS && Math.random() < CHANCE) process.exit(1);
    return now();
  };
}
