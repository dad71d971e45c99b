/** Where the time of a request goes. */

/** Milliseconds spent in each phase on the way. */
export type PhaseTimes = Record<'decode' | 'plan' | 'compute' | 'encode', number>;

/** Each call books the time since the one before. */
export function phaseClock(times: PhaseTimes): (phase: keyof PhaseTimes) => void {
  let since = performance.now();
  return (phase) => {
    const now = performance.now();
    times[phase] += now - since;
    since = now;
  };
}
