/**
 * General products over row-major float32 matrices. Leading dimensions are in elements, addresses in
 * bytes. The right operand is packed first, into panels of 16 columns: element (k, j) of b (k, n) at
 * ((j / 16) * k' + k) * 16 + j % 16 where k' is its number of rows, padded with zeros. Packing is
 * O(k n) and makes every later read contiguous.
 * The left operand is read where it lies.
 */
import { product } from './tile';

/** Steps of k that one pass covers: 4 rows of a and a panel of b stay in the first-level cache. */
const K_BLOCK: i32 = 256;
/** A tile at the edge of c is made here and copied. */
const EDGE: usize = memory.data(6 * 16 * 4, 16);

/** b (k, n) -> panels. */
export function pack(k: i32, n: i32, b: usize, ldb: i32, dst: usize): void {
  for (let j = 0; j < n; j += 16) {
    const width = min(16, n - j);
    let src = b + (<usize>j << 2);
    for (let i = 0; i < k; i++, src += <usize>ldb << 2, dst += 64) {
      if (width == 16) {
        // A call of memory.copy takes longer than so few bytes.
        v128.store(dst, v128.load(src));
        v128.store(dst, v128.load(src, 16), 16);
        v128.store(dst, v128.load(src, 32), 32);
        v128.store(dst, v128.load(src, 48), 48);
      } else {
        for (let x = 0; x < 16; x++) {
          store<f32>(dst + (x << 2), x < width ? load<f32>(src + (x << 2)) : 0);
        }
      }
    }
  }
}

/** scale bt (n, k), the transpose of b -> panels of b. */
export function pack_transposed(n: i32, k: i32, bt: usize, ld: i32, scale: f32, dst: usize): void {
  const row = <usize>ld << 2;
  for (let j = 0; j < n; j += 16, dst += <usize>k << 6) {
    for (let x = 0; x < 16; x += 4) {
      const src = bt + <usize>(j + x) * row;
      const to = dst + (x << 2);
      let i = 0;
      if (j + x + 4 <= n) {
        for (; i + 4 <= k; i += 4) transpose4(src + (<usize>i << 2), row, scale, to + (<usize>i << 6));
      }
      for (; i < k; i++) {
        for (let y = 0; y < 4; y++) {
          const value = j + x + y < n ? scale * load<f32>(src + y * row + (<usize>i << 2)) : 0;
          store<f32>(to + (<usize>i << 6) + (y << 2), value);
        }
      }
    }
  }
}

/** Four by four: rows `row` bytes apart, times scale, into columns of a panel. */
// @ts-ignore: decorator
@inline
function transpose4(src: usize, row: usize, scale: f32, to: usize): void {
  const factor = f32x4.splat(scale);
  const r0 = f32x4.mul(factor, v128.load(src));
  const r1 = f32x4.mul(factor, v128.load(src + row));
  const r2 = f32x4.mul(factor, v128.load(src + 2 * row));
  const r3 = f32x4.mul(factor, v128.load(src + 3 * row));
  const low01 = v128.shuffle<f32>(r0, r1, 0, 4, 1, 5), high01 = v128.shuffle<f32>(r0, r1, 2, 6, 3, 7);
  const low23 = v128.shuffle<f32>(r2, r3, 0, 4, 1, 5), high23 = v128.shuffle<f32>(r2, r3, 2, 6, 3, 7);
  v128.store(to, v128.shuffle<f32>(low01, low23, 0, 1, 4, 5));
  v128.store(to, v128.shuffle<f32>(low01, low23, 2, 3, 6, 7), 64);
  v128.store(to, v128.shuffle<f32>(high01, high23, 0, 1, 4, 5), 128);
  v128.store(to, v128.shuffle<f32>(high01, high23, 2, 3, 6, 7), 192);
}

/** c (m, n) = [c +] a b: a (m, k) row-major, b packed. */
export function gemm(
  m: i32, n: i32, k: i32, a: usize, lda: i32, b: usize, c: usize, ldc: i32, accumulate: bool,
): void {
  panels(m, n, k, a, <usize>lda << 2, 4, b, c, <usize>ldc << 2, accumulate);
}

/** c (m, n) = [c +] a^T b: a (k, m) row-major, b packed. */
export function gemm_tn(
  m: i32, n: i32, k: i32, a: usize, lda: i32, b: usize, c: usize, ldc: i32, accumulate: bool,
): void {
  panels(m, n, k, a, 4, <usize>lda << 2, b, c, <usize>ldc << 2, accumulate);
}

function panels(
  m: i32, n: i32, k: i32,
  a: usize, aRow: usize, aStep: usize,
  b: usize,
  c: usize, cRow: usize,
  accumulate: bool,
): void {
  let more = accumulate;
  for (let k0 = 0; k0 < k; k0 += K_BLOCK) {
    const depth = min(K_BLOCK, k - k0);
    const from = a + <usize>k0 * aStep;
    for (let j = 0; j < n; j += 16) {
      const cols = min(16, n - j);
      const panel = b + ((<usize>(j >> 4) * k + k0) << 6);
      const to = c + (<usize>j << 2);
      if (cols & 7) edge(m, cols, depth, from, aRow, aStep, panel, to, cRow, more);
      else product(m, cols, depth, from, aRow, aStep, panel, 64, to, cRow, more);
    }
    more = true;
  }
}

/** Columns that are no whole vectors: made in a tile aside and copied. */
function edge(
  m: i32, cols: i32, k: i32,
  a: usize, aRow: usize, aStep: usize,
  panel: usize,
  c: usize, cRow: usize,
  accumulate: bool,
): void {
  for (let i = 0; i < m; i += 6) {
    const rows = min(6, m - i);
    const from = a + <usize>i * aRow;
    product(rows, (cols + 7) & ~7, k, from, aRow, aStep, panel, 64, EDGE, 64, false);
    for (let r = 0; r < rows; r++) {
      for (let x = 0; x < cols; x++) {
        const to = c + <usize>(i + r) * cRow + (<usize>x << 2);
        const value = load<f32>(EDGE + (r << 6) + (x << 2));
        store<f32>(to, accumulate ? load<f32>(to) + value : value);
      }
    }
  }
}
