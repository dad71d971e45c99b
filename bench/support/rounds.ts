/**
 * Sides that take turns: A B C, A B C, ... Whatever else the machine does in the meantime hits them
 * alike, and their times can be compared round by round.
 */
import type { Progress } from './progress.js';

/** The numbers and names that a measurement was made at, as they are kept in the results. */
export type Setting = Readonly<Record<string, number | string>>;

/** One of the contestants of a question. */
export interface Side<S> {
  readonly name: string;
  /** Whether it can do this setting at all; by default it can. */
  covers?(setting: S): boolean;
  /** Seconds that one run took by its own clock; null when it failed, for lack of memory say. */
  seconds(setting: S): Promise<number | null>;
}

export interface Measurement<S = Setting> {
  readonly setting: S;
  /** By name of the side, one number a round; sides of one measurement ran the same rounds. */
  readonly seconds: Readonly<Record<string, readonly number[]>>;
  /** Other numbers that a question wants to keep. */
  readonly details?: Readonly<Record<string, number>>;
}

export interface Rounds<S> {
  readonly least: number;
  /** More rounds than `least` as long as they fit into this time. */
  readonly budgetSeconds: number;
  /** The setting of the rounds before the first that counts; by default the same setting. */
  warmUp?(setting: S): S;
}

const MOST_ROUNDS = 15;
/** Compilers on either side optimise what has run for a while; one round of a small size is too few. */
const WARM_UP_SECONDS = 0.5;
/** The threads of the side before spin for about a millisecond before they sleep. */
const PAUSE_MS = 5;

const pause = () => new Promise((resolve) => setTimeout(resolve, PAUSE_MS));

export async function takeTurns<S extends Setting>(
  sides: readonly Side<S>[],
  setting: S,
  rounds: Rounds<S>,
  progress: Progress,
): Promise<Measurement<S>> {
  let able = sides.filter((side) => side.covers?.(setting) ?? true);
  const seconds: Record<string, number[]> = {};

  const round = async (at: S, book: boolean) => {
    for (const side of able) {
      await pause();
      const taken = await side.seconds(at);
      if (taken === null) {
        able = able.filter((other) => other !== side);
        delete seconds[side.name];
      } else if (book) {
        seconds[side.name] ??= [];
        seconds[side.name].push(taken);
      }
    }
  };

  let start = performance.now();
  const elapsedSeconds = () => (performance.now() - start) / 1000;
  progress.step(setting, 'warm-up');
  do await round(rounds.warmUp?.(setting) ?? setting, false);
  while (elapsedSeconds() < WARM_UP_SECONDS);

  start = performance.now();
  for (let done = 0; done < MOST_ROUNDS; done++) {
    const elapsed = elapsedSeconds();
    // One more round takes about as long as those before it did on average.
    if (done >= rounds.least && elapsed + elapsed / done > rounds.budgetSeconds) break;
    progress.step(setting, `round ${done + 1}`);
    await round(setting, true);
  }
  return { setting, seconds };
}
