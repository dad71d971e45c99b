/** How much memory of this process, its threads included, something takes at its peak. */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { forgetBlocks } from '../../workers/tensor/shared-memory.js';

const EVERY_MS = 10;

/** What earlier measurements left behind does not count. */
export function collectGarbage(): void {
  forgetBlocks();
  setFlagsFromString('--expose-gc');
  (runInNewContext('gc') as () => void)();
}

export interface PeakMemory<T> {
  readonly result: T;
  /** Largest resident set seen, in bytes. */
  readonly resident: number;
}

/** The main thread must be idle most of the time, as it is while a pool works. */
export async function withPeakMemory<T>(work: () => Promise<T>): Promise<PeakMemory<T>> {
  let resident = process.memoryUsage.rss();
  const look = () => {
    resident = Math.max(resident, process.memoryUsage.rss());
  };
  const timer = setInterval(look, EVERY_MS);
  try {
    const result = await work();
    look();
    return { result, resident };
  } finally {
    clearInterval(timer);
  }
}
