/** The service as its users run it: a process of its own with default settings, on a free port. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { freePort } from '../../test/support/free-port.js';

const MAIN = fileURLToPath(new URL('../../src/main.js', import.meta.url));
const START_MS = 120_000;
const POLL_MS = 50;

export class Service {
  readonly port: number;
  readonly #child: ChildProcess;

  private constructor(port: number, child: ChildProcess) {
    this.port = port;
    this.#child = child;
  }

  static async start(settings: { workers: number; env?: NodeJS.ProcessEnv }): Promise<Service> {
    const port = await freePort();
    const child = spawn(process.execPath, [MAIN], {
      // It logs as it would in production, and nobody reads it.
      stdio: 'ignore',
      env: {
        ...process.env,
        HOST: '127.0.0.1',
        PORT: String(port),
        LORAGRAD_WORKERS: String(settings.workers),
        ...settings.env,
      },
    });
    const service = new Service(port, child);
    try {
      await service.#ready();
    } catch (error) {
      await service.stop();
      throw error;
    }
    return service;
  }

  /** @returns what the process ended with: a code, or null for a signal. */
  async stop(): Promise<number | null> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill('SIGTERM');
      await once(this.#child, 'exit');
    }
    return this.#child.exitCode;
  }

  /** Bytes of memory that the process has now; Linux alone tells. */
  resident(): number {
    const status = readFileSync(`/proc/${this.#child.pid}/status`, 'utf8');
    return 1024 * Number(/VmRSS:\s+(\d+)/.exec(status)?.[1] ?? Number.NaN);
  }

  /** A metric without labels. */
  async metric(name: string): Promise<number> {
    const answer = await fetch(`http://127.0.0.1:${this.port}/metrics`);
    return Number(new RegExp(`^${name} (.*)$`, 'm').exec(await answer.text())?.[1]);
  }

  async #ready(): Promise<void> {
    for (let waited = 0; waited < START_MS; waited += POLL_MS) {
      if (this.#child.exitCode !== null) break;
      const answer = await fetch(`http://127.0.0.1:${this.port}/health/ready`).catch(() => null);
      await answer?.arrayBuffer();
      if (answer?.ok) return;
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
    throw new Error('The service did not start');
  }
}
