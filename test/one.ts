/** Runs the test files whose path holds a name: npm run test:one -- NAME [options of node --test]. */
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = fileURLToPath(new URL('.', import.meta.url));
const [name, ...options] = process.argv.slice(2);
const files = readdirSync(folder, { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.test.js'))
  .filter((file) => name !== undefined && file.includes(name))
  .map((file) => join(folder, file));
if (files.length === 0) {
  console.error(
    `npm run test:one -- NAME: no test file below test/ has "${name ?? 'NAME'}" in its path`,
  );
  process.exit(1);
}
const { status } = spawnSync(process.execPath, ['--test', ...options, ...files], {
  stdio: 'inherit',
});
process.exit(status ?? 1);
