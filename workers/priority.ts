/**
 * Worker threads compute without a pause; the threads that talk HTTP and deal out work need a processor seldom, but at once. Where
 * they share processors, the system lets those of lower priority wait.
 */
import { getPriority, setPriority } from 'node:os';

/** Steps of nice(2): against a thread that wants a processor all the time, too, a worker still gets about a fourth. */
const STEPS = 5;
const LOWEST = 19;

/** For the thread that calls it; it never takes more than others leave, and has all that they do. */
export function giveWay(): void {
  // Elsewhere a priority is that of the whole process.
  if (process.platform !== 'linux') return;
  try {
    setPriority(Math.min(LOWEST, getPriority() + STEPS));
  } catch {
    // A sandbox that does not allow it: everything works, probes may wait longer.
  }
}
