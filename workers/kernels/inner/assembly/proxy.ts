/**
 * The proxies of the sampled kernel: logits of a block of rows with many keys in a few coordinates, and their
 * powers of two. Rows lie in panels of 16, four vectors of which meet a key at once.
 */
import { powers } from './softmax';
import { madd } from './tile';

/** 3 log2(e): the largest variance of what the coordinates leave out. */
const LARGEST_VARIANCE: f32 = 4.328085;
const LARGEST_EXPONENT: f32 = 100;

/** The powers of one panel and one key. */
const TERMS: usize = memory.data(64, 16);

/** TERMS = 2^(factor s + share v) for the 16 rows of the panel x and the key z. */
function terms(c: i32, x: usize, z: usize, factor: f32, share: f32): void {
  const row = x + (<usize>c << 6), key = z + (<usize>c << 2);
  const b = v128.load32_splat(key);
  let s0 = f32x4.add(v128.load(row), b), s1 = f32x4.add(v128.load(row, 16), b);
  let s2 = f32x4.add(v128.load(row, 32), b), s3 = f32x4.add(v128.load(row, 48), b);
  for (; x < row; x += 64, z += 4) {
    const y = v128.load32_splat(z);
    s0 = madd(v128.load(x), y, s0);
    s1 = madd(v128.load(x, 16), y, s1);
    s2 = madd(v128.load(x, 32), y, s2);
    s3 = madd(v128.load(x, 48), y, s3);
  }
  powers(
    TERMS,
    exponent(s0, row + 64, key, factor, share),
    exponent(s1, row + 80, key, factor, share),
    exponent(s2, row + 96, key, factor, share),
    exponent(s3, row + 112, key, factor, share),
  );
}

// @ts-ignore: decorator
@inline
function exponent(s: v128, left: usize, key: usize, factor: f32, share: f32): v128 {
  const product = f32x4.mul(v128.load(left), v128.load32_splat(key, 4));
  const v = f32x4.min(product, f32x4.splat(LARGEST_VARIANCE));
  const x = madd(v, f32x4.splat(share), f32x4.mul(s, f32x4.splat(factor)));
  return f32x4.max(f32x4.min(x, f32x4.splat(LARGEST_EXPONENT)), f32x4.splat(-LARGEST_EXPONENT));
}

/** sums_i += sum_j 2^(s_ij + v_ij / 2) */
export function proxy_rows(rows: i32, keys: i32, c: i32, x: usize, z: usize, sums: usize): void {
  const width = <usize>(c + 2);
  for (; rows > 0; rows -= 16, x += width << 6, sums += 64) {
    let t0 = v128.load(sums), t1 = v128.load(sums, 16), t2 = v128.load(sums, 32), t3 = v128.load(sums, 48);
    for (let j = 0, key = z; j < keys; j++, key += width << 2) {
      terms(c, x, key, 1, 0.5);
      t0 = f32x4.add(t0, v128.load(TERMS));
      t1 = f32x4.add(t1, v128.load(TERMS, 16));
      t2 = f32x4.add(t2, v128.load(TERMS, 32));
      t3 = f32x4.add(t3, v128.load(TERMS, 48));
    }
    v128.store(sums, t0);
    v128.store(sums, t1, 16);
    v128.store(sums, t2, 32);
    v128.store(sums, t3, 48);
  }
}

/** weights_j = sum_i 2^(2 (s_ij + v_ij)) */
export function proxy_keys(rows: i32, keys: i32, c: i32, x: usize, z: usize, weights: usize): void {
  const width = <usize>(c + 2);
  for (let j = 0; j < keys; j++, z += width << 2, weights += 4) {
    let t = f32x4.splat(0);
    for (let i = 0, panel = x; i < rows; i += 16, panel += width << 6) {
      terms(c, panel, z, 2, 2);
      const low = f32x4.add(v128.load(TERMS), v128.load(TERMS, 16));
      t = f32x4.add(t, f32x4.add(low, f32x4.add(v128.load(TERMS, 32), v128.load(TERMS, 48))));
    }
    t = f32x4.add(t, v128.shuffle<f32>(t, t, 2, 3, 0, 1));
    t = f32x4.add(t, v128.shuffle<f32>(t, t, 1, 0, 3, 2));
    store<f32>(weights, f32x4.extract_lane(t, 0));
  }
}
