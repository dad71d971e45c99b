/** The service as its users run it: a process of its own with default settings, on a free port. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { fileURLToPath } from 'node:url';

const MAIN = fileURLToPath(new URL('../../src/main.js', import.meta.url));
const START_MS = 30_000;
const POLL_MS = 50;

export class Service {
  readonly port: number;
  readonly #child: ChildProcess;

  private constructor(port: number, child: ChildProcess) {
    this.port = port;
    this.#child = child;
  }

  static async start(settings: { workers: number }): Promise<Service> {
    const port = await freePort();
    const child = spawn(process.execPath, [MAIN], {
      // It logs as it would in production, and nobody reads it.
      stdio: 'ignore',
      env: {
        ...process.env,
        HOST: '127.0.0.1',
        PORT: String(port),
        LORAGRAD_WORKERS: String(settings.workers),
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

  async stop(): Promise<void> {
    if (this.#child.exitCode !== null || this.#child.signalCode !== null) return;
    this.#child.kill('SIGTERM');
    await once(this.#child, 'exit');
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

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}
