import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { type AddressInfo, connect, createServer } from 'node:net';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { longBody, pack, tensor } from './support/wire/bodies.js';

const MAIN = fileURLToPath(new URL('../src/main.js', import.meta.url));

interface Service {
  readonly child: ChildProcess;
  readonly url: string;
}

/** The service as an operator starts it; resolves when it listens. */
async function start(env: NodeJS.ProcessEnv = {}): Promise<Service> {
  const child = spawn(process.execPath, [MAIN], {
    env: { ...process.env, PORT: '0', LORAGRAD_WORKERS: '1', ...env },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  for await (const chunk of child.stdout as NodeJS.ReadableStream) {
    const listening = String(chunk).match(/http:\/\/127\.0\.0\.1:\d+/);
    if (listening) return { child, url: listening[0] };
  }
  throw new Error('The service ended before it listened');
}

const exitCode = async ({ child }: Service): Promise<number | null> => {
  if (child.exitCode === null) await once(child, 'exit');
  return child.exitCode;
};

/** For one worker: a tenth of a second at length 4096, sixteen times that at four times the length. */
const post = (url: string, length = 8192) =>
  fetch(`${url}/gradient`, {
    method: 'POST',
    headers: { 'content-type': 'application/vnd.msgpack' },
    body: new Uint8Array(longBody(length, 64)),
  });

/** Connections that the system lets wait to be taken up; 0: it does not say. */
const longestQueue = (): number => {
  try {
    return Number(readFileSync('/proc/sys/net/core/somaxconn', 'utf8'));
  } catch {
    return 0;
  }
};

const busy = async (url: string) => {
  const metrics = await (await fetch(`${url}/metrics`)).text();
  return /^loragrad_workers_busy 1$/m.test(metrics);
};

test('SIGTERM: the request in flight is answered, then the process ends with 0', async () => {
  const service = await start();
  const answer = post(service.url);
  while (!(await busy(service.url))) await new Promise((resolve) => setTimeout(resolve, 2));
  service.child.kill('SIGTERM');
  assert.equal((await answer).status, 200);
  assert.equal(await exitCode(service), 0);
  await assert.rejects(fetch(`${service.url}/health/live`));
});

test('SIGTERM: a large answer that is being read is delivered whole', async () => {
  const service = await start();
  const [length, width] = [4096, 2048];
  const body = pack({
    hidden_states: tensor([length, 4]),
    q_proj: { weight: tensor([2, 4]) },
    k_proj: { weight: tensor([2, 4]) },
    v_proj: { weight: tensor([width, 4]) },
  });
  const socket = connect(Number(new URL(service.url).port), '127.0.0.1');
  socket.write(
    `POST /forward HTTP/1.1\r\nHost: x\r\nContent-Type: application/vnd.msgpack\r\nContent-Length: ${body.length}\r\n\r\n`,
  );
  socket.write(body);
  let bytes = 0;
  for await (const chunk of socket) {
    // The first bytes of it are here, and the rest does not fit between the two ends.
    if (bytes === 0) service.child.kill('SIGTERM');
    bytes += chunk.length;
  }
  assert.ok(bytes > 4 * length * width, `${bytes} bytes`);
  assert.equal(await exitCode(service), 0);
});

test('a request longer than the drain is answered with 503 before the process ends', async () => {
  const service = await start({ LORAGRAD_LAME_DUCK_MS: '0', LORAGRAD_DRAIN_MS: '50' });
  const answer = post(service.url, 65_536);
  while (!(await busy(service.url))) await new Promise((resolve) => setTimeout(resolve, 2));
  service.child.kill('SIGTERM');
  assert.equal((await answer).status, 503);
  assert.equal(await exitCode(service), 0);
});

test('SIGTERM ends the process when nobody reads its log any more', async () => {
  // Its end comes before the log has found out: `start` has closed its pipe.
  const service = await start({ LORAGRAD_LAME_DUCK_MS: '0' });
  service.child.kill('SIGTERM');
  assert.equal(await exitCode(service), 0);
});

test('SIGTERM ends the process whatever a client, or a collector that answers nothing, holds open', async () => {
  const silent = createServer().unref();
  silent.listen(0, '127.0.0.1');
  await once(silent, 'listening');
  const service = await start({
    LORAGRAD_LAME_DUCK_MS: '0',
    LORAGRAD_DRAIN_MS: '100',
    OTEL_EXPORTER_OTLP_ENDPOINT: `http://127.0.0.1:${(silent.address() as AddressInfo).port}`,
  });
  const socket = connect(Number(new URL(service.url).port), '127.0.0.1');
  socket.on('error', () => {});
  socket.write('POST /gradient HTTP/1.1\r\nHost: x\r\n');
  assert.equal((await fetch(`${service.url}/limits`)).status, 200);
  service.child.kill('SIGTERM');
  assert.equal(await exitCode(service), 0);
});

test('SIGHUP: the request in flight is answered, however often a terminal that goes away says so', async () => {
  const service = await start();
  const answer = post(service.url);
  while (!(await busy(service.url))) await new Promise((resolve) => setTimeout(resolve, 2));
  service.child.kill('SIGHUP');
  service.child.kill('SIGHUP');
  while (await fetch(`${service.url}/health/ready`).then(({ ok }) => ok));
  service.child.kill('SIGHUP');
  assert.equal((await answer).status, 200);
  assert.equal(await exitCode(service), 0);
});

test('a fault of native code ends the process, which does not go on with it for ever', async () => {
  const { child } = await start();
  child.kill('SIGSEGV');
  await once(child, 'exit');
  assert.equal(child.signalCode, 'SIGSEGV');
});

test('the process ends when its terminal is gone', {
  skip: !existsSync('/usr/bin/script'),
}, async () => {
  const terminal = spawn('/usr/bin/script', ['-qec', `${process.execPath} ${MAIN}`, '/dev/null'], {
    env: { ...process.env, PORT: '0', LORAGRAD_WORKERS: '1' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  for await (const chunk of terminal.stdout) if (String(chunk).includes('listens')) break;
  const pid = Number(readFileSync(`/proc/${terminal.pid}/task/${terminal.pid}/children`, 'utf8'));
  assert.ok(isAlive(pid));
  terminal.kill('SIGKILL');
  while (isAlive(pid)) await new Promise((resolve) => setTimeout(resolve, 20));
});

test('SIGTERM during start-up ends the process at once', async () => {
  const child = spawn(process.execPath, [MAIN], {
    env: { ...process.env, PORT: '0', LORAGRAD_WORKERS: '1' },
    stdio: 'ignore',
  });
  await new Promise((resolve) => setTimeout(resolve, 400));
  child.kill('SIGTERM');
  const [code, signal] = await once(child, 'exit');
  assert.ok(code === 0 || signal === 'SIGTERM', `${code}, ${signal}`);
});

function isAlive(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch {
    return false;
  }
}

test('npm start: a signal that only npm gets ends the service, too', async () => {
  const npm = spawn('npm', ['start'], {
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
    env: { ...process.env, PORT: '0', LORAGRAD_WORKERS: '1' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let log = '';
  npm.stdout.on('data', (chunk) => {
    log += chunk;
  });
  while (!/"msg":"loragrad .* listens/.test(log)) await once(npm.stdout, 'data');
  const pid = Number(/"pid":(\d+)/.exec(log)?.[1]);
  npm.kill('SIGTERM');
  while (isAlive(pid)) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.match(log, /requests in flight are finished first/);
});

test('a setting that is not valid: one line that names it, and no service', async () => {
  const child = spawn(process.execPath, [MAIN], {
    env: { ...process.env, LORAGRAD_WORKERS: 'many' },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  let complaint = '';
  child.stderr?.on('data', (chunk) => {
    complaint += chunk;
  });
  const [code] = await once(child, 'exit');
  assert.equal(code, 1);
  assert.equal(
    complaint,
    'LORAGRAD_WORKERS: "many" is not valid; it takes an integer from 0 to 256 (default: 0).\n',
  );
});

test('of many connections that come while the service is held up, none is lost', {
  skip: longestQueue() < 1500,
}, async () => {
  const service = await start();
  try {
    const { port } = new URL(service.url);
    service.child.kill('SIGSTOP');
    // More than Node lets wait by default; none of them gets through beyond what may wait.
    const sockets = Array.from({ length: 1000 }, () => connect(Number(port), '127.0.0.1'));
    await Promise.all(sockets.map((socket) => once(socket, 'connect')));
    const answers = sockets.map(async (socket) => {
      socket.write('GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n');
      const [answer] = await once(socket, 'data');
      socket.destroy();
      return String(answer).slice(9, 12);
    });
    service.child.kill('SIGCONT');
    assert.ok((await Promise.all(answers)).every((status) => status === '200'));
    service.child.kill('SIGINT');
    assert.equal(await exitCode(service), 0);
  } finally {
    service.child.kill('SIGKILL');
  }
});
