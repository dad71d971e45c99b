/** Timing on a machine that may have other work. */

/** The first round also compiles; the runs take turns, so that a busy machine slows down all of them. */
const ROUNDS = 4;

/** Seconds of the fastest of several runs of each. */
export function fastest(runs: readonly (() => unknown)[]): number[] {
  const seconds = runs.map(() => Number.POSITIVE_INFINITY);
  for (let round = 0; round < ROUNDS; round++) {
    for (const [k, run] of runs.entries()) {
      const [start, used] = [performance.now(), process.cpuUsage()];
      run();
      const { user, system } = process.cpuUsage(used);
      // Where others have the processor, less time was used than has passed.
      seconds[k] = Math.min(
        seconds[k],
        (performance.now() - start) / 1000,
        (user + system) / 1_000_000,
      );
    }
  }
  return seconds;
}
