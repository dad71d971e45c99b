/** Where the time of a request goes. */

/** Milliseconds in each phase; queue: waiting for a worker. */
export type PhaseTimes = Record<'queue' | 'decode' | 'plan' | 'compute' | 'encode', number>;

/** Books the time since the last call to a phase. */
export type PhaseClock = (phase: keyof PhaseTimes) => void;

export function phaseClock(times: PhaseTimes): PhaseClock {
  let since = performance.now();
  return (phase) => {
    const now = performance.now();
    times[phase] += now - since;
    since = now;
  };
}
