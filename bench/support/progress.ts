/** What the benchmark is doing, on standard error: a line that changes, or lines where it is no terminal. */
import type { Setting } from './rounds.js';

export function describe(setting: Setting): string {
  return Object.entries(setting)
    .map(([name, value]) => `${name} ${value}`)
    .join(', ');
}

export class Progress {
  readonly #out: NodeJS.WriteStream;
  readonly #start = performance.now();
  #question = '';
  #total = 0;
  #done = 0;
  #lastSetting: Setting | null = null;

  constructor(out: NodeJS.WriteStream = process.stderr) {
    this.#out = out;
  }

  /** A question with this many settings begins. */
  begin(question: string, settings: number): void {
    this.#question = question;
    this.#total = settings;
    this.#done = 0;
    this.#lastSetting = null;
  }

  step(setting: Setting, what: string): void {
    const isNew = setting !== this.#lastSetting;
    if (isNew) this.#done++;
    this.#lastSetting = setting;
    const line = `[${this.#clock()}] ${this.#question} ${this.#done}/${this.#total}: ${describe(setting)}: ${what}`;
    if (this.#out.isTTY) this.#out.write(`\r\x1b[K${line.slice(0, (this.#out.columns ?? 80) - 1)}`);
    else if (isNew) this.#out.write(`${line}\n`);
  }

  say(text: string): void {
    this.#out.write(`${this.#out.isTTY ? '\r\x1b[K' : ''}[${this.#clock()}] ${text}\n`);
  }

  #clock(): string {
    const seconds = Math.floor((performance.now() - this.#start) / 1000);
    return `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
  }
}
