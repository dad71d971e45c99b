/** The threshold verdict of every answer, and of every plan, against norms computed by numpy. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { loadFixtures, type Threshold } from '../../support/fixtures.js';
import { sharedServer } from '../../support/processes/server.js';

/** Largest entries of products with some dozens of terms each: a float32 kernel gets these right too. */
const RELATIVE = 2e-6;

const fixtures = loadFixtures();
const server = await sharedServer();

function assertNear(name: string, measured: unknown, expected: number | null) {
  if (expected === null) return assert.equal(measured, null, name);
  assert.equal(typeof measured, 'number', name);
  const difference = Math.abs((measured as number) - expected);
  assert.ok(difference <= RELATIVE * Math.abs(expected), `${name}: ${measured} for ${expected}`);
}

function assertThreshold(answered: Threshold, expected: Threshold) {
  const { heads, ...measured } = answered as Threshold & { heads: { gamma: number }[] };
  assertNear('heads', Math.max(...heads.map(({ gamma }) => gamma)), expected.gamma);
  assert.deepEqual(Object.keys(measured).sort(), Object.keys(expected).sort());
  assertNear('gamma', measured.gamma, expected.gamma);
  assertNear('limit', measured.limit, expected.limit);
  assertNear('ratio', measured.ratio, expected.ratio);
  assert.equal(measured.below_threshold, expected.below_threshold);
  assert.equal(measured.sequence_length, expected.sequence_length);
  assertNear(
    'head_dim_over_log_length',
    measured.head_dim_over_log_length,
    expected.head_dim_over_log_length,
  );
  assert.deepEqual(Object.keys(measured.norms).sort(), Object.keys(expected.norms).sort());
  for (const [name, norm] of Object.entries(expected.norms)) {
    assertNear(name, measured.norms[name], norm);
  }
}

test('both verdicts occur among the fixtures', () => {
  const verdicts = new Set(fixtures.map((fixture) => fixture.expected.threshold.below_threshold));
  assert.equal(verdicts.size, 2);
});

for (const { name, request, expected } of fixtures) {
  test(`${name}: in the answer of /gradient`, async () => {
    const answer = await server.gradient(request);
    assertThreshold(answer.threshold, expected.threshold);
  });

  test(`${name}: in the answer of /plan, without gradients`, async () => {
    const answer = await server.plan(request);
    assertThreshold(answer.threshold, expected.threshold);
    assert.ok(!('gradients' in answer));
  });
}
