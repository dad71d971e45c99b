import assert from 'node:assert/strict';
import { test } from 'node:test';
import { toProblem } from '../src/errors.js';

test('where no more files can be opened a client may come again, and is told no path', () => {
  const message = 'EMFILE: too many open files, open /a/path';
  const problem = toProblem(Object.assign(new Error(message), { code: 'EMFILE' }));
  assert.equal(problem.statusCode, 429);
  assert.ok(problem.options.headers?.['retry-after']);
  assert.doesNotMatch(problem.message, /path/);
});
