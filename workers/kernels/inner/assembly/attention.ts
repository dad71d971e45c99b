/**
 * One block of query rows of an attention head: softmax and its backward, with the thin products that
 * LoRA needs, never forming more than this block's rows of P.
 *
 * The L keys are cut into tiles of 48, which the first-level cache holds twice. A tile is stored
 * (48 keys, 64 rows), keys outermost, so that whatever belongs to a row (maximum, sum, G.O) is a vector
 * beside the tile and no pass needs a horizontal sum. The passes over the tiles are `scores`, where
 * row maxima are needed, then `weights` and `values`, then `gradients`; the caller splits each into
 * ranges [t0, t1) so that it can stop in between.
 *
 * Masks are ranges of rows, one for each key. A pair that no mask shows has E = 0 and dS = 0, and a tile
 * without any pair costs no product.
 *
 * Everything is float32 and row-major, but for Q and G of the block, which lie in panels of 16 rows
 * as `pack_transposed` makes them.
 */
import { madd, product, promoteHigh } from './tile';
import { addBias, boundedExponentials, exponentials, softcap } from './softmax';

/** Query rows of a block, and keys of a tile. The caller's layouts rely on both. */
export const ROWS: i32 = 64;
export const KEYS: i32 = 48;

const ROW: usize = 256; // bytes from one key of a tile to the next
const TILE: usize = 48 * 256; // bytes of a tile
const FETCHED: usize = memory.data(16, 16);

/** Filled in by the caller, as 32-bit integers in this order: ../block.ts describes them. */
@unmanaged
export class Block {
  rows: i32;
  firstRow: i32;
  keys: i32;
  bounded: i32;
  origin: i32;
  d: i32;
  dv: i32;
  q: usize;
  g: usize;
  k: usize;
  v: usize;
  bias: usize;
  from: usize;
  to: usize;
  cap: usize;
  e: usize;
  t: usize;
  slope: usize;
  max: usize;
  sum: usize;
  dot: usize;
  mean: usize;
  o: usize;
  ps: i32;
  pv: i32;
  us: usize;
  uv: usize;
  ws: usize;
  wv: usize;
  rs: usize;
  rv: usize;
  ls: usize;
  lv: usize;
}

/** Keys of tile t, rounded up to 8: the padding of K and V is zeros. */
// @ts-ignore: decorator
@inline
function width(b: Block, t: i32): i32 {
  return min(KEYS, (b.keys - t * KEYS + 7) & ~7);
}

/** tile (keys, ROWS) = a r^T: a (keys, k) row-major from tile t on, r (rows, k) in panels of 16. */
function outer(b: Block, t: i32, k: i32, a: usize, r: usize, tile: usize): void {
  const pitch = <usize>k << 2;
  const from = a + (t - b.origin) * KEYS * pitch;
  const cols = width(b, t);
  fetch(from, cols * pitch);
  for (let i = 0; i < b.rows; i += 16) {
    product(cols, 16, k, from, pitch, 4, r + i * pitch, 64, tile + (i << 2), ROW, false);
  }
}

/**
 * Reads every cache line in order, which the processor's prefetcher follows: the tiles of a product begin in
 * six rows at once, and where K and V lie in the third-level cache would wait for each line (a tenth of
 * the time at 16,384 keys). What is read is stored, or it would not be.
 */
function fetch(at: usize, bytes: usize): void {
  let x = f32x4.splat(0);
  for (const end = at + bytes; at < end; at += 64) x = v128.or(x, v128.load(at));
  v128.store(FETCHED, x);
}

/** First row of the block that sees key j of tile t, and the row after the last one: 0 and `rows` where all do. */
// @ts-ignore: decorator
@inline
function firstSeer(b: Block, t: i32, j: i32): i32 {
  return b.from ? max(0, load<i32>(b.from + (((t - b.origin) * KEYS + j) << 2)) - b.firstRow) : 0;
}
// @ts-ignore: decorator
@inline
function lastSeer(b: Block, t: i32, j: i32): i32 {
  return b.to ? min(b.rows, load<i32>(b.to + (((t - b.origin) * KEYS + j) << 2)) - b.firstRow) : b.rows;
}

/** Whether no row of the block sees a key of the tile. */
function hidden(b: Block, t: i32): bool {
  if (!b.from && !b.to) return false;
  const keys = min(KEYS, b.keys - t * KEYS);
  for (let j = 0; j < keys; j++) {
    if (firstSeer(b, t, j) < lastSeer(b, t, j)) return false;
  }
  return true;
}

/** `value` where a key is padding of the tile, or a row does not see it. */
function mask(b: Block, t: i32, tile: usize, value: f32): void {
  const cols = width(b, t);
  const keys = min(KEYS, b.keys - t * KEYS);
  for (let j = keys; j < cols; j++) fill(tile + j * ROW, b.rows, value);
  if (!b.from && !b.to) return;
  for (let j = 0; j < keys; j++) {
    const at = tile + j * ROW;
    const first = firstSeer(b, t, j);
    const last = max(0, lastSeer(b, t, j));
    fill(at, min(first, b.rows), value);
    fill(at + (last << 2), b.rows - last, value);
  }
}

function fill(at: usize, n: i32, value: f32): void {
  for (let i = 0; i < n; i++) store<f32>(at + (i << 2), value);
}

/** S of a tile: beta log2(e) Q K^T, capped, plus the biases of the keys. */
// @ts-ignore: decorator
@inline
function logits(b: Block, t: i32, tile: usize): void {
  outer(b, t, b.d, b.k, b.q, tile);
  if (b.cap) softcap(width(b, t), b.rows, ROW, tile, load<f32>(b.cap), b.slope + (t - b.origin) * TILE);
  if (b.bias) addBias(width(b, t), b.rows, ROW, tile, b.bias + (((t - b.origin) * KEYS) << 2));
}

/** S on tiles [t0, t1), minus infinity where a row does not see a key; raises `max`. */
export function scores(b: Block, t0: i32, t1: i32): void {
  for (let t = t0; t < t1; t++) {
    if (hidden(b, t)) continue;
    const tile = b.e + (t - b.origin) * TILE;
    logits(b, t, tile);
    mask(b, t, tile, -Infinity);
    raise(b, t, tile);
  }
}

// @ts-ignore: decorator
@inline
function raise(b: Block, t: i32, tile: usize): void {
  const cols = width(b, t);
  for (let i = 0; i < b.rows; i += 16) {
    const at = b.max + (i << 2);
    let m0 = v128.load(at), m1 = v128.load(at, 16), m2 = v128.load(at, 32), m3 = v128.load(at, 48);
    for (let j = 0, s = tile + (i << 2); j < cols; j++, s += ROW) {
      m0 = f32x4.pmax(m0, v128.load(s));
      m1 = f32x4.pmax(m1, v128.load(s, 16));
      m2 = f32x4.pmax(m2, v128.load(s, 32));
      m3 = f32x4.pmax(m3, v128.load(s, 48));
    }
    v128.store(at, m0); v128.store(at, m1, 16); v128.store(at, m2, 32); v128.store(at, m3, 48);
  }
}

/** E = 2^(S - max), or S and 2^S where it is bounded, and its row sums; with `o`, O += E V. */
export function weights(b: Block, t0: i32, t1: i32): void {
  for (let t = t0; t < t1; t++) {
    const tile = b.e + (t - b.origin) * TILE;
    const cols = width(b, t);
    if (hidden(b, t)) {
      memory.fill(tile, 0, cols * ROW);
      if (b.g) memory.fill(b.t + (t - b.origin) * TILE, 0, cols * ROW);
      continue;
    }
    if (b.bounded) logits(b, t, tile);
    for (let i = 0; i < b.rows; i += 16) {
      const at = tile + (i << 2);
      if (b.bounded == 1) boundedExponentials(cols, ROW, at);
      else exponentials(cols, ROW, at, b.max + (i << 2));
    }
    if (b.bounded) mask(b, t, tile, 0);
    for (let i = 0; i < b.rows; i += 16) addWeights(cols, tile + (i << 2), b.sum + (i << 3));
    if (b.o) output(b, t, cols, tile);
    if (b.g) products(b, t, cols, tile);
  }
}

/** sum (16, f64) += the sums over `cols` keys of 16 rows of a tile. */
function addWeights(cols: i32, x: usize, sum: usize): void {
  let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0;
  for (let j = 0; j < cols; j++, x += ROW) {
    s0 = f32x4.add(s0, v128.load(x));
    s1 = f32x4.add(s1, v128.load(x, 16));
    s2 = f32x4.add(s2, v128.load(x, 32));
    s3 = f32x4.add(s3, v128.load(x, 48));
  }
  addTo(sum, s0); addTo(sum + 32, s1); addTo(sum + 64, s2); addTo(sum + 96, s3);
}

/** Four float32 added to four float64: sums of tiles keep their digits. */
// @ts-ignore: decorator
@inline
function addTo(at: usize, x: v128): void {
  v128.store(at, f64x2.add(v128.load(at), f64x2.promote_low_f32x4(x)));
  v128.store(at, f64x2.add(v128.load(at, 16), promoteHigh(x)), 16);
}

/** O^T (dv, ROWS) += V_tile^T E_tile. */
function output(b: Block, t: i32, cols: i32, tile: usize): void {
  const pitch = <usize>b.dv << 2;
  product(b.dv, b.rows, cols, b.v + (t - b.origin) * KEYS * pitch, 4, pitch, tile, ROW, b.o, ROW, true);
}

/** dP = G V^T, and the row sums of E dP, which are G.O times the sum of E. */
export function values(b: Block, t0: i32, t1: i32): void {
  for (let t = t0; t < t1; t++) {
    if (hidden(b, t)) memory.fill(b.t + (t - b.origin) * TILE, 0, width(b, t) * ROW);
    else products(b, t, width(b, t), b.e + (t - b.origin) * TILE);
  }
}

function products(b: Block, t: i32, cols: i32, tile: usize): void {
  const dp = b.t + (t - b.origin) * TILE;
  outer(b, t, b.dv, b.v, b.g, dp);
  for (let i = 0; i < b.rows; i += 16) {
    let s0 = f32x4.splat(0), s1 = s0, s2 = s0, s3 = s0;
    let x = dp + (i << 2);
    let e = tile + (i << 2);
    for (let j = 0; j < cols; j++, x += ROW, e += ROW) {
      s0 = madd(v128.load(x), v128.load(e), s0);
      s1 = madd(v128.load(x, 16), v128.load(e, 16), s1);
      s2 = madd(v128.load(x, 32), v128.load(e, 32), s2);
      s3 = madd(v128.load(x, 48), v128.load(e, 48), s3);
    }
    const at = b.dot + (i << 3);
    addTo(at, s0); addTo(at + 32, s1); addTo(at + 64, s2); addTo(at + 96, s3);
  }
}

/** dS = E (dP - G.O), times the slope of the cap, then all thin products: dS us, dS^T ws, E uv, E^T wv. */
export function gradients(b: Block, t0: i32, t1: i32): void {
  for (let t = t0; t < t1; t++) {
    if (hidden(b, t)) continue;
    const cols = width(b, t);
    const e = b.e + (t - b.origin) * TILE;
    if (b.ps) {
      const ds = b.t + (t - b.origin) * TILE;
      for (let i = 0; i < b.rows; i += 16) {
        const at = b.mean + (i << 2);
        const m0 = v128.load(at), m1 = v128.load(at, 16), m2 = v128.load(at, 32), m3 = v128.load(at, 48);
        let x = ds + (i << 2);
        let y = e + (i << 2);
        for (let j = 0; j < cols; j++, x += ROW, y += ROW) {
          v128.store(x, f32x4.mul(v128.load(y), f32x4.sub(v128.load(x), m0)));
          v128.store(x, f32x4.mul(v128.load(y, 16), f32x4.sub(v128.load(x, 16), m1)), 16);
          v128.store(x, f32x4.mul(v128.load(y, 32), f32x4.sub(v128.load(x, 32), m2)), 32);
          v128.store(x, f32x4.mul(v128.load(y, 48), f32x4.sub(v128.load(x, 48), m3)), 48);
        }
      }
      if (b.slope) multiplyTile(cols, b.rows, b.slope + (t - b.origin) * TILE, ds);
      thin(b, t, cols, ds, b.ps, b.us, b.ws, b.rs, b.ls);
    }
    if (b.pv) thin(b, t, cols, e, b.pv, b.uv, b.wv, b.rv, b.lv);
  }
}

/** y = x y for two tiles. */
function multiplyTile(cols: i32, rows: i32, x: usize, y: usize): void {
  for (let j = 0; j < cols; j++, x += ROW, y += ROW) {
    for (let i = 0; i < rows << 2; i += 16) {
      v128.store(y + i, f32x4.mul(v128.load(x + i), v128.load(y + i)));
    }
  }
}

/** right (ROWS, p) += x^T u_tile and left_tile (keys, p) += x w, for a tile x (keys, ROWS). */
function thin(
  b: Block, t: i32, cols: i32, x: usize, p: i32, u: usize, w: usize, right: usize, left: usize,
): void {
  const pitch = <usize>p << 2;
  const first = (t - b.origin) * KEYS * pitch;
  if (u) product(b.rows, p, cols, x, 4, ROW, u + first, pitch, right, pitch, true);
  if (left) product(cols, p, b.rows, x, ROW, 4, w, pitch, left + first, pitch, true);
}
