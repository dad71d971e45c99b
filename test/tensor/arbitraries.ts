/** What the property tests of the wire formats draw from, and how they say which seed they drew. */
import fc from 'fast-check';
import { WireError } from '../../src/wire/tree/wire-error.js';
import { DTYPES, type Dtype, ITEM_SIZE } from '../../workers/tensor/dtype.js';
import { type EncodedTensor, encodedTensor } from '../../workers/tensor/encoded.js';
import { testSeed } from '../support/random.js';

const seed = testSeed();

/** LORAGRAD_TEST_RUNS, if it is set, in place of `usual`. */
export function check<T>(property: fc.IProperty<T>, usual = 300): void {
  fc.assert(property, { seed, numRuns: Number(process.env.LORAGRAD_TEST_RUNS ?? usual) });
}

/** Finite elements only: other bit patterns are for the tests of single numbers. */
function finiteBytes(dtype: Dtype, raw: Uint8Array): Uint8Array {
  const size = ITEM_SIZE[dtype];
  const bytes = raw.slice();
  // Clears one bit of the exponent, which then cannot be all ones.
  for (let top = size - 1; top < bytes.length; top += size) bytes[top] &= 0xbf;
  return bytes;
}

export const tensors: fc.Arbitrary<EncodedTensor> = fc
  .record({
    dtype: fc.constantFrom(...DTYPES),
    shape: fc.array(fc.integer({ min: 1, max: 5 }), { minLength: 1, maxLength: 4 }),
  })
  .chain(({ dtype, shape }) => {
    const length = shape.reduce((product, size) => product * size, ITEM_SIZE[dtype]);
    return fc
      .uint8Array({ minLength: length, maxLength: length })
      .map((raw) => encodedTensor(dtype, shape, finiteBytes(dtype, raw)));
  });

const keys = fc
  .string({ unit: 'grapheme', maxLength: 8 })
  .filter((key) => !['dtype', 'shape', 'data', 'nd', '__proto__'].includes(key));

/** Trees of plain values and tensors, as a request or an answer has them. */
export const trees = fc.letrec<{ tree: unknown }>((tie) => ({
  tree: fc.oneof(
    { maxDepth: 3, depthSize: 'small' },
    fc.constantFrom(null, true, false, '', 'é漢字🙂'),
    fc.string({ unit: 'grapheme', maxLength: 300 }),
    fc.maxSafeInteger(),
    fc.integer({ min: -130, max: 300 }),
    fc.double({ noNaN: true, min: -1e9, max: 1e9 }).map((x) => (Object.is(x, -0) ? 0 : x)),
    tensors,
    fc.array(tie('tree'), { maxLength: 4 }),
    fc.dictionary(keys, tie('tree'), { maxKeys: 20, noNullPrototype: true }),
  ),
})).tree;

/** A copy at an odd offset of a SharedArrayBuffer, with other bytes on both sides. */
export function asSharedBody(bytes: Uint8Array): Buffer {
  const shared = new Uint8Array(new SharedArrayBuffer(bytes.length + 8)).fill(0xa3);
  shared.set(bytes, 3);
  return Buffer.from(shared.buffer, 3, bytes.length);
}

/** Runs `read` and returns the WireError it throws; other errors pass, and success is one. */
export function refusal(read: () => unknown): WireError {
  try {
    read();
  } catch (error) {
    if (error instanceof WireError) return error;
    throw error;
  }
  throw new Error('accepted, and should have been refused');
}
