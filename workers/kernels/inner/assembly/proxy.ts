/**
 * The proxies of the sampled kernel: logits of a block of rows with many keys in a few coordinates, and their
 * powers of two. Rows lie in panels of 16, four vectors of which meet a key at once. Then the draw of keys by what they
 * are worth, and what each adds to the gradients.
 */
import { madd } from './tile';

/**
 * Coordinates are whole numbers of 16 bits, two in a word: 64 steps to one, so that 4096 steps of their products are one
 * power of two.
 */
const STEPS: f32 = 64;
const LARGEST_COORDINATE: f32 = 32767;
const STEPS_OF_LOGIT: f32 = 4096;
/** Two of them fit a word. */
const LARGEST_CONSTANT: f32 = 536870912;
/** 3 log2(e): the largest variance of what the coordinates leave out. */
const LARGEST_VARIANCE: i32 = 17728;

/**
 * 2^x by the bits of a float: the exponent is x, and the mantissa a straight line between powers, at most 3 % off on
 * either side (N. N. Schraudolph 1999). The weights of a draw need no more. In steps of a logit: the exponent of 1, and
 * how much the line lies above the power on average.
 */
const ONE: i32 = 127 << 12;
const ABOVE: i32 = 176;
const LARGEST_SUM: i32 = ONE + (100 << 12);

/** The logits of one panel and one key. */
const LOGITS: usize = memory.data(64, 16);

/** Bytes of a row in c coordinates. */
// @ts-ignore: decorator
@inline
function bytesOf(c: i32): usize {
  return <usize>((c + 1) / 2 + 2) << 2;
}

/** The float with the exponent x, `largest` at most. */
// @ts-ignore: decorator
@inline
function power(x: v128, largest: i32, shift: i32): v128 {
  const held = i32x4.max_s(i32x4.min_s(x, i32x4.splat(largest)), i32x4.splat(0));
  return i32x4.shl(held, shift);
}

/** LOGITS = s + v / 2^halves + bias for the 16 rows of the panel x and the key z. */
function logits(width: usize, x: usize, z: usize, bias: i32, halves: i32): void {
  const row = x + ((width - 8) << 4), key = z + width - 8;
  let s0 = start(row, key, bias, halves), s1 = start(row + 16, key, bias, halves);
  let s2 = start(row + 32, key, bias, halves), s3 = start(row + 48, key, bias, halves);
  for (; x < row; x += 64, z += 4) {
    const y = v128.load32_splat(z);
    s0 = i32x4.add(s0, i32x4.dot_i16x8_s(v128.load(x), y));
    s1 = i32x4.add(s1, i32x4.dot_i16x8_s(v128.load(x, 16), y));
    s2 = i32x4.add(s2, i32x4.dot_i16x8_s(v128.load(x, 32), y));
    s3 = i32x4.add(s3, i32x4.dot_i16x8_s(v128.load(x, 48), y));
  }
  v128.store(LOGITS, s0);
  v128.store(LOGITS, s1, 16);
  v128.store(LOGITS, s2, 32);
  v128.store(LOGITS, s3, 48);
}

// @ts-ignore: decorator
@inline
function start(row: usize, key: usize, bias: i32, halves: i32): v128 {
  const product = i32x4.dot_i16x8_s(v128.load(row), v128.load32_splat(key));
  const variance = i32x4.shr_s(i32x4.min_s(product, i32x4.splat(LARGEST_VARIANCE)), halves);
  const constant = i32x4.add(v128.load(row, 64), i32x4.splat(load<i32>(key, 4) + bias));
  return i32x4.add(variance, constant);
}

/** sums_i += sum_j 2^(s_ij + v_ij / 2) */
export function proxy_rows(rows: i32, keys: i32, c: i32, x: usize, z: usize, sums: usize): void {
  const width = bytesOf(c);
  for (; rows > 0; rows -= 16, x += width << 4, sums += 64) {
    for (let j = 0, key = z; j < keys; j++, key += width) {
      logits(width, x, key, ONE - ABOVE, 1);
      for (let i: usize = 0; i < 64; i += 16) {
        const t = power(v128.load(LOGITS + i), LARGEST_SUM, 11);
        v128.store(sums + i, f32x4.add(v128.load(sums + i), t));
      }
    }
  }
}

/** weights_j = sum_i sizes_i min(1, 2^(2 (s_ij + v_ij))): powers of twice the exponent */
export function proxy_keys(
  rows: i32,
  keys: i32,
  c: i32,
  x: usize,
  z: usize,
  sizes: usize,
  weights: usize,
): void {
  const width = bytesOf(c);
  for (let j = 0; j < keys; j++, z += width, weights += 4) {
    let t = f32x4.splat(0);
    for (let i = 0, panel = x, size = sizes; i < rows; i += 16, panel += width << 4, size += 64) {
      logits(width, panel, z, (ONE - ABOVE) / 2, 0);
      for (let k: usize = 0; k < 64; k += 16) {
        t = madd(v128.load(size + k), power(v128.load(LOGITS + k), ONE / 2, 12), t);
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

/** The nearest whole number of steps, `largest` at most on either side. */
// @ts-ignore: decorator
@inline
function stepsOf(x: f32, steps: f32, largest: f32): i32 {
  const y = steps * x, above = y > -largest ? y : -largest;
  return <i32>nearest<f32>(above < largest ? above : largest);
}

/** Two coordinates in one word: lower and upper half. */
function pairOf(x: f32, y: f32): i32 {
  const lower = stepsOf(x, STEPS, LARGEST_COORDINATE) & 0xffff;
  return lower | (stepsOf(y, STEPS, LARGEST_COORDINATE) << 16);
}

/** out (rows, ceil(c / 2) + 2): pairs of the first c columns of x (rows, d + 1), (`rest` |the others|^2, 0), the last one */
export function proxy_coordinates(rows: i32, d: i32, c: i32, rest: f32, x: usize, out: usize): void {
  const narrow = <usize>c << 2, wide = <usize>d << 2;
  for (let i = 0; i < rows; i++, x += wide + 4, out += bytesOf(c)) {
    let to = out, from = x;
    for (let k = 0; k < c / 2; k++, to += 4, from += 8) {
      store<i32>(to, pairOf(load<f32>(from), load<f32>(from, 4)));
    }
    if (c & 1) {
      store<i32>(to, pairOf(load<f32>(from), 0));
      to += 4;
    }
    store<i32>(to, pairOf(rest * squareOf(d - c, x + narrow), 0));
    store<i32>(to, stepsOf(load<f32>(x + wide), STEPS_OF_LOGIT, LARGEST_CONSTANT), 4);
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
