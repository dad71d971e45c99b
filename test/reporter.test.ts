/** How a run of the tests ends: with what failed, after the figures. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

const REPORTER = fileURLToPath(new URL('../../scripts/test-reporter.mjs', import.meta.url));

const FILE = `
import assert from 'node:assert/strict';
import { test } from 'node:test';
test('good', () => {});
test('sum', () => assert.equal(1 + 1, 3));
test('outer', (t) => t.test('inner', () => { throw new Error('two\\nlines'); }));
test('later', { todo: true }, () => { throw new Error('not yet'); });
`;

test('the last lines name each test that failed and what it said, once', () => {
  const folder = mkdtempSync(join(tmpdir(), 'loragrad-reporter-'));
  try {
    const file = join(folder, 'some.test.mjs');
    writeFileSync(file, FILE);
    const { NODE_TEST_CONTEXT: _, ...env } = process.env;
    const args = ['--test', '--test-reporter', REPORTER, file];
    const { stdout, status } = spawnSync(process.execPath, args, { env, encoding: 'utf8' });
    assert.equal(status, 1);
    assert.match(stdout, /^# pass 1$/m);
    assert.match(stdout, /^# fail 3$/m);
    assert.deepEqual(stdout.trimEnd().split('\n').slice(-3), [
      stdout.match(/^# duration_ms .*$/m)?.[0],
      `# failed: sum (${file}): Expected values to be strictly equal: 2 !== 3`,
      `# failed: inner (${file}): two lines`,
    ]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
