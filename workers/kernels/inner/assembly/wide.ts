/** Passes of the low-rank kernel at the full width of a head. Addresses in bytes, sizes in elements. */
import { at } from './rows';
import { madd, promoteHigh } from './tile';

/** out[f, i] = x[f, i] scale[i] for x, out (features, rows), rows a multiple of 4; out may be x. */
export function scale_columns(features: i32, rows: i32, x: usize, scale: usize, out: usize): void {
  const bytes = <usize>rows << 2;
  for (let f = 0; f < features; f++, x += bytes, out += bytes) {
    for (let i: usize = 0; i < bytes; i += 16) {
      v128.store(out + i, f32x4.mul(v128.load(x + i), v128.load(scale + i)));
    }
  }
}

/** out[i] = sum_f a[f, i] b[f, i] for a, b (features, rows), rows a multiple of 4. */
export function column_dots(features: i32, rows: i32, a: usize, b: usize, out: usize): void {
  const bytes = <usize>rows << 2;
  for (let i: usize = 0; i < bytes; i += 16) {
    let sum = f32x4.splat(0);
    let x = a + i;
    let y = b + i;
    for (let f = 0; f < features; f++, x += bytes, y += bytes) {
      sum = madd(v128.load(x), v128.load(y), sum);
    }
    v128.store(out + i, sum);
  }
}

/** u c - v s of four float32, made in float64. */
// @ts-ignore: decorator
@inline
function rotated(u: v128, c: v128, v: v128, s: v128): v128 {
  const low = f64x2.sub(
    f64x2.mul(f64x2.promote_low_f32x4(u), f64x2.promote_low_f32x4(c)),
    f64x2.mul(f64x2.promote_low_f32x4(v), f64x2.promote_low_f32x4(s)),
  );
  const high = f64x2.sub(
    f64x2.mul(promoteHigh(u), promoteHigh(c)),
    f64x2.mul(promoteHigh(v), promoteHigh(s)),
  );
  return v128.shuffle<f32>(f32x4.demote_f64x2_zero(low), f32x4.demote_f64x2_zero(high), 0, 1, 4, 5);
}

/**
 * Rotary positions of x (rows, d), in place: with [a | b] its first `width` columns, [a cos - b sin | b cos + a sin],
 * and the transpose of that with `back`. cos and sin (rows, width), width even and at most d.
 */
export function rotate(
  rows: i32,
  d: i32,
  width: i32,
  cos: usize,
  sin: usize,
  x: usize,
  back: bool,
): void {
  const half = width >> 1;
  const whole = half & ~3;
  for (let i = 0; i < rows; i++) {
    const a = at(x, i * d);
    const b = at(a, half);
    const c = at(cos, i * width);
    const s = at(sin, i * width);
    for (let e = 0; e < whole; e += 4) {
      const u = v128.load(at(a, e));
      const v = v128.load(at(b, e));
      let su = v128.load(at(s, half + e));
      let sv = v128.load(at(s, e));
      if (back) {
        const swap = su;
        su = f32x4.neg(sv);
        sv = f32x4.neg(swap);
      }
      v128.store(at(a, e), rotated(u, v128.load(at(c, e)), v, sv));
      v128.store(at(b, e), rotated(v, v128.load(at(c, half + e)), u, f32x4.neg(su)));
    }
    for (let e = whole; e < half; e++) {
      const u = <f64>load<f32>(at(a, e));
      const v = <f64>load<f32>(at(b, e));
      const su = <f64>(back ? -load<f32>(at(s, e)) : load<f32>(at(s, half + e)));
      const sv = <f64>(back ? -load<f32>(at(s, half + e)) : load<f32>(at(s, e)));
      store<f32>(at(a, e), <f32>(u * <f64>load<f32>(at(c, e)) - v * sv));
      store<f32>(at(b, e), <f32>(v * <f64>load<f32>(at(c, half + e)) + u * su));
    }
  }
}
