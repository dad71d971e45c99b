import assert from 'node:assert/strict';
import { test } from 'node:test';
import { encodedTensor } from '../../src/tensor/encoded.js';
import { decodeJson, encodeJson } from '../../src/tensor/json.js';
import { decodeMsgpack, encodeMsgpack } from '../../src/tensor/msgpack.js';
import { DEFAULT_WIRE_LIMITS } from '../../src/tensor/wire-limits.js';

const bytes = new Uint8Array(new Float32Array([1, 2, 3.5, 0.1]).buffer);
const answer = { a: 1, tensor: encodedTensor('float32', [2, 2], bytes), list: ['x', null, true] };

for (const dialect of ['tensor', 'numpy', 'list'] as const) {
  test(`round trip ${dialect}`, () => {
    for (const d of [
      decodeMsgpack(encodeMsgpack(answer, dialect), DEFAULT_WIRE_LIMITS),
      decodeJson(encodeJson(answer, dialect), DEFAULT_WIRE_LIMITS),
    ]) {
      assert.equal(d.tensors[0].pointer, '/tensor');
      assert.deepEqual([...d.tensors[0].tensor.bytes], [...bytes]);
      assert.deepEqual(d.tensors[0].tensor.shape, [2, 2]);
    }
  });
}
