/** Exponentials and other passes over vectors. Addresses in bytes, n in elements. */
import { madd, promoteHigh } from './tile';

/** Adding it rounds to an integer, which then stands in the low bits of the sum: 1.5 * 2^23. */
const MAGIC: f32 = 12582912;

/** p 2^n for t = n + MAGIC: n is added to the bits of the exponent. */
// @ts-ignore: decorator
@inline
function scale(p: v128, t: v128): v128 {
  return i32x4.add(p, i32x4.shl(t, 23));
}

/**
 * x[i] = e^x[i] for -87 <= x[i] <= 88, clamped to that range. n a multiple of 4.
 *
 * Cody and Waite: x = n ln 2 + f, with ln 2 in two pieces of which the first has so few bits that
 * its product with n is exact; then e^f by a minimax polynomial (1.3 ulp).
 */
export function exp(x: usize, n: i32): void {
  for (const end = x + (<usize>n << 2); x < end; x += 16) {
    const v = f32x4.pmax(f32x4.splat(-87), f32x4.pmin(f32x4.splat(88), v128.load(x)));
    const t = f32x4.add(f32x4.mul(v, f32x4.splat(1.44269504)), f32x4.splat(MAGIC));
    const m = f32x4.sub(t, f32x4.splat(MAGIC));
    let f = f32x4.sub(v, f32x4.mul(m, f32x4.splat(0.693359375)));
    f = f32x4.add(f, f32x4.mul(m, f32x4.splat(2.12194440e-4)));
    let p = f32x4.splat(1.38436537e-3);
    p = madd(p, f, f32x4.splat(8.37415550e-3));
    p = madd(p, f, f32x4.splat(4.16680016e-2));
    p = madd(p, f, f32x4.splat(1.66664317e-1));
    p = madd(p, f, f32x4.splat(4.99999940e-1));
    p = madd(p, f, f32x4.splat(1));
    p = madd(p, f, f32x4.splat(1));
    v128.store(x, scale(p, t));
  }
}

/** Largest |x[i]|. */
export function largest(n: i32, x: usize): f32 {
  let m = f32x4.splat(0);
  let i = 0;
  for (; i + 4 <= n; i += 4, x += 16) m = f32x4.pmax(m, f32x4.abs(v128.load(x)));
  let most = max(
    max(f32x4.extract_lane(m, 0), f32x4.extract_lane(m, 1)),
    max(f32x4.extract_lane(m, 2), f32x4.extract_lane(m, 3)),
  );
  for (; i < n; i++, x += 4) most = max(most, abs(load<f32>(x)));
  return most;
}

/** Largest Euclidean norm of the rows of x (rows, n). */
export function largest_norm(rows: i32, n: i32, x: usize): f32 {
  let largest: f32 = 0;
  for (let i = 0; i < rows; i++) {
    let s = f32x4.splat(0);
    let c = 0;
    for (; c + 4 <= n; c += 4, x += 16) s = madd(v128.load(x), v128.load(x), s);
    let sum = f32x4.extract_lane(s, 0) + f32x4.extract_lane(s, 1);
    sum += f32x4.extract_lane(s, 2) + f32x4.extract_lane(s, 3);
    for (; c < n; c++, x += 4) sum += load<f32>(x) * load<f32>(x);
    largest = max(largest, sum);
  }
  return sqrt(largest);
}

/** y[i] *= x[i]. n a multiple of 4. */
export function multiply(n: i32, x: usize, y: usize): void {
  for (const end = x + (<usize>n << 2); x < end; x += 16, y += 16) {
    v128.store(y, f32x4.mul(v128.load(x), v128.load(y)));
  }
}

/** Row i of y = row index[i] of x (.., n). */
export function gather_rows(rows: i32, n: i32, index: usize, x: usize, y: usize): void {
  const row = <usize>n << 2;
  for (let i = 0; i < rows; i++, index += 4, y += row) {
    memory.copy(y, x + load<i32>(index) * row, row);
  }
}

/** Row index[i] of y (.., n) += row i of x. */
export function scatter_rows(rows: i32, n: i32, index: usize, x: usize, y: usize): void {
  const row = <usize>n << 2;
  for (let i = 0; i < rows; i++, index += 4) {
    const to = y + load<i32>(index) * row;
    let c: usize = 0;
    for (; c + 16 <= row; c += 16, x += 16) {
      v128.store(to + c, f32x4.add(v128.load(to + c), v128.load(x)));
    }
    for (; c < row; c += 4, x += 4) store<f32>(to + c, load<f32>(to + c) + load<f32>(x));
  }
}

/** out (rows, columns) = the sum, in float64, of `parts` matrices `stride` apart, rows ldx apart. */
export function sum_parts(
  parts: i32, rows: i32, columns: i32, x: usize, stride: i32, ldx: i32, out: usize,
): void {
  const whole = columns & ~3;
  const step = <usize>stride << 2;
  for (let i = 0; i < rows; i++, x += <usize>ldx << 2) {
    for (let c = 0; c < whole; c += 4, out += 16) {
      let from = x + (<usize>c << 2);
      let low = f64x2.splat(0);
      let high = f64x2.splat(0);
      for (let p = 0; p < parts; p++, from += step) {
        const four = v128.load(from);
        low = f64x2.add(low, f64x2.promote_low_f32x4(four));
        high = f64x2.add(high, promoteHigh(four));
      }
      v128.store(out, v128.shuffle<f32>(f32x4.demote_f64x2_zero(low), f32x4.demote_f64x2_zero(high), 0, 1, 4, 5));
    }
    for (let c = whole; c < columns; c++, out += 4) {
      let from = x + (<usize>c << 2);
      let sum: f64 = 0;
      for (let p = 0; p < parts; p++, from += step) sum += <f64>load<f32>(from);
      store<f32>(out, <f32>sum);
    }
  }
}
