/** Counts over the problems of a group. */
import type { Outcome } from './trial.js';

export class Tally {
  readonly #counts: Record<string, number> = {};
  /** Upper limit and certificate over the true error, of every tensor. */
  readonly #upperRatios: number[] = [];
  readonly #certificateRatios: number[] = [];
  #torchDifference = 0;

  #add(name: string, happened = true): void {
    this.#counts[name] = (this.#counts[name] ?? 0) + Number(happened);
  }

  add({ forced, auto, torchDifference }: Outcome): void {
    this.#add('problems');
    this.#add('refused', forced === null);
    if (forced) {
      this.#add('answers');
      // A limit that is not a number covers nothing.
      this.#add(
        'answers_covered',
        forced.every(({ error, upper }) => error <= upper),
      );
      for (const { error, upper, certificate } of forced) {
        this.#add('tensors');
        this.#add('covered', error <= upper);
        if (error > 0) this.#upperRatios.push(upper / error);
        if (certificate === null) continue;
        this.#add('certificates');
        this.#add('held', error <= certificate);
        if (error > 0) this.#certificateRatios.push(certificate / error);
      }
    }
    this.#add(`auto_${auto.way}`);
    this.#add('auto_missed', auto.overTolerance > 1);
    if (torchDifference !== null) {
      this.#add('torch');
      this.#torchDifference = Math.max(this.#torchDifference, torchDifference);
    }
  }

  figures(): Record<string, number> {
    return {
      ...this.#counts,
      ...quantiles('upper', this.#upperRatios),
      ...quantiles('certificate', this.#certificateRatios),
      ...(this.#counts.torch && { torch_difference: this.#torchDifference }),
    };
  }
}

export function count(tally: Tally | undefined, outcome: Outcome): Tally {
  const all = tally ?? new Tally();
  all.add(outcome);
  return all;
}

function quantiles(name: string, values: readonly number[]): Record<string, number> {
  if (values.length === 0) return {};
  const sorted = [...values].sort((a, b) => a - b);
  const at = (share: number) =>
    sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))];
  return {
    [`${name}_10`]: at(0.1),
    [`${name}_50`]: at(0.5),
    [`${name}_90`]: at(0.9),
  };
}
