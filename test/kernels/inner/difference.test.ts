/** What the comparison of builds takes for rounding, and what for a wrong result. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  type Call,
  difference,
  drawCall,
  drawFrom,
  type Outcome,
} from '../../../workers/kernels/inner/call.js';
import { operands } from '../../../workers/kernels/inner/operations/operation.js';
import { OPERATIONS } from '../../../workers/kernels/inner/operations/operations.js';
import { STAGES } from '../../../workers/kernels/inner/operations/stages.js';
import { Random } from '../../../workers/kernels/random.js';
import { testSeed } from '../../support/random.js';
import { expected } from './loops.js';

const seed = testSeed();
const DECLARED = { ...OPERATIONS, ...STAGES };

test('one wrong element is found, in every array that an operation writes', () => {
  const draw = drawFrom(new Random(seed));
  for (const name of Object.keys(DECLARED) as Call['name'][]) {
    const call = drawCall(name, draw);
    const { arrays, returned } = expected(call);
    for (const one of operands(DECLARED[name])) {
      if (one.kind !== 'array' || one.access === 'read' || one.access === 'scratch') continue;
      const right = arrays[one.name]!;
      // One that is neither infinite nor beside others that are far larger.
      const sizes = Array.from(right, (x) => (Number.isFinite(x) ? Math.abs(x) : 0));
      const at = sizes.indexOf(Math.max(...sizes));
      if (!sizes[at]) continue;
      const wrong = right.slice();
      wrong[at] *= 1.01;
      const outcome: Outcome = { arrays: { ...arrays, [one.name]: wrong }, returned, damaged: [] };
      assert.ok(difference(call, outcome, expected)?.startsWith(`${name}: ${one.name}[${at}]`));
    }
  }
});

test('what is left where terms cancel may be off by the rounding of the terms', () => {
  const sizes = { m: 1, n: 1, k: 2, lda: 2, ldc: 1, accumulate: 0 };
  const call = drawCall('gemm', drawFrom(new Random(1)), sizes);
  call.arrays.a!.set([1, 1]);
  call.arrays.b!.fill(0);
  call.arrays.b![0] = 0.5;
  call.arrays.b![16] = -0.5 + 2 ** -20;
  const outcome = (c: number): Outcome => ({
    arrays: { ...call.arrays, c: Float32Array.of(c) },
    returned: null,
    damaged: [],
  });
  assert.equal(difference(call, outcome(2 ** -20 + 2 ** -24), expected), null);
  assert.notEqual(difference(call, outcome(2 ** -20 + 2 ** -12), expected), null);
});
