/** Passes of the low-rank kernel over blocks of rows. Addresses in bytes, sizes in elements. */
import { at } from './rows';
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

// @ts-ignore: decorator
@inline
function f32At(x: usize, i: i32): f64 {
  return <f64>load<f32>(x + (<usize>i << 2));
}

// @ts-ignore: decorator
@inline
function f64At(x: usize, i: i32): f64 {
  return load<f64>(x + (<usize>i << 3));
}

/**
 * other[j] = scale low[j] + exactly[j] e[j]; out = (sum_j w_j other[j], sum_j w_j other[j] t[j]).
 * low, e and t are float32, the others float64.
 */
export function joined_row(
  n: i32, scale: f64, low: usize, exactly: usize, e: usize, weight: usize, t: usize, other: usize,
  out: usize,
): void {
  let total: f64 = 0;
  let dot: f64 = 0;
  for (let j = 0; j < n; j++) {
    const x = scale * f32At(low, j) + f64At(exactly, j) * f32At(e, j);
    store<f64>(other + (<usize>j << 3), x);
    const weighted = f64At(weight, j) * x;
    total += weighted;
    dot += weighted * f32At(t, j);
  }
  store<f64>(out, total);
  store<f64>(out, dot, 8);
}

/**
 * With p = e inverse, off = p - other otherInverse and ds = off (t - mean) + p shift, the squares
 * u_j ds^2 and v_j off^2: out = their sums over j with weights w_j, and times forScore and forValue they
 * are added to the columns. e and t are float32, the others float64.
 */
export function row_errors(
  n: i32, inverse: f64, otherInverse: f64, mean: f64, shift: f64, forScore: f64, forValue: f64,
  e: usize, t: usize, other: usize, weight: usize, u: usize, v: usize,
  scoreColumns: usize, valueColumns: usize, out: usize,
): void {
  let score: f64 = 0;
  let value: f64 = 0;
  for (let j = 0; j < n; j++) {
    const p = inverse * f32At(e, j);
    const off = p - otherInverse * f64At(other, j);
    const ds = off * (f32At(t, j) - mean) + p * shift;
    const scoreSquare = f64At(u, j) * ds * ds;
    const valueSquare = f64At(v, j) * off * off;
    const w = f64At(weight, j);
    score += w * scoreSquare;
    value += w * valueSquare;
    const at = <usize>j << 3;
    store<f64>(scoreColumns + at, load<f64>(scoreColumns + at) + forScore * scoreSquare);
    store<f64>(valueColumns + at, load<f64>(valueColumns + at) + forValue * valueSquare);
  }
  store<f64>(out, score);
  store<f64>(out, value, 8);
}
