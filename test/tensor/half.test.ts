import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decodeTensor } from '../../workers/tensor/decode.js';
import type { Dtype } from '../../workers/tensor/dtype.js';
import { narrowTensor } from '../../workers/tensor/narrow.js';
import { allocateTensor } from '../../workers/tensor/tensor.js';

/** The textbook formula for a binary float with `fraction` bits and exponents up to `bias`. */
function textbook(bits: number, fraction: number, bias: number): number {
  const sign = bits >>> 15 ? -1 : 1;
  const exponent = (bits & 0x7fff) >>> fraction;
  const mantissa = (bits & ((1 << fraction) - 1)) / (1 << fraction);
  if (exponent === 2 * bias + 1) return mantissa ? Number.NaN : sign * Number.POSITIVE_INFINITY;
  if (exponent === 0) return sign * mantissa * 2 ** (1 - bias);
  return sign * (1 + mantissa) * 2 ** (exponent - bias);
}

const TYPES = [
  { dtype: 'float16', fraction: 10, bias: 15 },
  { dtype: 'bfloat16', fraction: 7, bias: 127 },
] as const;

const ALL_BITS = Uint16Array.from({ length: 65536 }, (_, bits) => bits);

function narrowOne(value: number, dtype: Dtype): number {
  const { bytes } = narrowTensor(Float64Array.of(value), dtype, [1]);
  return bytes[0] | (bytes[1] << 8);
}

for (const { dtype, fraction, bias } of TYPES) {
  const values = Array.from(ALL_BITS, (bits) => textbook(bits, fraction, bias));

  test(`all 65,536 ${dtype} widen to what the textbook says`, () => {
    const target = new Float32Array(65536);
    // A Buffer, as bodies may be: its methods are not all those of its class.
    const bytes = Buffer.alloc(65536 * 2 + 1);
    bytes.set(new Uint8Array(ALL_BITS.buffer), 1);
    const first = decodeTensor(bytes.subarray(1), dtype, target);
    assert.equal(
      first,
      values.findIndex((value) => !Number.isFinite(value)),
    );
    for (let bits = 0; bits < 65536; bits++) assert.ok(Object.is(target[bits], values[bits]));
  });

  test(`all 65,536 ${dtype} come back as the same bits`, () => {
    for (const data of [Float32Array.from(values), Float64Array.from(values)]) {
      const { bytes } = narrowTensor(data, dtype, [65536]);
      const bits = new Uint16Array(bytes.slice().buffer);
      for (let i = 0; i < 65536; i++) {
        if (Number.isNaN(values[i])) assert.ok(Number.isNaN(values[bits[i]]));
        else assert.equal(bits[i], i);
      }
    }
  });

  test(`what lies between two ${dtype} goes to the nearer one, and half way to the even one`, () => {
    const infinity = ((2 * bias + 1) << fraction) >>> 0;
    // Beyond the largest number, rounding goes on as if there were one more binade.
    const beyond = 2 ** (bias + 1);
    for (let bits = 0; bits < infinity; bits++) {
      const low = values[bits];
      const high = bits + 1 === infinity ? beyond : values[bits + 1];
      const middle = low + (high - low) / 2;
      const above = middle + (high - low) * 2 ** -30;
      const below = middle - (high - low) * 2 ** -30;
      assert.equal(narrowOne(middle, dtype), bits % 2 === 0 ? bits : bits + 1);
      assert.equal(narrowOne(above, dtype), bits + 1);
      assert.equal(narrowOne(below, dtype), bits);
      assert.equal(narrowOne(-above, dtype), (bits + 1) | 0x8000);
    }
  });

  test(`${dtype} overflows to infinity and underflows to a signed zero`, () => {
    const infinity = (2 * bias + 1) << fraction;
    assert.equal(narrowOne(1e300, dtype), infinity);
    assert.equal(narrowOne(-1e300, dtype), infinity | 0x8000);
    assert.equal(narrowOne(1e-300, dtype), 0);
    assert.equal(narrowOne(-1e-300, dtype), 0x8000);
    assert.equal(narrowOne(-0, dtype), 0x8000);
    assert.equal(narrowOne(5e-324, dtype), 0);
  });
}

test('float32 and float64 narrow as the hardware does', () => {
  const { bytes } = narrowTensor(Float64Array.of(0.1, 1e300, 1e-46), 'float32', [3]);
  assert.deepEqual([...new Float32Array(bytes.slice().buffer)], [Math.fround(0.1), Infinity, 0]);
  const wide = narrowTensor(Float32Array.of(0.1), 'float64', [1]).bytes;
  assert.deepEqual([...new Float64Array(wide.slice().buffer)], [Math.fround(0.1)]);
});

test('the first NaN or infinity is found wherever it stands, at any alignment', () => {
  for (const dtype of ['float32', 'float64'] as const) {
    const allocate = (size: number) => allocateTensor(dtype, [size]).data;
    const length = 10_000;
    for (const bad of [Number.NaN, Infinity, -Infinity]) {
      for (const index of [0, 1, 4095, 4096, 9_998, 9_999, -1]) {
        const source = allocate(length).fill(dtype === 'float32' ? -3.4e38 : -1.7e308);
        if (index >= 0) source[index] = bad;
        if (index >= 0 && index < 9_000) source[9_500] = bad;
        const body = new Uint8Array(source.byteLength + 3);
        body.set(new Uint8Array(source.buffer), 3);
        const target = allocate(length);
        assert.equal(decodeTensor(body.subarray(3), dtype, target), index);
        assert.deepEqual(Buffer.from(target.buffer), Buffer.from(source.buffer));
      }
    }
  }
});

test('a target of another size or type is a mistake of the caller', () => {
  const bytes = new Uint8Array(8);
  assert.throws(() => decodeTensor(bytes, 'float32', new Float32Array(3)), RangeError);
  assert.throws(() => decodeTensor(bytes, 'float32', new Float64Array(2)), RangeError);
  assert.throws(() => decodeTensor(bytes, 'float64', new Float32Array(1)), RangeError);
});
