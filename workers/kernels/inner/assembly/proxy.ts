/**
 * The proxies of the sampled kernel: logits of a block of rows with many keys in a few coordinates, and their
 * powers of two. Rows lie in panels of 16, four vectors of which meet a key at once.
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
