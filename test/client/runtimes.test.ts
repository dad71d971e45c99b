/** The client in runtimes other than Node, as far as they are on this machine. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { sharedServer } from '../support/processes/server.js';

const run = promisify(execFile);
const root = fileURLToPath(new URL('../../../', import.meta.url));
const folder = join(root, 'clients/typescript');

const RUNTIMES = [
  { name: 'deno', args: ['run', '--no-remote', '--allow-net', '--allow-read', '--allow-env'] },
  { name: 'bun', args: ['run'] },
  { name: 'node', args: [] },
];

const server = await sharedServer();

const isMissing = (name: string) =>
  run(name, ['--version']).then(
    () => false,
    () => `no ${name}`,
  );
const missing = await Promise.all(RUNTIMES.map(({ name }) => isMissing(name)));

for (const [k, { name, args }] of RUNTIMES.entries()) {
  test(`the example of the client's README with ${name}`, { skip: missing[k] }, async () => {
    const example = join(folder, 'examples/step.mjs');
    const env = { ...process.env, DENO_NO_UPDATE_CHECK: '1' };
    const { stdout } = await run(name, [...args, example, server.url], {
      cwd: dirname(example),
      env,
    });
    assert.match(stdout, /^(8,64 (true|false)\n){3}$/);
  });
}

test('the README shows the example as it stands', () => {
  const readme = readFileSync(join(folder, 'README.md'), 'utf8');
  assert.ok(readme.includes(readFileSync(join(folder, 'examples/step.mjs'), 'utf8')));
});

test('the package installs without the service and without an engine warning on Node 20', () => {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8'));
  const own = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
  const names = Object.keys(own.dependencies);
  assert.deepEqual(names, ['@msgpack/msgpack']);
  for (const name of names) {
    const { dependencies, optionalDependencies, engines } = packages[`node_modules/${name}`];
    assert.deepEqual([dependencies, optionalDependencies], [undefined, undefined]);
    assert.match(engines.node, /^>= ?(1\d|20)$/);
  }
});
