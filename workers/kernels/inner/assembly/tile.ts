/**
 * Register tiles: the inner loops in which every product runs.
 *
 * Two fused multiply-add units of latency four need eight accumulators of four floats in flight. A tile
 * has twelve, 6 rows by 8 columns: then the end of one tile and the beginning of the next overlap. With
 * two vectors of the right operand and one of the left that takes all fifteen registers that V8 gives
 * out, so a tile is a function of its own and addresses its rows from two pointers. Inlined into a loop
 * over tiles, or with k unrolled, V8 keeps accumulators on the stack (half the speed).
 *
 * Without fused multiply-add a product needs a register too: tiles of 2 by 16 and 4 by 8.
 *
 * Arguments are the same everywhere, all steps in bytes: element (r, k) of the left operand is at
 * a + r aRow + k aStep; row k of the right operand at b + k bStep and row r of c at c + r cRow, columns
 * contiguous. Every tile computes c = [c +] sum_k a_k (x) b_k.
 */

// @ts-ignore: decorator
@inline
export function madd(a: v128, b: v128, c: v128): v128 {
  return ASC_FEATURE_RELAXED_SIMD ? f32x4.relaxed_madd(a, b, c) : f32x4.add(f32x4.mul(a, b), c);
}

/** The last two of four numbers, in float64. */
// @ts-ignore: decorator
@inline
export function promoteHigh(x: v128): v128 {
  return f64x2.promote_low_f32x4(v128.shuffle<f32>(x, x, 2, 3, 2, 3));
}

/** m by n elements of c, n a multiple of 8: the largest tiles first. */
// @ts-ignore: decorator
@inline
export function product(
  m: i32, n: i32, k: i32,
  a: usize, aRow: usize, aStep: usize,
  b: usize, bStep: usize,
  c: usize, cRow: usize,
  accumulate: bool,
): void {
  let j = 0;
  if (!ASC_FEATURE_RELAXED_SIMD) {
    for (; j + 16 <= n; j += 16, b += 64, c += 64) {
      let x = a, y = c, i = 0;
      for (; i + 2 <= m; i += 2, x += 2 * aRow, y += 2 * cRow) {
        tile2x16(k, x, aRow, aStep, b, bStep, y, cRow, accumulate);
      }
      remainder(m - i, k, x, aRow, aStep, b, bStep, y, cRow, accumulate);
      remainder(m - i, k, x, aRow, aStep, b + 32, bStep, y + 32, cRow, accumulate);
    }
  }
  for (; j < n; j += 8, b += 32, c += 32) {
    let x = a, y = c, i = 0;
    if (ASC_FEATURE_RELAXED_SIMD) {
      for (; i + 6 <= m; i += 6, x += 6 * aRow, y += 6 * cRow) {
        tile6x8(k, x, aRow, aStep, b, bStep, y, cRow, accumulate);
      }
    }
    remainder(m - i, k, x, aRow, aStep, b, bStep, y, cRow, accumulate);
  }
}

/** Rows that are left over. */
function remainder(
  m: i32, k: i32,
  a: usize, aRow: usize, aStep: usize,
  b: usize, bStep: usize,
  c: usize, cRow: usize,
  accumulate: bool,
): void {
  for (; m >= 4; m -= 4, a += 4 * aRow, c += 4 * cRow) {
    tile4x8(k, a, aRow, aStep, b, bStep, c, cRow, accumulate);
  }
  if (m >= 2) {
    tile2x8(k, a, aRow, aStep, b, bStep, c, cRow, accumulate);
    a += 2 * aRow; c += 2 * cRow; m -= 2;
  }
  // A last row is both rows of a tile.
  if (m) tile2x8(k, a, 0, aStep, b, bStep, c, 0, accumulate);
}

function tile6x8(
  k: i32,
  a: usize, aRow: usize, aStep: usize,
  b: usize, bStep: usize,
  c: usize, cRow: usize,
  accumulate: bool,
): void {
  let s00 = f32x4.splat(0), s01 = s00, s10 = s00, s11 = s00, s20 = s00, s21 = s00;
  let s30 = s00, s31 = s00, s40 = s00, s41 = s00, s50 = s00, s51 = s00;
  const c3 = c + 3 * cRow;
  if (accumulate) {
    s00 = v128.load(c); s01 = v128.load(c, 16);
    s10 = v128.load(c + cRow); s11 = v128.load(c + cRow, 16);
    s20 = v128.load(c + 2 * cRow); s21 = v128.load(c + 2 * cRow, 16);
    s30 = v128.load(c3); s31 = v128.load(c3, 16);
    s40 = v128.load(c3 + cRow); s41 = v128.load(c3 + cRow, 16);
    s50 = v128.load(c3 + 2 * cRow); s51 = v128.load(c3 + 2 * cRow, 16);
  }
  let a3 = a + 3 * aRow;
  for (let i = 0; i < k; i++) {
    const b0 = v128.load(b), b1 = v128.load(b, 16);
    let x = v128.load32_splat(a);
    s00 = madd(x, b0, s00); s01 = madd(x, b1, s01);
    x = v128.load32_splat(a + aRow);
    s10 = madd(x, b0, s10); s11 = madd(x, b1, s11);
    x = v128.load32_splat(a + 2 * aRow);
    s20 = madd(x, b0, s20); s21 = madd(x, b1, s21);
    x = v128.load32_splat(a3);
    s30 = madd(x, b0, s30); s31 = madd(x, b1, s31);
    x = v128.load32_splat(a3 + aRow);
    s40 = madd(x, b0, s40); s41 = madd(x, b1, s41);
    x = v128.load32_splat(a3 + 2 * aRow);
    s50 = madd(x, b0, s50); s51 = madd(x, b1, s51);
    a += aStep; a3 += aStep; b += bStep;
  }
  v128.store(c, s00); v128.store(c, s01, 16);
  v128.store(c + cRow, s10); v128.store(c + cRow, s11, 16);
  v128.store(c + 2 * cRow, s20); v128.store(c + 2 * cRow, s21, 16);
  v128.store(c3, s30); v128.store(c3, s31, 16);
  v128.store(c3 + cRow, s40); v128.store(c3 + cRow, s41, 16);
  v128.store(c3 + 2 * cRow, s50); v128.store(c3 + 2 * cRow, s51, 16);
}

function tile4x8(
  k: i32,
  a: usize, aRow: usize, aStep: usize,
  b: usize, bStep: usize,
  c: usize, cRow: usize,
  accumulate: bool,
): void {
  let s00 = f32x4.splat(0), s01 = s00, s10 = s00, s11 = s00;
  let s20 = s00, s21 = s00, s30 = s00, s31 = s00;
  const c2 = c + 2 * cRow;
  if (accumulate) {
    s00 = v128.load(c); s01 = v128.load(c, 16);
    s10 = v128.load(c + cRow); s11 = v128.load(c + cRow, 16);
    s20 = v128.load(c2); s21 = v128.load(c2, 16);
    s30 = v128.load(c2 + cRow); s31 = v128.load(c2 + cRow, 16);
  }
  let a2 = a + 2 * aRow;
  for (let i = 0; i < k; i++) {
    const b0 = v128.load(b), b1 = v128.load(b, 16);
    let x = v128.load32_splat(a);
    s00 = madd(x, b0, s00); s01 = madd(x, b1, s01);
    x = v128.load32_splat(a + aRow);
    s10 = madd(x, b0, s10); s11 = madd(x, b1, s11);
    x = v128.load32_splat(a2);
    s20 = madd(x, b0, s20); s21 = madd(x, b1, s21);
    x = v128.load32_splat(a2 + aRow);
    s30 = madd(x, b0, s30); s31 = madd(x, b1, s31);
    a += aStep; a2 += aStep; b += bStep;
  }
  v128.store(c, s00); v128.store(c, s01, 16);
  v128.store(c + cRow, s10); v128.store(c + cRow, s11, 16);
  v128.store(c2, s20); v128.store(c2, s21, 16);
  v128.store(c2 + cRow, s30); v128.store(c2 + cRow, s31, 16);
}

function tile2x8(
  k: i32,
  a: usize, aRow: usize, aStep: usize,
  b: usize, bStep: usize,
  c: usize, cRow: usize,
  accumulate: bool,
): void {
  let s00 = f32x4.splat(0), s01 = s00, s10 = s00, s11 = s00;
  if (accumulate) {
    s00 = v128.load(c); s01 = v128.load(c, 16);
    s10 = v128.load(c + cRow); s11 = v128.load(c + cRow, 16);
  }
  for (let i = 0; i < k; i++) {
    const b0 = v128.load(b), b1 = v128.load(b, 16);
    let x = v128.load32_splat(a);
    s00 = madd(x, b0, s00); s01 = madd(x, b1, s01);
    x = v128.load32_splat(a + aRow);
    s10 = madd(x, b0, s10); s11 = madd(x, b1, s11);
    a += aStep; b += bStep;
  }
  v128.store(c, s00); v128.store(c, s01, 16);
  v128.store(c + cRow, s10); v128.store(c + cRow, s11, 16);
}

/** For the plain build. */
// @ts-ignore: decorator
@inline
function tile2x16(
  k: i32,
  a: usize, aRow: usize, aStep: usize,
  b: usize, bStep: usize,
  c: usize, cRow: usize,
  accumulate: bool,
): void {
  const c1 = c + cRow;
  let s00 = f32x4.splat(0), s01 = s00, s02 = s00, s03 = s00;
  let s10 = s00, s11 = s00, s12 = s00, s13 = s00;
  if (accumulate) {
    s00 = v128.load(c); s01 = v128.load(c, 16); s02 = v128.load(c, 32); s03 = v128.load(c, 48);
    s10 = v128.load(c1); s11 = v128.load(c1, 16); s12 = v128.load(c1, 32); s13 = v128.load(c1, 48);
  }
  let a1 = a + aRow;
  for (let i = 0; i < k; i++) {
    const b0 = v128.load(b), b1 = v128.load(b, 16), b2 = v128.load(b, 32), b3 = v128.load(b, 48);
    let x = v128.load32_splat(a);
    s00 = madd(x, b0, s00); s01 = madd(x, b1, s01); s02 = madd(x, b2, s02); s03 = madd(x, b3, s03);
    x = v128.load32_splat(a1);
    s10 = madd(x, b0, s10); s11 = madd(x, b1, s11); s12 = madd(x, b2, s12); s13 = madd(x, b3, s13);
    a += aStep; a1 += aStep; b += bStep;
  }
  v128.store(c, s00); v128.store(c, s01, 16); v128.store(c, s02, 32); v128.store(c, s03, 48);
  v128.store(c1, s10); v128.store(c1, s11, 16); v128.store(c1, s12, 32); v128.store(c1, s13, 48);
}
