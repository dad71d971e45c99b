/** Bodies made with the Python packages msgpack and msgpack-numpy: see make_vectors.py. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { test } from 'node:test';
import { decodeJson } from '../../src/wire/json.js';
import { decodeMsgpack, encodeMsgpack } from '../../src/wire/msgpack.js';
import type { WireValue } from '../../src/wire/tree/tree.js';
import { DEFAULT_WIRE_LIMITS as LIMITS } from '../../src/wire/tree/wire-limits.js';
import type { Dtype } from '../../workers/tensor/dtype.js';
import { narrowTensor, widenEncoded } from '../../workers/tensor/narrow.js';
import { asSharedBody, refusal } from './arbitraries.js';

interface Vectors {
  values: number[][];
  numpy: Record<'float16' | 'float32' | 'float64', string>;
  tensor: Record<'float16' | 'float32' | 'float64', string>;
  fortran: string;
  scalars: Record<string, [string, number | boolean]>;
  integers: Record<string, string>;
  refused: Record<string, string>;
  old_msgpack: string;
  plain: string;
}

// Tests run from dist/test/tensor.
const file = new URL('../../../test/fixtures/wire-vectors.json', import.meta.url);
const vectors: Vectors = JSON.parse(readFileSync(file, 'utf8'));
const values = Float64Array.from(vectors.values.flat());

const decodeHex = (hex: string) => decodeMsgpack(asSharedBody(Buffer.from(hex, 'hex')), LIMITS);

for (const dialect of ['numpy', 'tensor'] as const) {
  test(`what Python sends in the ${dialect} dialect is read, and written byte for byte`, () => {
    for (const [dtype, hex] of Object.entries(vectors[dialect])) {
      const decoded = decodeHex(hex);
      const [{ pointer, tensor }] = decoded.tensors;
      assert.deepEqual([decoded.dialect, pointer, tensor.dtype], [dialect, '/x', dtype]);
      assert.deepEqual(tensor.shape, [2, 3]);
      assert.deepEqual(Float64Array.from(widenEncoded(tensor)), values);
      const answer = { x: narrowTensor(values, dtype as Dtype, [2, 3]) };
      assert.equal(encodeMsgpack(answer, dialect).toString('hex'), hex);
    }
  });
}

test('numpy has no bfloat16: it is answered as <f4', () => {
  const answer = { x: narrowTensor(Float32Array.of(0.5, -3), 'bfloat16', [2]) };
  const [{ tensor }] = decodeMsgpack(encodeMsgpack(answer, 'numpy'), LIMITS).tensors;
  assert.equal(tensor.dtype, 'float32');
  assert.deepEqual([...widenEncoded(tensor)], [0.5, -3]);
});

test('arrays in Fortran order arrive in C order', () => {
  const [{ tensor }] = decodeHex(vectors.fortran).tensors;
  assert.deepEqual(Float64Array.from(widenEncoded(tensor)), values);
});

test('numpy scalars become plain numbers and booleans', () => {
  for (const [name, [hex, expected]] of Object.entries(vectors.scalars)) {
    const { value } = decodeHex(hex);
    assert.equal((value as { x: WireValue }).x, expected, name);
  }
});

test('lists of integers of every width are read, as numpy and as torch name them', () => {
  for (const [name, hex] of Object.entries(vectors.integers)) {
    const [{ tensor }] = decodeHex(hex).tensors;
    assert.deepEqual([...widenEncoded(tensor)], [1, 2, 100], name);
  }
  const bytes = Buffer.from(new BigInt64Array([1n, 2n, 100n]).buffer).toString('base64');
  for (const dtype of ['int64', 'torch.int64', '<i8', 'I64']) {
    const body = JSON.stringify({ x: { dtype, shape: [3], data: bytes } });
    const [{ tensor }] = decodeJson(asSharedBody(Buffer.from(body)), LIMITS).tensors;
    assert.deepEqual([...widenEncoded(tensor)], [1, 2, 100], dtype);
  }
});

test('numpy arrays of other kinds are refused, and say so', () => {
  const sentences: Record<string, RegExp> = {
    'big endian': /big endian \(">f4"\)/,
    'integers in two dimensions': /"<i8"; accepted are float32/,
    'bool array': /"\|b1"; accepted/,
    'complex array': /"<c16"; accepted/,
    'complex number': /is complex/,
    structured: /structured or object/,
    object: /structured or object/,
    'void (bfloat16 of ml_dtypes)': /dtype: 'bfloat16'/,
    empty: /dimension 0 of its shape \[0, 3\] is 0/,
    'inside a list': /^The tensor at \/x\/0\/x has the element type "<i8"/,
  };
  assert.deepEqual(Object.keys(vectors.refused).sort(), Object.keys(sentences).sort());
  for (const [name, hex] of Object.entries(vectors.refused)) {
    const error = refusal(() => decodeHex(hex));
    assert.equal(error.kind, 'invalid-tensor', name);
    assert.match(error.message, sentences[name]);
  }
});

test('bytes packed as str, as old msgpack does, are refused with the remedy', () => {
  const error = refusal(() => decodeHex(vectors.old_msgpack));
  assert.deepEqual([error.kind, error.pointer], ['malformed-body', '/x/data']);
  assert.match(error.message, /use_bin_type=True/);
});

test('plain Python values of every kind', () => {
  const { value } = decodeHex(vectors.plain);
  const text = '{"é":"漢字","n":null,"t":true,"i":-5,"u":8589934592,"f":0.5,"l":["a",[]],"m":{}}';
  assert.deepEqual(value, decodeJson(Buffer.from(text), LIMITS).value);
});
