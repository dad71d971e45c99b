/**
 * The proxies of the sampled kernel: logits of a block of rows with many keys in a few coordinates, and their
 * powers of two. Keys lie in panels of 16, a vector of which meets four rows at once. Then the draw of keys by what they
 * are worth, and what each adds to the gradients.
 */

/**
 * Coordinates are whole numbers of 8 bits, four in a word: at level 0 of a panel 16 steps to one, so that 256 steps of
 * their products are one power of two, and half as many at each level above.
 */
const STEPS: f32 = 16;
const LARGEST_BYTE: f32 = 127;
const LEVELS: i32 = 7;
const STEPS_OF_LOGIT: f32 = 256;
const LARGEST_CONSTANT: f32 = 33554432;
/** Two of them make 3 log2(e): the largest variance of what the coordinates leave out. */
const LARGEST_REST: f32 = 2.08;

/**
 * 2^x by the bits of a float: the exponent is x, and the mantissa a straight line between powers, at most 3 % off on
 * either side (N. N. Schraudolph 1999). The weights of a draw need no more. In steps of a logit: the exponent of 1, and
 * how much the line lies above the power on average.
 */
const ONE: i32 = 127 << 8;
const ABOVE: i32 = 12;
const LARGEST_SUM: i32 = ONE + (100 << 8);

/** Rows of a block and of a panel, words of bytes of a row; in bytes. */
const BLOCK: usize = 64 << 2;
const PANEL: usize = 16 << 2;
const MOST_WORDS: usize = 17;

/** The rows of a block: the even and the odd bytes as pairs of 16 bits (word, row), their constants and their levels. */
const EVEN: usize = memory.data(<i32>(BLOCK * MOST_WORDS), 16);
const ODD: usize = memory.data(<i32>(BLOCK * MOST_WORDS), 16);
const START: usize = memory.data(<i32>BLOCK, 16);
const LEVEL: usize = memory.data(<i32>BLOCK, 16);
/** The logits of four rows and four keys. */
const LOGITS: usize = memory.data(64, 16);

/** Words of a row that hold bytes: those of its coordinates and one of what they leave out. Its constant and its level follow. */
// @ts-ignore: decorator
@inline
function wordsOf(c: i32): usize {
  return <usize>((c + 4) / 4);
}

// @ts-ignore: decorator
@inline
function pair(lower: i32, upper: i32): i32 {
  return (lower & 0xffff) | (upper << 16);
}

/** @param halves how often what the coordinates leave out is halved. */
function layOut(rows: i32, c: i32, x: usize, halves: i32): void {
  const words = wordsOf(c);
  for (let i: usize = 0; i < <usize>rows; i++) {
    const row = x + (i >> 4) * PANEL * (words + 2) + ((i & 15) << 2);
    for (let k: usize = 0; k < words; k++) {
      const at = row + PANEL * k;
      let b0 = <i32>load<i8>(at), b1 = <i32>load<i8>(at, 1), b2 = <i32>load<i8>(at, 2), b3 = <i32>load<i8>(at, 3);
      if (k == <usize>(c / 4)) {
        if (c % 4 == 0) b0 >>= halves;
        else if (c % 4 == 1) b1 >>= halves;
        else if (c % 4 == 2) b2 >>= halves;
        else b3 >>= halves;
      }
      store<i32>(EVEN + k * BLOCK + (i << 2), pair(b0, b2));
      store<i32>(ODD + k * BLOCK + (i << 2), pair(b1, b3));
    }
    store<i32>(START + (i << 2), load<i32>(row + PANEL * words));
    store<i32>(LEVEL + (i << 2), load<i32>(row + PANEL * (words + 1)));
  }
}

/** LOGITS (row, key) of four rows of the block, from `row` on, and the four keys of a panel at z, without the constants of these. */
function logits(words: usize, z: usize, row: usize): void {
  const level = load<i32>(LEVEL + row) + load<i32>(z + PANEL * (words + 1));
  let s0 = i32x4.splat(load<i32>(START + row) >> level);
  let s1 = i32x4.splat(load<i32>(START + row, 4) >> level);
  let s2 = i32x4.splat(load<i32>(START + row, 8) >> level);
  let s3 = i32x4.splat(load<i32>(START + row, 12) >> level);
  for (let k: usize = 0, even = EVEN + row, odd = ODD + row; k < words; k++, even += BLOCK, odd += BLOCK) {
    const bytes = v128.load(z + PANEL * k);
    const y = i16x8.shr_s(i16x8.shl(bytes, 8), 8), w = i16x8.shr_s(bytes, 8);
    s0 = i32x4.add(s0, i32x4.add(i32x4.dot_i16x8_s(v128.load32_splat(even), y), i32x4.dot_i16x8_s(v128.load32_splat(odd), w)));
    s1 = i32x4.add(s1, i32x4.add(i32x4.dot_i16x8_s(v128.load32_splat(even, 4), y), i32x4.dot_i16x8_s(v128.load32_splat(odd, 4), w)));
    s2 = i32x4.add(s2, i32x4.add(i32x4.dot_i16x8_s(v128.load32_splat(even, 8), y), i32x4.dot_i16x8_s(v128.load32_splat(odd, 8), w)));
    s3 = i32x4.add(s3, i32x4.add(i32x4.dot_i16x8_s(v128.load32_splat(even, 12), y), i32x4.dot_i16x8_s(v128.load32_splat(odd, 12), w)));
  }
  v128.store(LOGITS, i32x4.shl(s0, level));
  v128.store(LOGITS, i32x4.shl(s1, level), 16);
  v128.store(LOGITS, i32x4.shl(s2, level), 32);
  v128.store(LOGITS, i32x4.shl(s3, level), 48);
}

/** The float with the exponent x, `largest` at most. */
// @ts-ignore: decorator
@inline
function power(x: v128, largest: i32, shift: i32): v128 {
  const held = i32x4.max_s(i32x4.min_s(x, i32x4.splat(largest)), i32x4.splat(0));
  return i32x4.shl(held, shift);
}

/** sums_i += sum_j 2^(s_ij + v_ij / 2) */
export function proxy_rows(rows: i32, first: i32, last: i32, step: i32, c: i32, x: usize, z: usize, sums: usize): void {
  const words = wordsOf(c);
  layOut(rows, c, x, 1);
  for (let row: usize = 0; row < <usize>rows << 2; row += 16) {
    for (let panel = first & ~15; panel < last; panel += 16 * step) {
      for (let key = panel; key < panel + 16; key += 4) {
        const at = z + (<usize>panel >> 4) * PANEL * (words + 2) + (<usize>(key & 15) << 2);
        const offset = i32x4.add(v128.load(at + PANEL * words), i32x4.splat(ONE - ABOVE));
        logits(words, at, row);
        for (let i: usize = 0; i < 16; i += 4) {
          const t = power(i32x4.add(v128.load(LOGITS + (i << 2)), offset), LARGEST_SUM, 15);
          let sum = load<f32>(sums + row + i);
          if (key >= first && key < last) sum += f32x4.extract_lane(t, 0);
          if (key + 1 >= first && key + 1 < last) sum += f32x4.extract_lane(t, 1);
          if (key + 2 >= first && key + 2 < last) sum += f32x4.extract_lane(t, 2);
          if (key + 3 >= first && key + 3 < last) sum += f32x4.extract_lane(t, 3);
          store<f32>(sums + row + i, sum);
        }
      }
    }
  }
}

/** weights_j = size sum_g 2^(2 min(cap_g, the largest s_ij + v_ij of the four rows of g)): powers of twice the exponent */
export function proxy_keys(
  rows: i32, keys: i32, c: i32, size: f32, x: usize, z: usize, caps: usize, weights: usize,
): void {
  const words = wordsOf(c);
  layOut(rows, c, x, 0);
  for (let key: usize = 0; key < <usize>keys << 2; key += 16) {
    const at = z + key / PANEL * PANEL * (words + 2) + key % PANEL;
    const offset = i32x4.add(v128.load(at + PANEL * words), i32x4.splat((ONE - ABOVE) / 2));
    let total = f32x4.splat(0);
    for (let row: usize = 0; row < <usize>rows << 2; row += 16) {
      logits(words, at, row);
      const most = i32x4.max_s(
        i32x4.max_s(v128.load(LOGITS), v128.load(LOGITS, 16)),
        i32x4.max_s(v128.load(LOGITS, 32), v128.load(LOGITS, 48)),
      );
      const cap = load<i32>(caps + (row >> 2)) + ONE / 2;
      total = f32x4.add(total, power(i32x4.add(most, offset), cap, 16));
    }
    v128.store(weights + key, f32x4.mul(f32x4.splat(size), total));
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

/** out, in panels of 16 rows (word, row): bytes of the first c columns of x (rows, d + 1) and of `rest` |the others|^2, the last one, the level */
export function proxy_coordinates(rows: i32, d: i32, c: i32, rest: f32, x: usize, out: usize): void {
  const words = wordsOf(c), wide = <usize>(d + 1) << 2, coordinates = <usize>c << 2;
  for (; rows > 0; rows -= 16, x += wide << 4, out += PANEL * (words + 2)) {
    const n = <usize>min(rows, 16);
    let largest: f32 = 0;
    for (let i: usize = 0; i < n; i++) {
      for (let k: usize = 0; k < coordinates; k += 4) largest = max(largest, abs(load<f32>(x + i * wide + k)));
    }
    let level = 0;
    let steps = STEPS;
    for (; level < LEVELS - 1 && steps * largest > LARGEST_BYTE; level++) steps /= 2;
    memory.fill(out, 0, PANEL * (words + 2));
    for (let i: usize = 0; i < n; i++) {
      const row = x + i * wide;
      for (let k: usize = 0; k < <usize>c; k++) {
        store<i8>(placeOf(out, i, k), stepsOf(load<f32>(row + (k << 2)), steps, LARGEST_BYTE));
      }
      const left = min(rest * squareOf(d - c, row + coordinates), LARGEST_REST);
      store<i8>(placeOf(out, i, <usize>c), stepsOf(left, steps, LARGEST_BYTE));
      store<i32>(out + PANEL * words + (i << 2), stepsOf(load<f32>(row + (<usize>d << 2)), STEPS_OF_LOGIT, LARGEST_CONSTANT));
    }
    for (let i: usize = 0; i < PANEL; i += 4) store<i32>(out + PANEL * (words + 1) + i, level);
  }
}

/** Where byte k of row i of a panel lies. */
// @ts-ignore: decorator
@inline
function placeOf(panel: usize, i: usize, k: usize): usize {
  return panel + (k >> 2) * PANEL + (i << 2) + (k & 3);
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
