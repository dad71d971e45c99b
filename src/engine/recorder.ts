/** What was done when for one order, for those who trace it. */
import type { Interval } from './messages.js';

/** Most intervals that an answer reports: a job may have any number of stages. */
const MOST = 200;

export class Recorder {
  readonly intervals: Interval[] = [];

  constructor(private readonly wanted: boolean) {}

  /** `start` and `end` are of this thread's performance.now(). */
  add({ name, tasks, start, end }: Interval): void {
    if (!this.wanted || this.intervals.length >= MOST) return;
    const { timeOrigin } = performance;
    this.intervals.push({ name, tasks, start: timeOrigin + start, end: timeOrigin + end });
  }
}
