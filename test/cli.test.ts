/** The command line, as people meet it in a terminal. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { SETTINGS } from '../src/settings.js';
import { packageVersion } from '../src/version.js';

const CLI = fileURLToPath(new URL('../src/cli.js', import.meta.url));

async function run(args: string[], env: NodeJS.ProcessEnv = {}) {
  const child = spawn(process.execPath, [CLI, ...args], {
    env: { ...process.env, PORT: '0', LORAGRAD_WORKERS: '1', ...env },
  });
  const texts = [child.stdout.toArray(), child.stderr.toArray()];
  const [code] = await once(child, 'exit');
  const [out, complaint] = (await Promise.all(texts)).map((chunks) =>
    Buffer.concat(chunks).toString(),
  );
  return { code, out, complaint };
}

test('--help names every setting with its default and its values', async () => {
  const { code, out } = await run(['--help']);
  assert.equal(code, 0);
  for (const [name] of SETTINGS) assert.match(out, new RegExp(`^  ${name}: `, 'm'));
  assert.match(out, /LORAGRAD_WORKERS: an integer from 0 to 256, 0 by default/);
  for (const line of out.split('\n').filter((line) => line.startsWith('      ')))
    assert.ok(line.length <= 100, line);
});

test('--version', async () => {
  assert.deepEqual(await run(['--version']), {
    code: 0,
    out: `${packageVersion()}\n`,
    complaint: '',
  });
});

for (const args of [['worker-bee'], ['serve', 'me'], ['--port', '80']]) {
  test(`loragrad ${args.join(' ')}: says what is wrong and where help is`, async () => {
    const { code, complaint } = await run(args);
    assert.equal(code, 2);
    assert.match(complaint, new RegExp(args.at(-1) === '80' ? '--port' : (args.at(-1) as string)));
    assert.match(complaint, /loragrad --help/);
  });
}

test('several settings that are not valid are named, each with its value and what it takes', async () => {
  const { code, complaint } = await run([], { LOG_LEVEL: 'loud', PORT: '70000' });
  assert.equal(code, 1);
  assert.match(complaint, /^PORT: "70000" is not valid; it takes an integer from 0 to 65535/m);
  assert.match(complaint, /^LOG_LEVEL: "loud" is not valid; it takes one of fatal, error, /m);
});

for (const host of ['x86_64-conda-linux-gnu', '192.0.2.1', 'not an address']) {
  test(`HOST=${host}: the setting and the remedy are named`, async () => {
    const { code, complaint } = await run([], { HOST: host });
    assert.equal(code, 1);
    assert.match(
      complaint,
      new RegExp(`^HOST: "${host}" is no address of this machine.*127\\.0\\.0\\.1`),
    );
    assert.match(complaint, /conda/);
  });
}

for (const name of ['PORT', 'LORAGRAD_METRICS_PORT']) {
  test(`${name} is taken: the setting is named`, async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    const { port } = other.address() as { port: number };
    const { code, complaint } = await run([], { PORT: '0', [name]: String(port) });
    other.close();
    assert.equal(code, 1);
    assert.match(complaint, new RegExp(`^${name}: ${port} is taken at 127.0.0.1`));
  });
}

test('loragrad serves, with one line of JSON for each request', async () => {
  const child = spawn(process.execPath, [CLI], {
    env: { ...process.env, PORT: '0', LORAGRAD_WORKERS: '1' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let log = '';
  child.stdout.on('data', (chunk) => {
    log += chunk;
  });
  const address = async (): Promise<string> => {
    for (;;) {
      const found = log.match(/API (http:\S+)\/docs/);
      if (found) return found[1];
      await once(child.stdout, 'data');
    }
  };
  const url = await address();
  await fetch(`${url}/limits`, { headers: { 'x-request-id': 'job-1' } });
  // A key is often put where it does not belong.
  await fetch(`${url}/nothing?api_key=secret`, { headers: { 'x-request-id': 'job-2' } });
  await fetch(`${url}/health/live`);
  child.kill('SIGTERM');
  const [code] = await once(child, 'exit');
  assert.equal(code, 0);
  assert.doesNotMatch(log, /secret/);
  const lines = log
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line))
    .filter(({ status }) => status);
  assert.deepEqual(
    lines.map(({ reqId, method, url, status, problem }) => [reqId, method, url, status, problem]),
    [
      ['job-1', 'GET', '/limits', 200, undefined],
      ['job-2', 'GET', '/nothing', 404, 'not-found'],
    ],
  );
});
