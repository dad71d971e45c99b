/** Where the time and the memory of a request go. */
import type { Lease } from '../../workers/tensor/shared-memory.js';

/** Milliseconds in each phase; queue: waiting for a worker. */
export type PhaseTimes = Record<'queue' | 'decode' | 'plan' | 'compute' | 'encode', number>;

/** Milliseconds of each phase, and of the whole. */
export interface Timings extends PhaseTimes {
  readonly total: number;
}

/** What a job is given. */
export interface Workplace {
  /** Told of each phase that is over. */
  readonly clock: PhaseClock;
  /** Its tensors are gone when the job is. */
  readonly memory: Lease;
}

/** Books the time since the last call to a phase. */
export type PhaseClock = (phase: keyof PhaseTimes) => void;

/** @param onPhase told from when to when, as performance.now() has it. */
export function phaseClock(
  times: PhaseTimes,
  onPhase: (phase: keyof PhaseTimes, start: number, end: number) => void,
): PhaseClock {
  let since = performance.now();
  return (phase) => {
    const now = performance.now();
    times[phase] += now - since;
    onPhase(phase, since, now);
    since = now;
  };
}
