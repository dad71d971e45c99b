/**
 * Jobs in turn: a small one never waits for the whole of a large one.
 */
export interface Member {
  /** Tasks that nobody has begun; at 0 the member leaves the queue. */
  readonly waiting: number;
  /** Whether one of them can be begun now. */
  readonly ready: boolean;
}

export class FairQueue<Owner extends Member> {
  #line: Owner[] = [];

  /** Tasks that wait, of all members. */
  get waiting(): number {
    return this.#line.reduce((sum, { waiting }) => sum + waiting, 0);
  }

  add(owner: Owner): void {
    this.#line.push(owner);
  }

  /** The first member that is ready; it then goes to the end of the line. */
  take(): Owner | null {
    this.#line = this.#line.filter(({ waiting }) => waiting > 0);
    const at = this.#line.findIndex(({ ready }) => ready);
    if (at < 0) return null;
    const [owner] = this.#line.splice(at, 1);
    this.#line.push(owner);
    return owner;
  }
}
