/**
 * npm test: test files run in few processes, one after the other in each. To load the service and to make it warm takes
 * longer than most files. Options are those of node --test.
 */
import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path/posix';
import { ROOT } from './make.mjs';

const TESTS = join(ROOT, 'dist/test');
const PROCESSES = join(TESTS, 'processes');
/** What runs in one process; all that is left runs in another. */
const TOGETHER = {
  services: /^(client|clients|docs|engine|http|web)\//,
  kernels: /^(kernels|solver)\//,
  cluster: /^cluster\//,
};
/** One measures the memory of its process; others of the cluster have nothing to share. */
const ALONE = /^(engine\/price|cluster\/(?!cancel|fixtures|methods|queue))/;

/** @returns a file that runs them; one that cannot be loaded is a test that fails. */
function inOneProcess(name, files) {
  const path = join(PROCESSES, `${name.replaceAll('/', '-')}.js`);
  const urls = JSON.stringify(files.map((file) => `../${file}`));
  writeFileSync(
    path,
    `import { before, test } from 'node:test';
let loaded;
const loading = new Promise((resolve) => { loaded = resolve; });
// No test begins before its file has been run to its end.
before(() => loading);
for (const file of ${urls}) {
  await import(file).catch((error) => test(file, () => Promise.reject(error)));
}
loaded();
`,
  );
  return path;
}

// The longest begin first.
const processes = new Map(Object.keys(TOGETHER).map((name) => [name, []]));
for (const file of readdirSync(TESTS, { recursive: true, encoding: 'utf8' }).sort()) {
  if (!file.endsWith('.test.js')) continue;
  const [together] = Object.entries(TOGETHER).find(([, files]) => files.test(file)) ?? ['others'];
  const name = ALONE.test(file) ? file : together;
  processes.set(name, [...(processes.get(name) ?? []), file]);
}
rmSync(PROCESSES, { recursive: true, force: true });
mkdirSync(PROCESSES);
// A group of its own: what a test that was cut off has left would keep the output open for ever.
const child = spawn(
  process.execPath,
  [
    // What one thread collects costs less CPU than what several do, and files run side by side as it is.
    ...['--single-threaded-gc', '--test', '--test-concurrency', String(availableParallelism())],
    ...['--test-reporter', './scripts/test-reporter.mjs', '--test-timeout', '1200000'],
    ...process.argv.slice(2),
    ...[...processes].map(([name, files]) => inOneProcess(name, files)),
  ],
  { cwd: ROOT, stdio: 'inherit', detached: true },
);
const end = (status) => {
  try {
    process.kill(-child.pid, 'SIGKILL');
  } catch {
    // Nothing is left.
  }
  process.exit(status ?? 1);
};
child.on('exit', end);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => end());
