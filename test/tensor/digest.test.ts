import assert from 'node:assert/strict';
import { test } from 'node:test';
import { tensorDigest } from '../../workers/tensor/digest.js';
import { encodedTensor } from '../../workers/tensor/encoded.js';

// From Python: hashlib.sha256(b"float32\n2,2\n" + struct.pack("<4f", 1, 2, 3, 4)).hexdigest()
const PYTHON = '8906ddd5d4c5a909fc77c47d4955f651a1eb83119b7adcb0e801232351813f65';

test('the digest of a tensor is what hashlib computes from the documented string', () => {
  const bytes = new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer);
  assert.equal(tensorDigest(encodedTensor('float32', [2, 2], bytes)), PYTHON);
});

test('shape and dtype are part of it', () => {
  const bytes = new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer);
  const digests = new Set([
    tensorDigest(encodedTensor('float32', [2, 2], bytes)),
    tensorDigest(encodedTensor('float32', [4], bytes)),
    tensorDigest(encodedTensor('float32', [4, 1], bytes)),
    tensorDigest(encodedTensor('float64', [2], bytes)),
    tensorDigest(encodedTensor('float16', [8], bytes)),
    tensorDigest(encodedTensor('bfloat16', [8], bytes)),
  ]);
  assert.equal(digests.size, 6);
});

test('a large tensor is hashed piece by piece, in shared memory at any offset', () => {
  const length = 20 * 1024 * 1024;
  const shared = new Uint8Array(new SharedArrayBuffer(length + 1)).subarray(1).fill(63);
  let pieces = 0;
  const digest = tensorDigest(encodedTensor('float32', [length / 4], shared), () => pieces++);
  assert.equal(pieces, 3);
  const own = new Uint8Array(length).fill(63);
  assert.equal(digest, tensorDigest(encodedTensor('float32', [length / 4], own)));
});
