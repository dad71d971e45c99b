/** What may be spent on plans before it is known that one pays. */

/** Share of the time of the exact kernel that plans may cost in vain, unless a look said that they would pay. */
const IN_VAIN = 0.05;
/** Least expected gain of a step, as a share of its price. Looks were right about low-rank in five of six cases. */
const LEAST_GAIN = 0.5;

export class PlanBudget {
  #spent = 0;

  /** @param exact seconds that the exact kernel is expected to take on one thread. */
  constructor(readonly exact: number) {}

  /**
   * Whether so many seconds more are spent: they are few, or a look at the input said that they pay.
   *
   * @param saves seconds that are expected to be saved, when all is paid that the plan and its run still cost.
   */
  affords(seconds: number, saves = 0): boolean {
    const few = this.#spent + seconds <= IN_VAIN * this.exact;
    if (!few && saves < LEAST_GAIN * seconds) return false;
    this.#spent += seconds;
    return true;
  }
}
