/** A stage whose tasks are jobs, here: one after the other, since each keeps all workers busy. */
import { numericFailure, type Stage, type Task } from '../../workers/job.js';
import type { RunContext } from './executor.js';

export async function runParts(
  { tasks, span }: Stage,
  context: RunContext,
  run: (part: Task, context: RunContext) => Promise<unknown>,
): Promise<unknown[]> {
  const results: unknown[] = [];
  for (const [k, task] of tasks.entries()) {
    const onProgress: RunContext['onProgress'] = ({ fraction, ...progress }) => {
      const done = fraction === null ? null : (k + fraction) / tasks.length;
      const whole = span && done !== null ? span[0] + (span[1] - span[0]) * done : done;
      context.onProgress?.({ ...progress, fraction: whole });
    };
    // What breaks down in a part is for the job to know.
    results.push(await run(task, { ...context, onProgress }).catch(numericFailure));
  }
  return results;
}
