/** The examples of the documentation are what the service answers: npm run examples records them again. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openapiDocument } from '../../openapi/generate.js';
import { recordAnswers, recordProblems } from '../../openapi/record.js';
import { readConfig } from '../../src/config.js';
import { ThreadedEngine } from '../../src/engine/engine.js';
import { buildApp } from '../../src/http/app.js';
import { REQUEST_EXAMPLES } from '../../src/http/schemas/example.js';
import { readRecorded } from '../../src/http/schemas/recorded.js';
import { RATES } from '../support/processes/server.js';

/** What differs from run to run and from machine to machine. */
const VARIABLE = new Set([
  'kernels',
  'timings_ms',
  'expected_ms',
  'ms',
  'break_even_length',
  'reason',
  'instance',
]);

/** Numbers may differ in their last digits: another build of the kernels rounds otherwise. */
function assertAlike(actual: unknown, expected: unknown, path: string): void {
  if (typeof expected === 'number' && typeof actual === 'number') {
    if (path.includes('/error/')) return;
    assert.ok(
      Math.abs(actual - expected) <= 1e-5 + 1e-4 * Math.abs(expected),
      `${path}: ${actual}`,
    );
  } else if (typeof expected === 'object' && expected !== null) {
    assert.deepEqual(Object.keys(actual as object), Object.keys(expected), path);
    for (const [key, value] of Object.entries(expected)) {
      if (!VARIABLE.has(key)) {
        assertAlike((actual as Record<string, unknown>)[key], value, `${path}/${key}`);
      }
    }
  } else assert.equal(actual, expected, path);
}

test('the service answers the examples as the documentation says, and refuses as it says', async () => {
  const recorded = readRecorded();
  const engine = await ThreadedEngine.start({ workers: 1, warmUpMs: 120_000, rates: RATES });
  const app = await buildApp(readConfig({ LOG_LEVEL: 'silent' }), engine);
  try {
    assertAlike(await recordAnswers(app), recorded.answers, '');
    const problems = await recordProblems(app);
    assert.deepEqual(Object.keys(problems), Object.keys(recorded.problems));
    for (const [kind, { status, pointer }] of Object.entries(recorded.problems)) {
      assert.deepEqual([problems[kind].status, problems[kind].pointer], [status, pointer], kind);
    }
  } finally {
    await app.close();
    await engine.close();
  }
});

test('each example of a request has its answer, and each status of a problem an example', async () => {
  const document = JSON.parse(await openapiDocument());
  for (const [path, operations] of Object.entries<Record<string, never>>(document.paths)) {
    for (const [method, operation] of Object.entries<Record<string, never>>(operations)) {
      const { operationId, responses, requestBody } = operation as never as {
        operationId: string;
        responses: Record<string, { content?: Record<string, { examples?: object }> }>;
        requestBody?: { content: Record<string, { examples?: object }> };
      };
      const requests = Object.keys(requestBody?.content['application/json'].examples ?? {});
      const expected = Object.keys(REQUEST_EXAMPLES[operationId] ?? {});
      assert.deepEqual(
        requests,
        expected.filter((name) => name !== 'reference'),
      );
      for (const [status, { content }] of Object.entries(responses)) {
        const problem = content?.['application/problem+json'];
        if (!problem) continue;
        const examples = Object.keys(problem.examples ?? {});
        assert.ok(examples.length > 0, `${method} ${path} ${status}`);
      }
    }
  }
});
