/** A Valkey or Redis of this machine, for one test file; where there is none its tests are skipped. */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from '../support/processes/free-port.js';

const PROGRAM = ['valkey-server', 'redis-server'].find(
  (name) => spawnSync(name, ['--version']).status === 0,
);

/** Why tests are skipped; false: they are not. LORAGRAD_TEST_STORE=1 makes a missing program an error. */
export const withoutStore: string | false =
  PROGRAM || process.env.LORAGRAD_TEST_STORE ? false : 'There is no valkey-server or redis-server.';

export interface Store {
  readonly url: string;
  /** kill -9: what it held is gone. */
  kill(): Promise<void>;
  start(): Promise<void>;
  signal(name: NodeJS.Signals): void;
  close(): Promise<void>;
}

export async function startStore(...options: string[]): Promise<Store> {
  const port = await freePort();
  const folder = mkdtempSync(join(tmpdir(), 'loragrad-store-'));
  let child: ChildProcess;
  const start = async () => {
    const memory = ['--save', '', '--appendonly', 'no', '--maxmemory-policy', 'noeviction'];
    const place = ['--port', String(port), '--bind', '127.0.0.1', '--dir', folder];
    child = spawn(PROGRAM!, [...place, ...memory, ...options], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    for await (const line of child.stdout!.setEncoding('utf8')) {
      if (/ready to accept connections/i.test(line)) break;
    }
    child.stdout!.resume();
  };
  const kill = async () => {
    const gone = once(child, 'exit');
    child.kill('SIGKILL');
    await gone;
  };
  await start();
  return {
    url: `redis://127.0.0.1:${port}`,
    start,
    kill,
    signal: (name) => child.kill(name),
    close: async () => {
      if (child.exitCode === null && child.signalCode === null) await kill();
      rmSync(folder, { recursive: true, force: true });
    },
  };
}
