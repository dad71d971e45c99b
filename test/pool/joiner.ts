/** A thread that joins the team of a test: its tasks say what becomes of them. */
import { workerData } from 'node:worker_threads';
import type { Task } from '../../workers/job.js';
import { type JoinTask, join } from '../../workers/team.js';

export interface TestTask extends Task<string> {
  readonly kernel: 'test';
  readonly name: string;
  /** Who runs it, in the words of the test. */
  readonly by: Int32Array;
  /** What the task waits for before it ends: that words[0] of these is not 0. */
  readonly gate?: Int32Array;
  readonly fails?: boolean;
}

/** @param cancelled asked while it waits. @returns the name of the task, once for all. */
export function runTestTask(task: TestTask, who: number, cancelled: () => boolean): string {
  Atomics.store(task.by, 0, who);
  Atomics.notify(task.by, 0);
  while (task.gate && Atomics.load(task.gate, 0) === 0 && !cancelled()) {
    Atomics.wait(task.gate, 0, 0, 1);
  }
  if (task.fails) throw new RangeError(`${task.name} fails`);
  return task.name;
}

export const OTHER = 2;

if (workerData) {
  const beat = new Int32Array(new SharedArrayBuffer(4));
  const alive = Object.assign(() => false, { words: { stop: beat, beat } });
  join(workerData as JoinTask, alive, (task, cancelled) =>
    runTestTask(task as TestTask, OTHER, cancelled),
  );
}
