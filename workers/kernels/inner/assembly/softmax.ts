/** Scores of a softmax, capped and with biases, and its weights: 2^(S - max), four vectors at a time. */
import { madd } from './tile';

/**
 * Constants, each four times over. They are loaded wherever they are used: V8 makes a constant in the
 * code anew at each use, which takes five instructions, and the sixteen registers are for other things.
 */
const CONSTANTS: usize = memory.data<f32>([
  // Adding 1.5 * 2^23 rounds to an integer, which then stands in the low bits of the sum.
  12582912, 12582912, 12582912, 12582912,
  // The coefficients of 2^f, |f| <= 1/2: minimax of degree 6, relative error 2e-9 (1.3 ulp rounded).
  1.53533620e-4, 1.53533620e-4, 1.53533620e-4, 1.53533620e-4,
  1.33988750e-3, 1.33988750e-3, 1.33988750e-3, 1.33988750e-3,
  9.61843692e-3, 9.61843692e-3, 9.61843692e-3, 9.61843692e-3,
  5.55033237e-2, 5.55033237e-2, 5.55033237e-2, 5.55033237e-2,
  2.40226477e-1, 2.40226477e-1, 2.40226477e-1, 2.40226477e-1,
  6.93147182e-1, 6.93147182e-1, 6.93147182e-1, 6.93147182e-1,
  1, 1, 1, 1,
], 16);

// @ts-ignore: decorator
@inline
function constant(i: i32): v128 {
  return v128.load(CONSTANTS + (i << 4));
}

/**
 * Over n keys, `row` bytes apart: x = 2^(x - max) for 16 rows.
 *
 * x - max = n + f with n an integer; 2^f is a polynomial, and n is added to its exponent. Below 2^-100
 * the result is 0, also for minus infinity: in a row whose largest weight is 1 that is far below one
 * rounding, and products stay clear of denormal numbers. (Whatever the polynomial made of minus
 * infinity is masked out with it.)
 */
export function exponentials(n: i32, row: usize, x: usize, max: usize): void {
  const m0 = v128.load(max), m1 = v128.load(max, 16), m2 = v128.load(max, 32), m3 = v128.load(max, 48);
  for (let j = 0; j < n; j++, x += row) {
    const x0 = f32x4.sub(v128.load(x), m0), x1 = f32x4.sub(v128.load(x, 16), m1);
    const x2 = f32x4.sub(v128.load(x, 32), m2), x3 = f32x4.sub(v128.load(x, 48), m3);
    powers(x, x0, x1, x2, x3);
    const least = f32x4.splat(-100);
    v128.store(x, v128.and(v128.load(x), f32x4.ge(x0, least)));
    v128.store(x, v128.and(v128.load(x, 16), f32x4.ge(x1, least)), 16);
    v128.store(x, v128.and(v128.load(x, 32), f32x4.ge(x2, least)), 32);
    v128.store(x, v128.and(v128.load(x, 48), f32x4.ge(x3, least)), 48);
  }
}

/** x = 2^x for |x| < 126. */
export function boundedExponentials(n: i32, row: usize, x: usize): void {
  for (let j = 0; j < n; j++, x += row) {
    powers(x, v128.load(x), v128.load(x, 16), v128.load(x, 32), v128.load(x, 48));
  }
}

/** Stores the powers of two of 16 numbers. */
// @ts-ignore: decorator
@inline
export function powers(to: usize, x0: v128, x1: v128, x2: v128, x3: v128): void {
  let c = constant(0);
  const t0 = f32x4.add(x0, c), t1 = f32x4.add(x1, c), t2 = f32x4.add(x2, c), t3 = f32x4.add(x3, c);
  const f0 = f32x4.sub(x0, f32x4.sub(t0, c)), f1 = f32x4.sub(x1, f32x4.sub(t1, c));
  const f2 = f32x4.sub(x2, f32x4.sub(t2, c)), f3 = f32x4.sub(x3, f32x4.sub(t3, c));
  c = constant(1);
  let d = constant(2);
  let p0 = madd(c, f0, d), p1 = madd(c, f1, d), p2 = madd(c, f2, d), p3 = madd(c, f3, d);
  d = constant(3);
  p0 = madd(p0, f0, d); p1 = madd(p1, f1, d); p2 = madd(p2, f2, d); p3 = madd(p3, f3, d);
  d = constant(4);
  p0 = madd(p0, f0, d); p1 = madd(p1, f1, d); p2 = madd(p2, f2, d); p3 = madd(p3, f3, d);
  d = constant(5);
  p0 = madd(p0, f0, d); p1 = madd(p1, f1, d); p2 = madd(p2, f2, d); p3 = madd(p3, f3, d);
  d = constant(6);
  p0 = madd(p0, f0, d); p1 = madd(p1, f1, d); p2 = madd(p2, f2, d); p3 = madd(p3, f3, d);
  d = constant(7);
  p0 = madd(p0, f0, d); p1 = madd(p1, f1, d); p2 = madd(p2, f2, d); p3 = madd(p3, f3, d);
  v128.store(to, i32x4.add(p0, i32x4.shl(t0, 23)));
  v128.store(to, i32x4.add(p1, i32x4.shl(t1, 23)), 16);
  v128.store(to, i32x4.add(p2, i32x4.shl(t2, 23)), 32);
  v128.store(to, i32x4.add(p3, i32x4.shl(t3, 23)), 48);
}

/**
 * x = c tanh(x / c) on n keys by `rows`, and slope = 1 - tanh(x / c)^2.
 *
 * With u = e^-2|y|, y = x / c, both are quotients without cancellation, |tanh y| = (1 - u) / (1 + u) and
 * slope = 4 u / (1 + u)^2; tanh of small y is a polynomial (that of Cephes, |y| <= 0.625).
 */
export function softcap(n: i32, rows: i32, row: usize, x: usize, c: f32, slope: usize): void {
  const inverse = f32x4.splat(1 / c), cap = f32x4.splat(c);
  for (let j = 0; j < n; j++, x += row, slope += row) {
    for (let i = 0; i < rows << 2; i += 64) {
      const at = x + i, to = slope + i;
      powers(to, decay(at, inverse), decay(at + 16, inverse), decay(at + 32, inverse), decay(at + 48, inverse));
      for (let k = 0; k < 64; k += 16) capped(at + k, to + k, inverse, cap);
    }
  }
}

/** log2 of u, not below -100. */
// @ts-ignore: decorator
@inline
function decay(at: usize, inverse: v128): v128 {
  const y = f32x4.abs(f32x4.mul(v128.load(at), inverse));
  return f32x4.pmax(f32x4.splat(-100), f32x4.mul(y, f32x4.splat(-2.885390081777927)));
}

/** Four of x and, in the place of their u, of the slope. */
function capped(x: usize, slope: usize, inverse: v128, cap: v128): void {
  const y = f32x4.mul(v128.load(x), inverse);
  const u = v128.load(slope);
  const one = f32x4.splat(1);
  const sum = f32x4.add(one, u);
  const large = f32x4.div(f32x4.sub(one, u), sum);
  const z = f32x4.mul(y, y);
  let p = madd(f32x4.splat(-5.70498872745e-3), z, f32x4.splat(2.06390887954e-2));
  p = madd(p, z, f32x4.splat(-5.37397155531e-2));
  p = madd(p, z, f32x4.splat(1.33314422036e-1));
  p = madd(p, z, f32x4.splat(-3.33332819422e-1));
  const small = madd(f32x4.mul(p, z), y, y);
  const sign = v128.and(y, f32x4.splat(-0.0));
  const near = f32x4.le(f32x4.abs(y), f32x4.splat(0.625));
  v128.store(x, f32x4.mul(cap, v128.bitselect(small, v128.or(large, sign), near)));
  v128.store(slope, f32x4.div(f32x4.mul(f32x4.splat(4), u), f32x4.mul(sum, sum)));
}

/** x += bias of the key, on n keys by `rows`. */
export function addBias(n: i32, rows: i32, row: usize, x: usize, bias: usize): void {
  for (let j = 0; j < n; j++, x += row, bias += 4) {
    const b = v128.load32_splat(bias);
    for (let i = 0; i < rows << 2; i += 16) v128.store(x + i, f32x4.add(v128.load(x + i), b));
  }
}
