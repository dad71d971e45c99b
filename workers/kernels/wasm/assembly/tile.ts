/**
 * Register tiles: the inner loops in which every product runs.
 *
 * A tile has eight accumulators of four floats, 2 rows by 16 columns or 4 by 8. That is what two fused
 * multiply-add units of latency four need, and more make V8 move registers about (half the speed at
 * ten and at twelve; also when k is unrolled). The wide build has tiles of 4 by 16: V8 can merge their
 * pairs of 128-bit operations into 256-bit ones ("revectorize"), if stores come in pairs on one base
 * with literal offsets 16 apart.
 *
 * WIDE is 0 or 1 and set by the build (asc --use WIDE=1).
 */

// @ts-ignore: decorator
@inline
export function madd(a: v128, b: v128, c: v128): v128 {
  return ASC_FEATURE_RELAXED_SIMD ? f32x4.relaxed_madd(a, b, c) : f32x4.add(f32x4.mul(a, b), c);
}

/**
 * c (4, 8) = [c +] sum_k a_k (x) b_k, one function for every layout; all steps in bytes.
 *
 * Element (r, k) of the left operand is at a_r + k aStep; row k of the right operand (8 floats) at
 * b + k bStep; row r of c at c + r cStep.
 */
// @ts-ignore: decorator
@inline
export function tile4x8(
  k: i32,
  a0: usize, a1: usize, a2: usize, a3: usize, aStep: usize,
  b: usize, bStep: usize,
  c: usize, cStep: usize,
  accumulate: bool,
): void {
  const c1 = c + cStep;
  const c2 = c1 + cStep;
  const c3 = c2 + cStep;
  let s00 = f32x4.splat(0), s01 = s00, s10 = s00, s11 = s00;
  let s20 = s00, s21 = s00, s30 = s00, s31 = s00;
  if (accumulate) {
    s00 = v128.load(c); s01 = v128.load(c, 16);
    s10 = v128.load(c1); s11 = v128.load(c1, 16);
    s20 = v128.load(c2); s21 = v128.load(c2, 16);
    s30 = v128.load(c3); s31 = v128.load(c3, 16);
  }
  for (let i = 0; i < k; i++) {
    const b0 = v128.load(b);
    const b1 = v128.load(b, 16);
    let x = v128.load32_splat(a0);
    s00 = madd(x, b0, s00); s01 = madd(x, b1, s01);
    x = v128.load32_splat(a1);
    s10 = madd(x, b0, s10); s11 = madd(x, b1, s11);
    x = v128.load32_splat(a2);
    s20 = madd(x, b0, s20); s21 = madd(x, b1, s21);
    x = v128.load32_splat(a3);
    s30 = madd(x, b0, s30); s31 = madd(x, b1, s31);
    a0 += aStep; a1 += aStep; a2 += aStep; a3 += aStep;
    b += bStep;
  }
  v128.store(c, s00); v128.store(c, s01, 16);
  v128.store(c1, s10); v128.store(c1, s11, 16);
  v128.store(c2, s20); v128.store(c2, s21, 16);
  v128.store(c3, s30); v128.store(c3, s31, 16);
}

/** The same, 2 rows by 16 columns: also eight accumulators, and fewer addresses to keep. */
// @ts-ignore: decorator
@inline
export function tile2x16(
  k: i32,
  a0: usize, a1: usize, aStep: usize,
  b: usize, bStep: usize,
  c: usize, cStep: usize,
  accumulate: bool,
): void {
  const c1 = c + cStep;
  let s00 = f32x4.splat(0), s01 = s00, s02 = s00, s03 = s00;
  let s10 = s00, s11 = s00, s12 = s00, s13 = s00;
  if (accumulate) {
    s00 = v128.load(c); s01 = v128.load(c, 16); s02 = v128.load(c, 32); s03 = v128.load(c, 48);
    s10 = v128.load(c1); s11 = v128.load(c1, 16); s12 = v128.load(c1, 32); s13 = v128.load(c1, 48);
  }
  for (let i = 0; i < k; i++) {
    const b0 = v128.load(b), b1 = v128.load(b, 16), b2 = v128.load(b, 32), b3 = v128.load(b, 48);
    let x = v128.load32_splat(a0);
    s00 = madd(x, b0, s00); s01 = madd(x, b1, s01); s02 = madd(x, b2, s02); s03 = madd(x, b3, s03);
    x = v128.load32_splat(a1);
    s10 = madd(x, b0, s10); s11 = madd(x, b1, s11); s12 = madd(x, b2, s12); s13 = madd(x, b3, s13);
    a0 += aStep; a1 += aStep;
    b += bStep;
  }
  v128.store(c, s00); v128.store(c, s01, 16); v128.store(c, s02, 32); v128.store(c, s03, 48);
  v128.store(c1, s10); v128.store(c1, s11, 16); v128.store(c1, s12, 32); v128.store(c1, s13, 48);
}

/** The same, 4 rows by 16 columns, for the wide build. */
// @ts-ignore: decorator
@inline
export function tile4x16(
  k: i32,
  a0: usize, a1: usize, a2: usize, a3: usize, aStep: usize,
  b: usize, bStep: usize,
  c: usize, cStep: usize,
  accumulate: bool,
): void {
  const c1 = c + cStep;
  const c2 = c1 + cStep;
  const c3 = c2 + cStep;
  let s00 = f32x4.splat(0), s01 = s00, s02 = s00, s03 = s00;
  let s10 = s00, s11 = s00, s12 = s00, s13 = s00;
  let s20 = s00, s21 = s00, s22 = s00, s23 = s00;
  let s30 = s00, s31 = s00, s32 = s00, s33 = s00;
  if (accumulate) {
    s00 = v128.load(c); s01 = v128.load(c, 16); s02 = v128.load(c, 32); s03 = v128.load(c, 48);
    s10 = v128.load(c1); s11 = v128.load(c1, 16); s12 = v128.load(c1, 32); s13 = v128.load(c1, 48);
    s20 = v128.load(c2); s21 = v128.load(c2, 16); s22 = v128.load(c2, 32); s23 = v128.load(c2, 48);
    s30 = v128.load(c3); s31 = v128.load(c3, 16); s32 = v128.load(c3, 32); s33 = v128.load(c3, 48);
  }
  for (let i = 0; i < k; i++) {
    const b0 = v128.load(b), b1 = v128.load(b, 16), b2 = v128.load(b, 32), b3 = v128.load(b, 48);
    let x = v128.load32_splat(a0);
    s00 = madd(x, b0, s00); s01 = madd(x, b1, s01); s02 = madd(x, b2, s02); s03 = madd(x, b3, s03);
    x = v128.load32_splat(a1);
    s10 = madd(x, b0, s10); s11 = madd(x, b1, s11); s12 = madd(x, b2, s12); s13 = madd(x, b3, s13);
    x = v128.load32_splat(a2);
    s20 = madd(x, b0, s20); s21 = madd(x, b1, s21); s22 = madd(x, b2, s22); s23 = madd(x, b3, s23);
    x = v128.load32_splat(a3);
    s30 = madd(x, b0, s30); s31 = madd(x, b1, s31); s32 = madd(x, b2, s32); s33 = madd(x, b3, s33);
    a0 += aStep; a1 += aStep; a2 += aStep; a3 += aStep;
    b += bStep;
  }
  v128.store(c, s00); v128.store(c, s01, 16); v128.store(c, s02, 32); v128.store(c, s03, 48);
  v128.store(c1, s10); v128.store(c1, s11, 16); v128.store(c1, s12, 32); v128.store(c1, s13, 48);
  v128.store(c2, s20); v128.store(c2, s21, 16); v128.store(c2, s22, 32); v128.store(c2, s23, 48);
  v128.store(c3, s30); v128.store(c3, s31, 16); v128.store(c3, s32, 32); v128.store(c3, s33, 48);
}

/**
 * c (4, n) = [c +] sum_k a_k (x) b_k for n a multiple of 8: the widest tiles first.
 * Columns of b and c are contiguous. Arguments as in tile4x8.
 */
// @ts-ignore: decorator
@inline
export function strip(
  n: i32,
  k: i32,
  a0: usize, a1: usize, a2: usize, a3: usize, aStep: usize,
  b: usize, bStep: usize,
  c: usize, cStep: usize,
  accumulate: bool,
): void {
  let j = 0;
  for (; j + 16 <= n; j += 16, b += 64, c += 64) {
    if (WIDE) {
      tile4x16(k, a0, a1, a2, a3, aStep, b, bStep, c, cStep, accumulate);
    } else {
      tile2x16(k, a0, a1, aStep, b, bStep, c, cStep, accumulate);
      tile2x16(k, a2, a3, aStep, b, bStep, c + 2 * cStep, cStep, accumulate);
    }
  }
  for (; j < n; j += 8, b += 32, c += 32) {
    tile4x8(k, a0, a1, a2, a3, aStep, b, bStep, c, cStep, accumulate);
  }
}
