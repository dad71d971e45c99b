/**
 * Is what the compiler made of the loops right? Products of small integers are exact in float32 in
 * any order, so they are compared bit by bit with the same products in plain JavaScript; the
 * exponential is compared with the power in float64.
 */
import { BLOCK_BYTES, type Block, KEYS, ROWS, TILE_FLOATS, writeBlock } from './block.js';
import { packedFloats, type Wasm } from './instance.js';

/** V8 first runs quick code and optimises (and miscompiles) later: long enough to get there. */
const ROUNDS = 400;

export function computesCorrectly(wasm: Wasm): boolean {
  wasm.reset();
  const right = productsAreExact(wasm) && tilesAreExact(wasm);
  wasm.reset();
  return right;
}

/** Integers in [-8, 8], the same ones every time. */
function integers(n: number, seed: number): Float32Array {
  let state = seed;
  return Float32Array.from({ length: n }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return ((state >>> 16) % 17) - 8;
  });
}

function productsAreExact(wasm: Wasm): boolean {
  const [m, n, k] = [36, 40, 64];
  const a = integers(m * k, 1);
  const b = integers(k * n, 2);
  const expected = new Float32Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      for (let x = 0; x < k; x++) expected[i * n + j]! += a[i * k + x]! * b[x * n + j]!;
    }
  }
  const at = wasm.put(a);
  const bAt = wasm.put(b);
  const packed = wasm.allocFloats(packedFloats(k, n));
  const c = wasm.allocFloats(m * n);
  for (let round = 0; round < ROUNDS; round++) {
    wasm.fn.pack(k, n, bAt, n, packed);
    wasm.fn.gemm(m, n, k, at, k, packed, c, n, false);
    if (!equal(wasm.f32(c, m * n), expected)) return false;
  }
  return true;
}

/** One tile through every pass of the attention kernel, with integers in place of weights. */
function tilesAreExact(wasm: Wasm): boolean {
  const [d, p] = [32, 24];
  const q = integers(ROWS * d, 3);
  const k = integers(KEYS * d, 4);
  const e = integers(TILE_FLOATS, 5);
  const t = integers(TILE_FLOATS, 6);
  const u = integers(KEYS * p, 7);
  const w = integers(ROWS * p, 8);
  const mean = integers(ROWS, 9);
  const at = wasm.alloc(BLOCK_BYTES);
  const qPacked = wasm.allocFloats(packedFloats(d, ROWS));
  const qSmall = wasm.allocFloats(packedFloats(d, ROWS));
  const [eAt, tAt] = [wasm.allocFloats(TILE_FLOATS), wasm.allocFloats(TILE_FLOATS)];
  const [max, sum, dot] = [wasm.allocFloats(ROWS), wasm.alloc(8 * ROWS), wasm.alloc(8 * ROWS)];
  const [rs, ls] = [wasm.allocFloats(p * ROWS), wasm.allocFloats(p * KEYS)];
  const [kAt, us, ws] = [wasm.put(k), wasm.put(u), wasm.put(w)];
  wasm.fn.pack_transposed(ROWS, d, wasm.put(q), d, 1, qPacked);
  wasm.fn.pack_transposed(ROWS, d, wasm.put(q), d, 2 ** -8, qSmall);
  const block: Block = {
    ...{ rows: ROWS, firstRow: 0, keys: KEYS, bounded: 0, origin: 0 },
    ...{ bias: 0, from: 0, to: 0, cap: 0, slope: 0 },
    ...{ d, dv: d, q: qPacked, g: qPacked },
    ...{ k: kAt, v: kAt, e: eAt, t: tAt, max, sum, dot, mean: wasm.put(mean), o: 0 },
    ...{ ps: p, pv: 0, us, uv: us, ws, wv: ws, rs, rv: rs, ls, lv: ls },
  };

  const scores = new Float32Array(TILE_FLOATS);
  const ds = new Float32Array(TILE_FLOATS);
  const right = new Float32Array(p * ROWS);
  const left = new Float32Array(KEYS * p);
  for (let j = 0; j < KEYS; j++) {
    for (let i = 0; i < ROWS; i++) {
      const x = j * ROWS + i;
      for (let c = 0; c < d; c++) scores[x]! += k[j * d + c]! * q[i * d + c]!;
      ds[x] = e[x]! * (t[x]! - mean[i]!);
      for (let c = 0; c < p; c++) {
        right[i * p + c]! += ds[x]! * u[j * p + c]!;
        left[j * p + c]! += ds[x]! * w[i * p + c]!;
      }
    }
  }
  for (let round = 0; round < ROUNDS; round++) {
    writeBlock(wasm, at, block);
    wasm.f32(max, ROWS).fill(Number.NEGATIVE_INFINITY);
    wasm.fn.scores(at, 0, 1);
    wasm.fn.values(at, 0, 1);
    if (!equal(wasm.f32(eAt, TILE_FLOATS), scores)) return false;
    if (!equal(wasm.f32(tAt, TILE_FLOATS), scores)) return false;
    wasm.f32(eAt, TILE_FLOATS).set(e);
    wasm.f32(tAt, TILE_FLOATS).set(t);
    wasm.f32(rs, p * ROWS).fill(0);
    wasm.f32(ls, p * KEYS).fill(0);
    wasm.fn.gradients(at, 0, 1);
    if (!equal(wasm.f32(rs, p * ROWS), right)) return false;
    if (!equal(wasm.f32(ls, p * KEYS), left)) return false;
    // The exponential: scores of 0 down to -63 against a maximum of 0.
    wasm.f32(max, ROWS).fill(0);
    wasm.f32(eAt, TILE_FLOATS).set(Float32Array.from(e, (_, x) => -(x % 1009) / 16));
    wasm.fn.weights(at, 0, 1);
    if (!arePowers(wasm, eAt, (x) => -(x % 1009) / 16)) return false;
    // And without a maximum, from bounded scores.
    writeBlock(wasm, at, { ...block, bounded: 1, q: qSmall });
    wasm.fn.weights(at, 0, 1);
    if (!arePowers(wasm, eAt, (x) => scores[x]! * 2 ** -8)) return false;
  }
  return true;
}

function arePowers(wasm: Wasm, at: number, exponent: (x: number) => number): boolean {
  return wasm
    .f32(at, TILE_FLOATS)
    .every((power, x) => Math.abs(power * 2 ** -exponent(x) - 1) < 5e-7);
}

function equal(a: Float32Array, b: Float32Array): boolean {
  return a.every((x, i) => x === b[i]);
}
