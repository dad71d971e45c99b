import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Problem } from '../../src/errors.js';
import { resolveReferences } from '../../src/store/resolve.js';
import { TensorReference } from '../../src/wire/tree/reference.js';
import { encodedTensor } from '../../workers/tensor/encoded.js';
import { allocateTensor } from '../../workers/tensor/tensor.js';

const stored = allocateTensor('float32', [2]);
const lookup = (name: string) => (name === 'sha256:known' ? stored : undefined);
const known = new TensorReference('sha256:known');

test('references become tensors wherever they stand; everything else stays', () => {
  const given = encodedTensor('float32', [1], new Uint8Array(4));
  const body = { a: known, q: { weight: known, bias: given, list: [known, 1] }, n: null, b: true };
  const resolved = resolveReferences(body, lookup) as typeof body;
  assert.equal(resolved.a, stored);
  assert.equal(resolved.q.weight, stored);
  assert.equal(resolved.q.bias, given);
  assert.deepEqual(resolved.q.list, [stored, 1]);
  assert.deepEqual([resolved.n, resolved.b], [null, true]);
  assert.equal(body.a, known, 'the body itself is not changed');
  assert.equal(resolveReferences(given, lookup), given);
  assert.equal(resolveReferences(undefined, lookup), undefined);
});

test('every missing reference is named once, in the order of the body', () => {
  const body = {
    a: known,
    q: { 'we/ight': new TensorReference('sha256:y'), bias: new TensorReference('sha256:x') },
    v: { weight: new TensorReference('sha256:y') },
  };
  assert.throws(
    () => resolveReferences(body, lookup),
    (error: unknown) => {
      assert.ok(error instanceof Problem);
      assert.equal(error.kind, 'missing-tensors');
      assert.deepEqual(error.options.missing, ['sha256:y', 'sha256:x']);
      assert.equal(error.options.pointer, '/q/we~1ight');
      assert.match(error.message, /2 references/);
      return true;
    },
  );
});
