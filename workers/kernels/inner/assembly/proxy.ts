/**
 * The proxies of the sampled kernel: logits of a block of rows with many keys in a few coordinates, and their
 * powers of two. Rows lie in panels of 16, four vectors of which meet a key at once. Then the draw of keys by what they
 * are worth, and what each adds to the gradients.
 */
import { madd } from './tile';

/** 3 log2(e): the largest variance of what the coordinates leave out. */
const LARGEST_VARIANCE: f32 = 4.328085;

/**
 * 2^x by the bits of a float: the exponent is x, and the mantissa a straight line between powers, at most 3 % off on
 * either side (N. N. Schraudolph 1999). The weights of a draw need no more. Of 1; that the line lies above the power on
 * average; of an exponent that is larger by 1.
 */
const ONE_BITS: f32 = 1065353216;
const OFF_BITS: f32 = 360710;
const EXPONENT: f32 = 8388608;

/** The logits of one panel and one key. */
const LOGITS: usize = memory.data(64, 16);

/** 2^(factor x), `largest` in bits at most. */
// @ts-ignore: decorator
@inline
function line(x: v128, factor: f32, largest: f32): v128 {
  const bits = madd(x, f32x4.splat(factor * EXPONENT), f32x4.splat(ONE_BITS - OFF_BITS));
  const held = f32x4.max(f32x4.min(bits, f32x4.splat(largest)), f32x4.splat(0));
  return i32x4.trunc_sat_f32x4_s(held);
}

/** LOGITS = s + share v for the 16 rows of the panel x and the key z. */
function logits(c: i32, x: usize, z: usize, share: f32): void {
  const row = x + (<usize>c << 6), key = z + (<usize>c << 2);
  let s0 = start(row, key, share), s1 = start(row + 16, key, share);
  let s2 = start(row + 32, key, share), s3 = start(row + 48, key, share);
  for (; x < row; x += 64, z += 4) {
    const y = v128.load32_splat(z);
    s0 = madd(v128.load(x), y, s0);
    s1 = madd(v128.load(x, 16), y, s1);
    s2 = madd(v128.load(x, 32), y, s2);
    s3 = madd(v128.load(x, 48), y, s3);
  }
  v128.store(LOGITS, s0);
  v128.store(LOGITS, s1, 16);
  v128.store(LOGITS, s2, 32);
  v128.store(LOGITS, s3, 48);
}

// @ts-ignore: decorator
@inline
function start(row: usize, key: usize, share: f32): v128 {
  const product = f32x4.mul(v128.load(row, 64), v128.load32_splat(key, 4));
  const variance = f32x4.min(product, f32x4.splat(LARGEST_VARIANCE));
  const constant = f32x4.add(v128.load(row), v128.load32_splat(key));
  return madd(variance, f32x4.splat(share), constant);
}

/** sums_i += sum_j 2^(s_ij + v_ij / 2) */
export function proxy_rows(rows: i32, keys: i32, c: i32, x: usize, z: usize, sums: usize): void {
  const width = <usize>(c + 2);
  for (; rows > 0; rows -= 16, x += width << 6, sums += 64) {
    for (let j = 0, key = z; j < keys; j++, key += width << 2) {
      logits(c, x, key, 0.5);
      for (let i: usize = 0; i < 64; i += 16) {
        const t = line(v128.load(LOGITS + i), 1, ONE_BITS + 100 * EXPONENT);
        v128.store(sums + i, f32x4.add(v128.load(sums + i), t));
      }
    }
  }
}

/** weights_j = sum_i sizes_i min(1, 2^(2 (s_ij + v_ij))) */
export function proxy_keys(
  rows: i32,
  keys: i32,
  c: i32,
  x: usize,
  z: usize,
  sizes: usize,
  weights: usize,
): void {
  const width = <usize>(c + 2);
  for (let j = 0; j < keys; j++, z += width << 2, weights += 4) {
    let t = f32x4.splat(0);
    for (let i = 0, panel = x, size = sizes; i < rows; i += 16, panel += width << 6, size += 64) {
      logits(c, panel, z, 1);
      for (let k: usize = 0; k < 64; k += 16) {
        t = madd(v128.load(size + k), line(v128.load(LOGITS + k), 2, ONE_BITS), t);
      }
    }
    t = f32x4.add(t, v128.shuffle<f32>(t, t, 2, 3, 0, 1));
    t = f32x4.add(t, v128.shuffle<f32>(t, t, 1, 0, 3, 2));
    store<f32>(weights, f32x4.extract_lane(t, 0));
  }
}

function squareOf(n: i32, x: usize): f32 {
  let s: f32 = 0;
  for (const end = x + (<usize>n << 2); x < end; x += 4) s += load<f32>(x) * load<f32>(x);
  return s;
}

/** out (rows, c + 2) = the first c columns of x (rows, d + 1), its last one, and `rest` times the squares of the others */
export function proxy_coordinates(rows: i32, d: i32, c: i32, rest: f32, x: usize, out: usize): void {
  const narrow = <usize>c << 2, wide = <usize>d << 2;
  for (let i = 0; i < rows; i++, x += wide + 4, out += narrow + 8) {
    memory.copy(out, x, narrow);
    store<f32>(out + narrow, load<f32>(x + wide));
    store<f32>(out + narrow, rest * squareOf(d - c, x + narrow), 4);
  }
}

/** worth_j = spread_j sqrt(squares_j), in float64; returns their sum */
export function key_worths(n: i32, squares: usize, spread: usize, worth: usize): f32 {
  let total: f64 = 0;
  for (let j = 0; j < n; j++, squares += 4, spread += 4, worth += 8) {
    const p = <f64>(load<f32>(spread) * sqrt<f32>(load<f32>(squares)));
    store<f64>(worth, p);
    total += p;
  }
  return <f32>total;
}

/** A systematic draw with probabilities min(1, max(least, scale (share worth + even))); how many there are. */
export function draw_keys(
  n: i32, room: i32, share: f64, even: f64, scale: f64, least: f64, u: f64, worth: usize, index: usize,
  probability: usize,
): f32 {
  let count = 0;
  for (let k = 0; k < n; k++, worth += 8) {
    const p = share * load<f64>(worth) + even;
    const pi = min<f64>(1, max<f64>(least, scale * p));
    u += pi;
    if (u < 1) continue;
    u -= 1;
    if (count < room) {
      store<i32>(index + (<usize>count << 2), k);
      store<f64>(probability + (<usize>count << 3), pi);
    }
    count++;
  }
  return <f32>count;
}

/** out_j = |a_j|^2 |x_j - m|^2, m the mean of the x_j by the weights |a_j|^2 */
export function key_squares(
  keys: i32, n: i32, a: usize, lda: i32, p: i32, x: usize, ldx: i32, mean: usize, out: usize,
): void {
  const left = <usize>lda << 2, right = <usize>ldx << 2, columns = <usize>p << 2;
  let largest: f32 = 0;
  for (let j: usize = 0; j < <usize>keys; j++) {
    const square = squareOf(n, a + j * left);
    store<f32>(out + (j << 2), square);
    if (square > largest) largest = square;
  }
  if (!(largest > 0)) return;
  let total: f64 = 0;
  memory.fill(mean, 0, columns);
  for (let j: usize = 0; j < <usize>keys; j++) {
    const weight = load<f32>(out + (j << 2)) / largest;
    total += weight;
    for (let c: usize = 0; c < columns; c += 4) {
      store<f32>(mean + c, load<f32>(mean + c) + weight * load<f32>(x + j * right + c));
    }
  }
  for (let c: usize = 0; c < columns; c += 4) {
    store<f32>(mean + c, <f32>(load<f32>(mean + c) / total));
  }
  for (let j: usize = 0; j < <usize>keys; j++) {
    let s: f32 = 0;
    for (let c: usize = 0; c < columns; c += 4) {
      const off = load<f32>(x + j * right + c) - load<f32>(mean + c);
      s += off * off;
    }
    store<f32>(out + (j << 2), load<f32>(out + (j << 2)) * s);
  }
}

/** Numbers of a size of keys, half octaves from 2^LEAST_OCTAVE on. */
const SUMS_OF_SIZE: i32 = 8;
const LEAST_OCTAVE: i32 = -100;
const SIZES: i32 = 280;

/** The half octave that p > 0 is in: by its exponent, and whether the rest is above sqrt(2). */
function sizeOf(p: f64): i32 {
  const bits = reinterpret<i64>(p);
  const above = <i32>((bits & 0xfffffffffffff) >= 0x6a09e667f3bcd);
  const size = 2 * (<i32>(bits >> 52) - 1023 - LEAST_OCTAVE) + above;
  return max(0, min(SIZES - 1, size));
}

/** Adds `each` times (1, p, a, b, c, a / p, b / p, c / p) of each key, p = share worth + even, to the sums of its size. */
export function add_keys(
  n: i32, each: f64, share: f64, even: f64, worth: usize, a: usize, b: usize, c: usize, sums: usize,
): void {
  for (let k = 0; k < n; k++, worth += 8, a += 4, b += 4, c += 4) {
    const p = share * load<f64>(worth) + even;
    if (!(p > 0)) continue;
    const to = sums + (<usize>(SUMS_OF_SIZE * sizeOf(p)) << 3);
    const over = each / p;
    const x = <f64>load<f32>(a), y = <f64>load<f32>(b), z = <f64>load<f32>(c);
    store<f64>(to, load<f64>(to) + each);
    store<f64>(to, load<f64>(to, 8) + each * p, 8);
    store<f64>(to, load<f64>(to, 16) + each * x, 16);
    store<f64>(to, load<f64>(to, 24) + each * y, 24);
    store<f64>(to, load<f64>(to, 32) + each * z, 32);
    store<f64>(to, load<f64>(to, 40) + over * x, 40);
    store<f64>(to, load<f64>(to, 48) + over * y, 48);
    store<f64>(to, load<f64>(to, 56) + over * z, 56);
  }
}
