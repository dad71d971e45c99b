import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { decodeJson, encodeJson } from '../../src/wire/json.js';
import { decodeMsgpack, encodeMsgpack } from '../../src/wire/msgpack.js';
import type { Dialect } from '../../src/wire/tree/tree.js';
import { DEFAULT_WIRE_LIMITS as LIMITS } from '../../src/wire/tree/wire-limits.js';
import {
  type EncodedTensor,
  encodedTensor,
  isEncodedTensor,
} from '../../workers/tensor/encoded.js';
import { widenEncoded } from '../../workers/tensor/narrow.js';
import { asSharedBody, check, tensors, trees } from './arbitraries.js';

const FORMATS = {
  msgpack: { encode: encodeMsgpack, decode: decodeMsgpack },
  json: { encode: encodeJson, decode: decodeJson },
};

/** Plain copies that deepEqual can compare: tensors by type, shape and values, prototypes dropped. */
function comparable(value: unknown, tensor: (tensor: EncodedTensor) => unknown): unknown {
  if (isEncodedTensor(value)) return tensor(value);
  if (Array.isArray(value)) return value.map((item) => comparable(item, tensor));
  if (typeof value === 'object' && value !== null) {
    const entries = Object.entries(value).map(([key, item]) => [key, comparable(item, tensor)]);
    return Object.fromEntries(entries);
  }
  return value;
}

/** As float32, with 0 for -0: JSON.stringify does not write the sign. */
const plusZero = (value: number) => Math.fround(value) || 0;

/** A list whose first leaf is a number arrives as a tensor: such trees have another test. */
function hasNumberList(value: unknown): boolean {
  if (isEncodedTensor(value) || typeof value !== 'object' || value === null) return false;
  if (Array.isArray(value)) {
    let first: unknown = value;
    while (Array.isArray(first)) first = first[0];
    if (typeof first === 'number') return true;
  }
  return Object.values(value).some(hasNumberList);
}

for (const [format, { encode, decode }] of Object.entries(FORMATS)) {
  for (const dialect of ['tensor', 'numpy'] as const) {
    test(`${format} in the ${dialect} dialect keeps types, shapes and bits`, () => {
      const sent = (tensor: EncodedTensor) => {
        const widened = format === 'msgpack' && dialect === 'numpy' && tensor.dtype === 'bfloat16';
        const dtype = widened ? 'float32' : tensor.dtype;
        const values = widenEncoded(tensor);
        return { dtype, shape: tensor.shape, values: Buffer.from(values.buffer).toString('hex') };
      };
      const property = fc.property(trees, (tree) => {
        fc.pre(!hasNumberList(tree));
        const body = asSharedBody(encode(tree as object, dialect));
        const decoded = decode(body, LIMITS);
        const received = comparable(decoded.value, sent);
        assert.deepEqual(received, comparable(tree, sent));
      });
      check(property);
    });
  }
}

test('JSON lists keep shape, and values to float32', () => {
  const property = fc.property(tensors, (tensor) => {
    const decoded = decodeJson(asSharedBody(encodeJson({ x: tensor }, 'list')), LIMITS);
    const [{ pointer, tensor: received }] = decoded.tensors;
    assert.equal(pointer, '/x');
    assert.equal(decoded.dialect, 'list');
    assert.equal(received.dtype, 'float32');
    assert.deepEqual(received.shape, tensor.shape);
    // A float64 beyond float32 becomes infinity, which is found when the tensor is decoded.
    const sent = Float32Array.from(widenEncoded(tensor), plusZero);
    const got = Float32Array.from(widenEncoded(received), plusZero);
    assert.deepEqual(got, sent);
  });
  check(property);
});

test('msgpack lists of numbers are float32 tensors too', () => {
  const body = encodeMsgpack(
    {
      x: [
        [1, 2.5],
        [-3, 1e9],
      ],
      outputs: ['gradients'],
    },
    'tensor',
  );
  const { dialect, tensors: found, value } = decodeMsgpack(body, LIMITS);
  assert.equal(dialect, 'list');
  assert.deepEqual(found[0].tensor.shape, [2, 2]);
  assert.deepEqual([...widenEncoded(found[0].tensor)], [1, 2.5, -3, 1e9]);
  assert.deepEqual((value as { outputs: unknown }).outputs, ['gradients']);
});

test('the first tensor in document order decides the dialect', () => {
  const dialects: Dialect[] = ['tensor', 'list'];
  const [map, list] = ['{"dtype":"F32","shape":[1],"data":"AAAAAA=="}', '[[1]]'];
  for (const dialect of dialects) {
    const [first, second] = dialect === 'list' ? [list, map] : [map, list];
    const body = Buffer.from(`{"a":{"b":${first}},"c":${second}}`);
    assert.equal(decodeJson(body, LIMITS).dialect, dialect);
    // A flat list decides nothing: in Python `key_lengths` is one beside tensors of any kind.
    const flat = Buffer.from(`{"lengths":[1],"a":{"b":${first}},"c":${second}}`);
    assert.equal(decodeJson(flat, LIMITS).dialect, dialect);
  }
  assert.equal(decodeJson(Buffer.from('{}'), LIMITS).dialect, 'list');
  assert.equal(decodeMsgpack(Buffer.from([0x80]), LIMITS).dialect, 'tensor');
});

test('tensor bytes are views of a shared body, and shared memory when they were text', () => {
  const tensor = fc.sample(tensors, { numRuns: 1, seed: 1 })[0];
  const body = asSharedBody(encodeMsgpack({ x: tensor }, 'tensor'));
  assert.equal(decodeMsgpack(body, LIMITS).tensors[0].tensor.bytes.buffer, body.buffer);
  for (const dialect of ['tensor', 'list'] as const) {
    const json = decodeJson(encodeJson({ x: tensor }, dialect), LIMITS);
    assert.ok(json.tensors[0].tensor.bytes.buffer instanceof SharedArrayBuffer);
  }
});

test('__proto__ is a key like any other', () => {
  const json = decodeJson(Buffer.from('{"__proto__":{"polluted":true}}'), LIMITS).value;
  const msgpack = decodeMsgpack(
    Buffer.from('81a95f5f70726f746f5f5f81a8706f6c6c75746564c3', 'hex'),
    LIMITS,
  ).value;
  for (const value of [json, msgpack]) {
    assert.equal(Object.getPrototypeOf(value), null);
    assert.deepEqual(Object.keys(value as object), ['__proto__']);
    assert.equal((value as { polluted?: unknown }).polluted, undefined);
  }
  assert.equal(({} as { polluted?: unknown }).polluted, undefined);
});

test('answers: NaN is null, undefined is left out, a bare typed array is a mistake', () => {
  const answer = { a: Number.NaN, b: undefined, c: [Number.POSITIVE_INFINITY] };
  assert.equal(encodeJson(answer, 'tensor').toString(), '{"a":null,"c":[null]}');
  assert.equal(encodeMsgpack(answer, 'tensor').toString('hex'), '82a161c0a16391c0');
  const bare = { x: new Float32Array(2) };
  assert.throws(() => encodeMsgpack(bare, 'tensor'), TypeError);
  assert.throws(() => encodeJson(bare, 'tensor'), TypeError);
});

test('float32 goes into JSON lists with 6 to 9 digits, as many as it takes', () => {
  const bytes = new Uint8Array(Float32Array.of(0.1, 1 / 3, 16777216, 1e-45).buffer);
  const tensor = encodedTensor('float32', [4], bytes);
  assert.equal(encodeJson(tensor, 'list').toString(), '[0.1,0.33333334,16777216,1.4013e-45]');
});
