/** The two 16-bit float types, bit by bit. */

const scratch = new DataView(new ArrayBuffer(8));

/**
 * The number that 16 bits of IEEE 754 binary16 stand for: sign, 5 bits of exponent (bias 15), 10 of
 * fraction. Shifted into the places of a binary32 the exponent is 112 too small, which a product by
 * 2^112 corrects for normal and subnormal numbers alike.
 */
export function widenFloat16(bits: number): number {
  const magnitude = bits & 0x7fff;
  const special = magnitude >= 0x7c00 ? 0x7f800000 : 0;
  scratch.setUint32(0, special | (magnitude << 13));
  const value = special === 0 ? scratch.getFloat32(0) * 2 ** 112 : scratch.getFloat32(0);
  return bits & 0x8000 ? -value : value;
}

/** binary16 to binary32, all 65,536 of them: 256 KiB, which a table look-up finds in the cache. */
let float16Table: Float32Array | null = null;

export function float16Values(): Float32Array {
  float16Table ??= Float32Array.from({ length: 65536 }, (_, bits) => widenFloat16(bits));
  return float16Table;
}

/**
 * Rounds to the nearest number with `fraction` bits of fraction and no exponent below `minExponent`,
 * ties to even, from the full float64: going through float32 would round twice.
 *
 * Adding and taking away 1.5 x 2^52 units in the last place lets the hardware do the rounding.
 */
function roundTo(value: number, fraction: number, minExponent: number): number {
  scratch.setFloat64(0, value);
  const exponent = Math.max(((scratch.getUint16(0) >>> 4) & 0x7ff) - 1023, minExponent);
  if (exponent === 1024) return value;
  scratch.setFloat64(0, 0);
  // 2^(exponent - fraction + 52), written by its exponent field.
  scratch.setUint16(0, (exponent - fraction + 52 + 1023) << 4);
  const magic = 1.5 * scratch.getFloat64(0);
  return value + magic - magic;
}

/** Bits of the nearest binary16, ties to even; beyond 65,520 that is infinity. */
export function narrowFloat16(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  if (Number.isNaN(value)) return 0x7e00;
  const magnitude = Math.abs(value);
  if (magnitude >= 65520) return sign | 0x7c00;
  const rounded = roundTo(magnitude, 10, -14);
  if (rounded < 2 ** -14) return sign | (rounded * 2 ** 24);
  scratch.setFloat32(0, rounded);
  return sign | ((scratch.getUint32(0) - (112 << 23)) >>> 13);
}

/** Bits of the nearest bfloat16, ties to even: the upper half of a binary32. */
export function narrowBfloat16(value: number): number {
  if (Number.isNaN(value)) return 0x7fc0;
  // Infinite already, or rounded up to 2^128, which the conversion to binary32 makes infinite.
  const large = Math.abs(value) >= 2 ** 128;
  const rounded = large ? value : roundTo(Math.abs(value), 7, -126) * (value < 0 ? -1 : 1);
  scratch.setFloat32(0, Object.is(value, -0) ? -0 : rounded);
  return scratch.getUint16(0);
}
