/** Weights of a softmax from its scores: 2^(S - max), four vectors at a time. */
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
function powers(to: usize, x0: v128, x1: v128, x2: v128, x3: v128): void {
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
