/** Loaded before the service (node --import): its worker threads end themselves now and then, in the middle of a turn. */
import { isMainThread, workerData } from 'node:worker_threads';

/** Of looks at the clock, of which a turn has a few. */
const CHANCE = Number(process.env.DEADLY_CHANCE);

// The engine's thread has a pool below it; those of the pool have kernels.
if (!isMainThread && !('pool' in workerData)) {
  const now = performance.now.bind(performance);
  performance.now = () => {
    if (Math.random() < CHANCE) process.exit(1);
    return now();
  };
}
