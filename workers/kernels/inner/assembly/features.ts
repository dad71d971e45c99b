/** Features of the low-rank kernel, in float64, and forms of rows. Addresses in bytes, sizes in elements. */
import { at } from './rows';

/**
 * phi[f] = phi[base[f]] table[slot[f]] for f from 1 to features - 1: float64 rows of `rows` elements,
 * a multiple of 2; base and slot are int32.
 */
export function feature_products(
  features: i32, rows: i32, base: usize, slot: usize, table: usize, phi: usize,
): void {
  const bytes = <usize>rows << 3;
  for (let f = 1; f < features; f++) {
    const x = phi + <usize>load<i32>(at(base, f)) * bytes;
    const y = table + <usize>load<i32>(at(slot, f)) * bytes;
    const to = phi + <usize>f * bytes;
    for (let i: usize = 0; i < bytes; i += 16) {
      v128.store(to + i, f64x2.mul(v128.load(x + i), v128.load(y + i)));
    }
  }
}

/**
 * out[k, i] = product over directions a of 1 + the sum of signs[k, s] table[s, i] over its slots s, which end at
 * ends[a] (int32): float64 rows of `rows` elements, a multiple of 2; signs (functions, slots).
 */
export function signed_products(
  functions: i32, rows: i32, directions: i32, slots: i32, ends: usize, signs: usize, table: usize, out: usize,
): void {
  const bytes = <usize>rows << 3;
  const one = f64x2.splat(1);
  for (let k = 0; k < functions; k++, signs += <usize>slots << 3, out += bytes) {
    for (let i: usize = 0; i < bytes; i += 16) {
      let product = one;
      let s = 0;
      for (let a = 0; a < directions; a++) {
        const end = load<i32>(at(ends, a));
        let sum = one;
        for (; s < end; s++) {
          const sign = v128.load64_splat(signs + (<usize>s << 3));
          sum = f64x2.add(sum, f64x2.mul(sign, v128.load(table + <usize>s * bytes + i)));
        }
        product = f64x2.mul(product, sum);
      }
      v128.store(out + i, product);
    }
  }
}

/** out (float32) = phi (float64) times weight (float64), row by row of `rows` elements (multiple of 4). */
export function weigh_features(
  features: i32, rows: i32, phi: usize, weight: usize, out: usize,
): void {
  for (let f = 0; f < features; f++) {
    for (let i = 0; i < rows; i += 4) {
      const from = phi + (<usize>(f * rows + i) << 3);
      const by = weight + (<usize>i << 3);
      const low = f32x4.demote_f64x2_zero(f64x2.mul(v128.load(from), v128.load(by)));
      const high = f32x4.demote_f64x2_zero(f64x2.mul(v128.load(from, 16), v128.load(by, 16)));
      v128.store(at(out, f * rows + i), v128.shuffle<f32>(low, high, 0, 1, 4, 5));
    }
  }
}

/** out[i] (float64) = sum_a (linear[a] + quadratic[a] x[i, a]) x[i, a], in float64, for float32 x (rows, n). */
export function forms(
  rows: i32, n: i32, x: usize, linear: usize, quadratic: usize, out: usize,
): void {
  const whole = n & ~1;
  for (let i = 0; i < rows; i++, x += <usize>n << 2) {
    let sum = f64x2.splat(0);
    for (let a = 0; a < whole; a += 2) {
      const value = f64x2.promote_low_f32x4(v128.load64_zero(at(x, a)));
      const to = <usize>a << 3;
      const factor = f64x2.add(
        v128.load(linear + to),
        f64x2.mul(v128.load(quadratic + to), value),
      );
      sum = f64x2.add(sum, f64x2.mul(factor, value));
    }
    let total = f64x2.extract_lane(sum, 0) + f64x2.extract_lane(sum, 1);
    if (whole < n) {
      const value = <f64>load<f32>(at(x, whole));
      const to = <usize>whole << 3;
      total += (load<f64>(linear + to) + load<f64>(quadratic + to) * value) * value;
    }
    store<f64>(out + (<usize>i << 3), total);
  }
}

/**
 * The one-dimensional values that features are made of: row s + 1 of table (.., rows; float64) is
 * up_s x_a row one_s - down_s row two_s for s < slots, and row 0 is 1. `index` holds (a, one, two) of
 * each slot, `factor` (up, down); x (d, rows) is float32 and transposed.
 */
export function feature_table(
  slots: i32, rows: i32, index: usize, factor: usize, x: usize, table: usize,
): void {
  const bytes = <usize>rows << 3;
  for (let i: usize = 0; i < bytes; i += 16) v128.store(table + i, f64x2.splat(1));
  for (let s = 0; s < slots; s++) {
    let from = at(x, load<i32>(at(index, 3 * s)) * rows);
    const one = table + <usize>load<i32>(at(index, 3 * s + 1)) * bytes;
    const two = table + <usize>load<i32>(at(index, 3 * s + 2)) * bytes;
    const up = v128.load64_splat(factor + (<usize>s << 4));
    const down = v128.load64_splat(factor + (<usize>s << 4) + 8);
    const to = table + <usize>(s + 1) * bytes;
    for (let i: usize = 0; i < bytes; i += 16, from += 8) {
      const value = f64x2.mul(up, f64x2.promote_low_f32x4(v128.load64_zero(from)));
      const next = f64x2.sub(f64x2.mul(value, v128.load(one + i)), f64x2.mul(down, v128.load(two + i)));
      v128.store(to + i, next);
    }
  }
}

/** out[i] = sum_f phi[f, i]^2 over float64 phi (features, rows), rows a multiple of 2. */
export function square_sums(features: i32, rows: i32, phi: usize, out: usize): void {
  const bytes = <usize>rows << 3;
  for (let i: usize = 0; i < bytes; i += 16) v128.store(out + i, f64x2.splat(0));
  for (let f = 0; f < features; f++, phi += bytes) {
    for (let i: usize = 0; i < bytes; i += 16) {
      const x = v128.load(phi + i);
      v128.store(out + i, f64x2.add(v128.load(out + i), f64x2.mul(x, x)));
    }
  }
}
