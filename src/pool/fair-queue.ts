/**
 * Jobs in turn: a small one never waits for the whole of a large one. Owners take turns first, then the
 * jobs of each: who has many jobs gets no more of the workers than who has one.
 */
export interface Member {
  readonly owner: string;
  /** Tasks that have not begun; at 0 the member leaves the queue. */
  readonly waiting: number;
  /** Whether one of them can be begun now. */
  readonly ready: boolean;
}

export class FairQueue<Job extends Member> {
  /** Jobs by owner, in the order of the owners' turns. */
  readonly #lines = new Map<string, Job[]>();

  /** Tasks that wait, of all members. */
  get waiting(): number {
    let sum = 0;
    for (const line of this.#lines.values()) for (const { waiting } of line) sum += waiting;
    return sum;
  }

  /** A member that is in the queue already keeps its position. */
  add(job: Job): void {
    const line = this.#lines.get(job.owner);
    if (!line) this.#lines.set(job.owner, [job]);
    else if (!line.includes(job)) line.push(job);
  }

  /** The first ready member of the first owner that has one. Both then go to the end of their lines. */
  take(allowed: (job: Job) => boolean = () => true): Job | null {
    for (const [owner, line] of [...this.#lines]) {
      const left = line.filter(({ waiting }) => waiting > 0);
      const at = left.findIndex((job) => job.ready && allowed(job));
      if (left.length === 0) this.#lines.delete(owner);
      else this.#lines.set(owner, left);
      if (at < 0) continue;
      const [job] = left.splice(at, 1) as [Job];
      this.#lines.delete(owner);
      this.#lines.set(owner, [...left, job]);
      return job;
    }
    return null;
  }
}
