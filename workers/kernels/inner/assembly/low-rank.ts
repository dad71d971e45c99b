/** Passes of the low-rank kernel over blocks of rows. Addresses in bytes, sizes in elements. */
import { madd } from './tile';

const LOG2E: f32 = 1.44269504;

/**
 * 2^x for x <= 0; exactly 0 below 2^-100. In a softmax row, whose largest term is 1, that is far below
 * one rounding. 2^x = 2^n 2^f with n the nearest integer; 2^f is the minimax polynomial of degree 6.
 */
// @ts-ignore: decorator
@inline
function exp2NonPositive(x: v128): v128 {
  const keep = f32x4.gt(x, f32x4.splat(-100));
  const clamped = f32x4.max(x, f32x4.splat(-101));
  const n = f32x4.nearest(clamped);
  const f = f32x4.sub(clamped, n);
  let p = f32x4.splat(1.53533620e-4);
  p = madd(p, f, f32x4.splat(1.33988750e-3));
  p = madd(p, f, f32x4.splat(9.61843692e-3));
  p = madd(p, f, f32x4.splat(5.55033237e-2));
  p = madd(p, f, f32x4.splat(2.40226477e-1));
  p = madd(p, f, f32x4.splat(6.93147182e-1));
  p = madd(p, f, f32x4.splat(1));
  return v128.and(i32x4.add(p, i32x4.shl(i32x4.trunc_sat_f32x4_s(n), 23)), keep);
}

// @ts-ignore: decorator
@inline
function at(base: usize, i: i32): usize {
  return base + (<usize>i << 2);
}

/**
 * One step of a running softmax over s (rows, columns): top = max(max, row of s),
 * factor = exp(max - top), s = exp(s - top), total = factor total + sum of s, max = top.
 */
export function running_softmax(
  rows: i32, columns: i32, s: usize, max: usize, total: usize, factor: usize,
): void {
  const whole = columns & ~3;
  for (let i = 0; i < rows; i++) {
    const row = at(s, i * columns);
    let m = f32x4.splat(load<f32>(at(max, i)));
    for (let j = 0; j < whole; j += 4) m = f32x4.max(m, v128.load(at(row, j)));
    for (let j = whole; j < columns; j++) m = f32x4.max(m, v128.load32_splat(at(row, j)));
    m = f32x4.max(m, v128.shuffle<f32>(m, m, 2, 3, 0, 1));
    m = f32x4.max(m, v128.shuffle<f32>(m, m, 1, 0, 3, 2));
    const log2e = f32x4.splat(LOG2E);
    const old = f32x4.sub(v128.load32_splat(at(max, i)), m);
    const f = f32x4.extract_lane(exp2NonPositive(f32x4.mul(old, log2e)), 0);
    let sum = f32x4.splat(0);
    for (let j = 0; j < whole; j += 4) {
      const e = exp2NonPositive(f32x4.mul(f32x4.sub(v128.load(at(row, j)), m), log2e));
      v128.store(at(row, j), e);
      sum = f32x4.add(sum, e);
    }
    let rest: f32 = 0;
    for (let j = whole; j < columns; j++) {
      const x = f32x4.sub(v128.load32_splat(at(row, j)), m);
      const e = f32x4.extract_lane(exp2NonPositive(f32x4.mul(x, log2e)), 0);
      store<f32>(at(row, j), e);
      rest += e;
    }
    rest += f32x4.extract_lane(sum, 0) + f32x4.extract_lane(sum, 1);
    rest += f32x4.extract_lane(sum, 2) + f32x4.extract_lane(sum, 3);
    store<f32>(at(factor, i), f);
    store<f32>(at(total, i), f * load<f32>(at(total, i)) + rest);
    store<f32>(at(max, i), f32x4.extract_lane(m, 0));
  }
}

/** p = scale_i p, t = p (t - shift_i) for p, t (rows, columns). */
export function score_gradient(
  rows: i32, columns: i32, p: usize, t: usize, scale: usize, shift: usize,
): void {
  const whole = columns & ~3;
  for (let i = 0; i < rows; i++) {
    const a = load<f32>(at(scale, i));
    const b = load<f32>(at(shift, i));
    const scales = f32x4.splat(a);
    const shifts = f32x4.splat(b);
    const first = i * columns;
    for (let j = first; j < first + whole; j += 4) {
      const x = f32x4.mul(v128.load(at(p, j)), scales);
      v128.store(at(p, j), x);
      v128.store(at(t, j), f32x4.mul(x, f32x4.sub(v128.load(at(t, j)), shifts)));
    }
    for (let j = first + whole; j < first + columns; j++) {
      const x = a * load<f32>(at(p, j));
      store<f32>(at(p, j), x);
      store<f32>(at(t, j), x * (load<f32>(at(t, j)) - b));
    }
  }
}

/** c[i, x p + y] = a[i, x] b[i, y] for a (rows, n), b (rows, p); rows of c are ldc apart. */
export function outer(rows: i32, n: i32, p: i32, a: usize, b: usize, c: usize, ldc: i32): void {
  for (let i = 0; i < rows; i++) {
    const from = at(b, i * p);
    let to = at(c, i * ldc);
    for (let x = 0; x < n; x++) {
      const value = load<f32>(at(a, i * n + x));
      const values = f32x4.splat(value);
      let y = 0;
      for (; y + 4 <= p; y += 4) v128.store(at(to, y), f32x4.mul(values, v128.load(at(from, y))));
      for (; y < p; y++) store<f32>(at(to, y), value * load<f32>(at(from, y)));
      to += <usize>p << 2;
    }
  }
}

/** c[i, y] += sum_x a[i, x] t[i, x p + y] for a (rows, n), c (rows, p); rows of t are ldt apart. */
export function contract(rows: i32, n: i32, p: i32, a: usize, t: usize, ldt: i32, c: usize): void {
  for (let i = 0; i < rows; i++) {
    const row = at(t, i * ldt);
    const to = at(c, i * p);
    let y = 0;
    for (; y + 4 <= p; y += 4) {
      let sum = v128.load(at(to, y));
      let from = at(row, y);
      for (let x = 0; x < n; x++, from += <usize>p << 2) {
        sum = madd(v128.load32_splat(at(a, i * n + x)), v128.load(from), sum);
      }
      v128.store(at(to, y), sum);
    }
    for (; y < p; y++) {
      let sum = load<f32>(at(to, y));
      let from = at(row, y);
      for (let x = 0; x < n; x++, from += <usize>p << 2) {
        sum += load<f32>(at(a, i * n + x)) * load<f32>(from);
      }
      store<f32>(at(to, y), sum);
    }
  }
}

/**
 * out[i, k p + y] = sum of phi[f, i] t[i, f p + y] over the n / groups features f of group k; rows of phi
 * are ldphi apart.
 */
export function group_sums(
  rows: i32, n: i32, p: i32, groups: i32, phi: usize, ldphi: i32, t: usize, out: usize,
): void {
  const size = n / groups;
  const down = <usize>ldphi << 2;
  const step = <usize>p << 2;
  for (let i = 0; i < rows; i++) {
    for (let k = 0; k < groups; k++) {
      const first = at(phi, k * size * ldphi + i);
      const block = at(t, (i * n + k * size) * p);
      const to = at(out, (i * groups + k) * p);
      let y = 0;
      for (; y + 4 <= p; y += 4) {
        let sum = f32x4.splat(0);
        let factor = first;
        let from = at(block, y);
        for (let f = 0; f < size; f++, factor += down, from += step) {
          sum = madd(v128.load32_splat(factor), v128.load(from), sum);
        }
        v128.store(at(to, y), sum);
      }
      for (; y < p; y++) {
        let sum: f32 = 0;
        let factor = first;
        let from = at(block, y);
        for (let f = 0; f < size; f++, factor += down, from += step) {
          sum += load<f32>(factor) * load<f32>(from);
        }
        store<f32>(at(to, y), sum);
      }
    }
  }
}

/** c[i, k, y] -= c[i, k, p] x[i, y] for c (rows, groups, p + 1), x (rows, p). */
export function take_centres(rows: i32, groups: i32, p: i32, x: usize, c: usize): void {
  for (let i = 0; i < rows; i++, x += <usize>p << 2) {
    for (let k = 0; k < groups; k++, c += <usize>(p + 1) << 2) {
      const factor = load<f32>(at(c, p));
      const factors = f32x4.splat(factor);
      let y = 0;
      for (; y + 4 <= p; y += 4) {
        const product = f32x4.mul(factors, v128.load(at(x, y)));
        v128.store(at(c, y), f32x4.sub(v128.load(at(c, y)), product));
      }
      for (; y < p; y++) store<f32>(at(c, y), load<f32>(at(c, y)) - factor * load<f32>(at(x, y)));
    }
  }
}

/** sums (float64) += block, block = 0. n a multiple of 4. */
export function fold(n: i32, block: usize, sums: usize): void {
  for (let i = 0; i < n; i += 4) {
    const x = v128.load(at(block, i));
    const to = sums + (<usize>i << 3);
    v128.store(to, f64x2.add(v128.load(to), f64x2.promote_low_f32x4(x)));
    const high = v128.shuffle<f32>(x, x, 2, 3, 2, 3);
    v128.store(to, f64x2.add(v128.load(to, 16), f64x2.promote_low_f32x4(high)), 16);
    v128.store(at(block, i), f32x4.splat(0));
  }
}

/** b (columns, rows) = transpose of a (rows, columns), in squares of 4 by 4. */
export function transpose(rows: i32, columns: i32, a: usize, b: usize): void {
  const whole = columns & ~3;
  const step = <usize>columns << 2;
  const down = <usize>rows << 2;
  let i = 0;
  for (; i + 4 <= rows; i += 4) {
    let from = at(a, i * columns);
    let to = at(b, i);
    for (let j = 0; j < whole; j += 4, from += 16) {
      const r0 = v128.load(from);
      const r1 = v128.load(from + step);
      const r2 = v128.load(from + 2 * step);
      const r3 = v128.load(from + 3 * step);
      const low01 = v128.shuffle<f32>(r0, r1, 0, 4, 1, 5);
      const low23 = v128.shuffle<f32>(r2, r3, 0, 4, 1, 5);
      const high01 = v128.shuffle<f32>(r0, r1, 2, 6, 3, 7);
      const high23 = v128.shuffle<f32>(r2, r3, 2, 6, 3, 7);
      v128.store(to, v128.shuffle<f32>(low01, low23, 0, 1, 4, 5));
      to += down;
      v128.store(to, v128.shuffle<f32>(low01, low23, 2, 3, 6, 7));
      to += down;
      v128.store(to, v128.shuffle<f32>(high01, high23, 0, 1, 4, 5));
      to += down;
      v128.store(to, v128.shuffle<f32>(high01, high23, 2, 3, 6, 7));
      to += down;
    }
    for (let j = whole; j < columns; j++, to += down) {
      for (let r = 0; r < 4; r++) store<f32>(at(to, r), load<f32>(at(a, (i + r) * columns + j)));
    }
  }
  for (; i < rows; i++) {
    let to = at(b, i);
    for (let j = 0; j < columns; j++, to += down) store<f32>(to, load<f32>(at(a, i * columns + j)));
  }
}

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

/** out[i] = a_i . b_i for a, b (rows, n). */
export function row_dots(rows: i32, n: i32, a: usize, b: usize, out: usize): void {
  const whole = n & ~3;
  for (let i = 0; i < rows; i++, a += <usize>n << 2, b += <usize>n << 2) {
    let sum = f32x4.splat(0);
    for (let x = 0; x < whole; x += 4) {
      sum = madd(v128.load(at(a, x)), v128.load(at(b, x)), sum);
    }
    let total = f32x4.extract_lane(sum, 0) + f32x4.extract_lane(sum, 1);
    total += f32x4.extract_lane(sum, 2) + f32x4.extract_lane(sum, 3);
    for (let x = whole; x < n; x++) total += load<f32>(at(a, x)) * load<f32>(at(b, x));
    store<f32>(at(out, i), total);
  }
}

/** x[i, :] *= scale[i] for x (rows, n). */
export function scale_rows(rows: i32, n: i32, x: usize, scale: usize): void {
  const whole = n & ~3;
  for (let i = 0; i < rows; i++, x += <usize>n << 2) {
    const value = load<f32>(at(scale, i));
    const values = f32x4.splat(value);
    for (let a = 0; a < whole; a += 4) {
      v128.store(at(x, a), f32x4.mul(values, v128.load(at(x, a))));
    }
    for (let a = whole; a < n; a++) store<f32>(at(x, a), value * load<f32>(at(x, a)));
  }
}

/** y[i, :] += row for y (rows, n). */
export function add_row(rows: i32, n: i32, row: usize, y: usize): void {
  const whole = n & ~3;
  for (let i = 0; i < rows; i++, y += <usize>n << 2) {
    for (let a = 0; a < whole; a += 4) {
      v128.store(at(y, a), f32x4.add(v128.load(at(row, a)), v128.load(at(y, a))));
    }
    for (let a = whole; a < n; a++) store<f32>(at(y, a), load<f32>(at(row, a)) + load<f32>(at(y, a)));
  }
}

/** y = alpha x + beta y; for beta = 0 whatever y was. */
export function combine(n: i32, alpha: f32, x: usize, beta: f32, y: usize): void {
  const whole = n & ~3;
  const a = f32x4.splat(alpha);
  if (beta == 0) {
    for (let i = 0; i < whole; i += 4) v128.store(at(y, i), f32x4.mul(a, v128.load(at(x, i))));
    for (let i = whole; i < n; i++) store<f32>(at(y, i), alpha * load<f32>(at(x, i)));
    return;
  }
  const b = f32x4.splat(beta);
  for (let i = 0; i < whole; i += 4) {
    const sum = f32x4.add(f32x4.mul(a, v128.load(at(x, i))), f32x4.mul(b, v128.load(at(y, i))));
    v128.store(at(y, i), sum);
  }
  for (let i = whole; i < n; i++) {
    store<f32>(at(y, i), alpha * load<f32>(at(x, i)) + beta * load<f32>(at(y, i)));
  }
}

/** y[i, x] = x[i, x] for `columns` columns; rows are ldx and ldy apart. */
export function copy_columns(rows: i32, columns: i32, x: usize, ldx: i32, y: usize, ldy: i32): void {
  const bytes = <usize>columns << 2;
  if (columns >= 32) {
    for (let i = 0; i < rows; i++) memory.copy(at(y, i * ldy), at(x, i * ldx), bytes);
    return;
  }
  const whole = columns & ~3;
  for (let i = 0; i < rows; i++) {
    const from = at(x, i * ldx);
    const to = at(y, i * ldy);
    for (let a = 0; a < whole; a += 4) v128.store(at(to, a), v128.load(at(from, a)));
    for (let a = whole; a < columns; a++) store<f32>(at(to, a), load<f32>(at(from, a)));
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
