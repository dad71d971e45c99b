/** Sums, moves and products of rows. Addresses in bytes, sizes in elements. */
import { madd, promoteHigh } from './tile';

/** Address of element i of float32 numbers. */
// @ts-ignore: decorator
@inline
export function at(base: usize, i: i32): usize {
  return base + (<usize>i << 2);
}

/** sums (float64) += block, block = 0. n a multiple of 4. */
export function fold(n: i32, block: usize, sums: usize): void {
  for (let i = 0; i < n; i += 4) {
    const x = v128.load(at(block, i));
    const to = sums + (<usize>i << 3);
    v128.store(to, f64x2.add(v128.load(to), f64x2.promote_low_f32x4(x)));
    v128.store(to, f64x2.add(v128.load(to, 16), promoteHigh(x)), 16);
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
