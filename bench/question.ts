/** What a question of the benchmark is: something to measure, and a way to tell the result. */
import type { Environment } from './support/environment.js';
import type { Progress } from './support/progress.js';
import type { Measurement, Setting } from './support/rounds.js';
import type { Torch } from './support/torch.js';

/** What a question may use while it runs. */
export interface Bench {
  /** Small sizes: does it work, not how fast is it. */
  readonly quick: boolean;
  readonly cpus: number;
  /** null: no PyTorch on this machine. */
  readonly torch: Torch | null;
  readonly progress: Progress;
}

/** The last run of a question, as results.json keeps it. */
export interface Run<S = Setting> {
  /** ISO 8601, the day. */
  readonly date: string;
  readonly quick: boolean;
  /** How long the question took; absent in results older than this figure. */
  readonly seconds?: number;
  readonly environment: Environment;
  readonly measurements: readonly Measurement<S>[];
}

/** By name of the question. */
export type Results = Readonly<Record<string, Run>>;

export interface Target {
  /** 'at least 1.5x PyTorch's best' */
  readonly wanted: string;
  /** What the numbers say, for the reader; null: they say nothing about it. */
  readonly measured: string | null;
  readonly met: boolean;
}

export interface Plot {
  /** Name in docs/benchmarks/, without .svg. */
  readonly file: string;
  /** For those who do not see it. */
  readonly caption: string;
  readonly svg: string;
}

export interface Section {
  /** Markdown: tables and what one has to know to read them. */
  readonly text: string;
  readonly plots: readonly Plot[];
  readonly targets: readonly Target[];
}

export interface Question<S = Setting> {
  readonly name: string;
  readonly title: string;
  /** It compares with PyTorch, whose version then belongs to its environment. */
  readonly needsTorch?: boolean;
  run(bench: Bench): Promise<readonly Measurement<S>[]>;
  /** Pure: the same run gives the same section. */
  tell(run: Run<S>): Section;
}
