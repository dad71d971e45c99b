/**
 * From bytes on the wire to aligned numbers. Pure functions over flat memory, for worker threads.
 * Typed arrays have the byte order of the machine: little endian, as on every platform Node is built
 * for except s390x.
 */
import { type Dtype, ITEM_SIZE } from './dtype.js';
import { float16Values } from './half.js';
import { copyBytes } from './shared-memory.js';

/** Elements that the scan joins before it asks whether one of them was not finite. */
const BLOCK = 4096;

/**
 * Copies `bytes` (little endian, any alignment) to `target`, widening float16 and bfloat16.
 * `target` is a Float64Array for float64 and a Float32Array for the others, of exactly as many
 * elements. Returns the index of the first NaN or infinity, or -1; `target` is filled in any case.
 * Throws RangeError when the sizes or types do not fit: that is a mistake of the caller.
 */
export function decodeTensor(
  bytes: Uint8Array,
  dtype: Dtype,
  target: Float32Array | Float64Array,
): number {
  if (bytes.length !== target.length * ITEM_SIZE[dtype]) {
    throw new RangeError(`${bytes.length} bytes are not ${target.length} elements of ${dtype}`);
  }
  if (target instanceof Float64Array !== (dtype === 'float64')) {
    throw new RangeError(`${dtype} does not decode into ${target.constructor.name}`);
  }
  if (target instanceof Float64Array) {
    copyBytes(bytesOf(target), bytes);
    return firstNonFinite64(target);
  }
  if (dtype === 'float16') widen16(bytes, target);
  else if (dtype === 'bfloat16') widenBfloat16(bytes, target);
  else copyBytes(bytesOf(target), bytes);
  return firstNonFinite32(target);
}

function bytesOf({ buffer, byteOffset, byteLength }: Float32Array | Float64Array): Uint8Array {
  return new Uint8Array(buffer, byteOffset, byteLength);
}

/** As 16-bit numbers; bytes at an odd address are copied first (`slice` of a Buffer is no copy). */
function halvesOf(bytes: Uint8Array): Uint16Array {
  const { buffer, byteOffset, length } = bytes.byteOffset % 2 === 0 ? bytes : new Uint8Array(bytes);
  return new Uint16Array(buffer, byteOffset, length / 2);
}

function widen16(bytes: Uint8Array, target: Float32Array): void {
  const halves = halvesOf(bytes);
  const table = float16Values();
  for (let i = 0; i < halves.length; i++) target[i] = table[halves[i]];
}

function widenBfloat16(bytes: Uint8Array, target: Float32Array): void {
  const halves = halvesOf(bytes);
  const bits = new Uint32Array(target.buffer, target.byteOffset, target.length);
  for (let i = 0; i < halves.length; i++) bits[i] = halves[i] << 16;
}

/**
 * A number is NaN or infinite when its exponent is all ones. Adding one in the lowest place of the
 * exponent then carries into the sign, so a whole block is judged by one OR over its elements.
 */
function firstNonFinite32(data: Float32Array): number {
  const bits = new Int32Array(data.buffer, data.byteOffset, data.length);
  for (let start = 0; start < bits.length; start += BLOCK) {
    const end = Math.min(start + BLOCK, bits.length);
    let carry = 0;
    for (let i = start; i < end; i++) carry |= (bits[i] & 0x7f800000) + 0x00800000;
    if (carry < 0) return start + data.subarray(start, end).findIndex(isNotFinite);
  }
  return -1;
}

/** The exponent of a float64 stands in its upper 32 bits. */
function firstNonFinite64(data: Float64Array): number {
  const bits = new Int32Array(data.buffer, data.byteOffset, data.length * 2);
  for (let start = 0; start < data.length; start += BLOCK) {
    const end = Math.min(start + BLOCK, data.length);
    let carry = 0;
    for (let i = 2 * start + 1; i < 2 * end; i += 2) carry |= (bits[i] & 0x7ff00000) + 0x00100000;
    if (carry < 0) return start + data.subarray(start, end).findIndex(isNotFinite);
  }
  return -1;
}

function isNotFinite(value: number): boolean {
  return !Number.isFinite(value);
}
