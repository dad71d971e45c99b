/** Whether numbers are finite: results of float32 that overflowed are computed again. */
import { type Cancelled, checkpoint, type Job, stage, type Task } from '../job.js';
import type { TensorData } from '../tensor/tensor.js';

export interface FiniteTask extends Task<boolean> {
  readonly kernel: 'finite';
  readonly data: TensorData;
}

/** About a millisecond of work. */
const TASK_NUMBERS = 2 ** 20;
/** Up to so many numbers are checked on this thread: the way to a worker would take longer. */
const SMALL_NUMBERS = 2 ** 16;

export function runFiniteTask({ data }: FiniteTask, cancelled: Cancelled): boolean {
  checkpoint(cancelled);
  // x * 0 is NaN for NaN and infinity; one look at the sum is quicker than one at every element, and two sums than one.
  const even = data.length - (data.length % 2);
  let [a, b] = [0, 0];
  for (let k = 0; k < even; k += 2) {
    a += data[k]! * 0;
    b += data[k + 1]! * 0;
  }
  for (let k = even; k < data.length; k++) a += data[k]! * 0;
  return a + b === 0;
}

/** Whether all of them are. */
export function* finiteJob(arrays: readonly TensorData[]): Job<boolean, FiniteTask> {
  const tasks = arrays.flatMap((data) =>
    Array.from({ length: Math.ceil(data.length / TASK_NUMBERS) }, (_, part): FiniteTask => {
      const from = part * TASK_NUMBERS;
      return { kernel: 'finite', data: data.subarray(from, from + TASK_NUMBERS) };
    }),
  );
  const numbers = arrays.reduce((sum, { length }) => sum + length, 0);
  if (numbers <= SMALL_NUMBERS) return tasks.every((task) => runFiniteTask(task, () => false));
  return (yield* stage('finite', tasks)).every(Boolean);
}
