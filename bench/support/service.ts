/** The service as its users run it: a process of its own with default settings, on a free port. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, mkdtempSync, openSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../../src/main.js', import.meta.url));
const START_MS = 120_000;
const POLL_MS = 50;
const LAST_LINES = 5;
/** Of the times in /proc, on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100;

export class Service {
  readonly #child: ChildProcess;
  /** Where its log is, as long as it runs. */
  readonly #folder: string;
  #port = 0;

  private constructor(child: ChildProcess, folder: string) {
    this.#child = child;
    this.#folder = folder;
  }

  static async start(settings: { workers: number; env?: NodeJS.ProcessEnv }): Promise<Service> {
    const folder = mkdtempSync(join(tmpdir(), 'loragrad-service-'));
    const log = openSync(join(folder, 'log'), 'w');
    const child = spawn(process.execPath, [MAIN], {
      // It logs as it would in production.
      stdio: ['ignore', log, log],
      env: {
        ...process.env,
        HOST: '127.0.0.1',
        PORT: '0',
        LOG_LEVEL: 'info',
        LORAGRAD_WARMUP_MS: String(START_MS),
        LORAGRAD_WORKERS: String(settings.workers),
        ...settings.env,
      },
    });
    closeSync(log);
    const service = new Service(child, folder);
    try {
      await service.#listening();
    } catch (error) {
      await service.stop();
      throw error;
    }
    return service;
  }

  get port(): number {
    return this.#port;
  }

  /** @returns what the process ended with: a code, or null for a signal. */
  async stop(): Promise<number | null> {
    if (!this.#ended) {
      this.#child.kill('SIGTERM');
      await once(this.#child, 'exit');
    }
    rmSync(this.#folder, { recursive: true, force: true });
    return this.#child.exitCode;
  }

  /** Bytes of memory that the process has now, and the most that it ever had; Linux alone tells. */
  memory(): { readonly resident: number; readonly peak: number } {
    const status = readFileSync(`/proc/${this.#child.pid}/status`, 'utf8');
    const bytes = (name: string) =>
      1024 * Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)?.[1] ?? Number.NaN);
    return { resident: bytes('VmRSS'), peak: bytes('VmHWM') };
  }

  /** Seconds of CPU that the process has had, all threads together; Linux alone tells. */
  cpuSeconds(): number {
    const stat = readFileSync(`/proc/${this.#child.pid}/stat`, 'utf8');
    const [user, system] = stat.slice(stat.lastIndexOf(')')).split(' ').slice(12, 14).map(Number);
    return (user! + system!) / TICKS_PER_SECOND;
  }

  /** A metric without labels. @throws {Error} when the process has ended: it says what it logged last. */
  async metric(name: string): Promise<number> {
    const answer = await fetch(`http://127.0.0.1:${this.port}/metrics`).catch((error: Error) => {
      throw new Error(this.#lastWords(), { cause: error });
    });
    return Number(new RegExp(`^${name} (.*)$`, 'm').exec(await answer.text())?.[1]);
  }

  get #ended(): boolean {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  #log(): string {
    return readFileSync(join(this.#folder, 'log'), 'utf8');
  }

  #lastWords(): string {
    const { exitCode, signalCode } = this.#child;
    const state = this.#ended
      ? `ended with ${exitCode ?? signalCode}`
      : 'runs, and does not answer';
    const lines = this.#log().trimEnd().split('\n').slice(-LAST_LINES);
    return `The service ${state}. Its log ends with\n${lines.join('\n')}`;
  }

  /** Its log says on which port. */
  async #listening(): Promise<void> {
    for (let waited = 0; waited < START_MS && !this.#ended; waited += POLL_MS) {
      this.#port = Number(/listens: page http:\/\/127\.0\.0\.1:(\d+)/.exec(this.#log())?.[1] ?? 0);
      if (this.#port > 0) return;
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    throw new Error(`The service did not start. ${this.#lastWords()}`);
  }
}
