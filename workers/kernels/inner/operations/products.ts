/** Products of matrices, and operands made ready for them. */
import { f32, flag, operation, read, type Sizes, size, update, write } from './operation.js';
import { pitched, sizes, strided } from './trial-sizes.js';

/** Columns of a panel of a packed operand. */
export const PANEL = 16;

/** Floats that a (k, n) operand takes when packed into panels. */
export function packedFloats(k: number, n: number): number {
  return k * PANEL * Math.ceil(n / PANEL);
}

const VECTORS = sizes({ n: [20], k: [50], m: [9] });

/** @param type of x; all others are float64 */
const manyDots = (type: 'f32' | 'f64') =>
  operation(
    [
      ...([size('n'), size('k'), size('m'), read(type, 'x', ({ n, k }) => n * k)] as const),
      read('f64', 'y', ({ m, k }) => m * k),
      write('f64', 'out', ({ m, n }) => m * n),
    ],
    VECTORS,
  );

const manySums = (type: 'f32' | 'f64') =>
  operation(
    [
      ...([size('n'), size('k'), size('m'), read('f64', 'w', ({ m, n }) => m * n)] as const),
      read(type, 'x', ({ n, k }) => n * k),
      update('f64', 'out', ({ m, k }) => m * k),
    ],
    VECTORS,
  );

const product = (left: (s: Sizes) => number, strides: (s: Sizes) => Sizes) =>
  operation(
    [
      ...([size('m'), size('n'), size('k'), read('f32', 'a', left), size('lda')] as const),
      read('f32', 'b', ({ k, n }) => packedFloats(k, n)),
      update('f32', 'c', ({ m, n, ldc }) => pitched(m, n, ldc)),
      ...([size('ldc'), flag('accumulate')] as const),
    ],
    strided({ m: [40], n: [70], k: [300] }, strides),
  );

export const PRODUCTS = {
  /** b (k, n) -> panels for gemm: packedFloats(k, n) of them */
  pack: operation(
    [
      ...([size('k'), size('n')] as const),
      read('f32', 'b', ({ k, n, ldb }) => pitched(k, n, ldb)),
      size('ldb'),
      write('f32', 'packed', ({ k, n }) => packedFloats(k, n)),
    ],
    strided({ k: [40], n: [50] }, ({ n }) => ({ ldb: n })),
  ),
  /** scale bt (n, k) -> panels of its transpose */
  pack_transposed: operation(
    [
      ...([size('n'), size('k')] as const),
      read('f32', 'bt', ({ k, n, ld }) => pitched(n, k, ld)),
      ...([size('ld'), f32('scale')] as const),
      write('f32', 'packed', ({ k, n }) => packedFloats(k, n)),
    ],
    strided({ k: [40], n: [50] }, ({ k }) => ({ ld: k })),
  ),
  /** c (m, n) = [c +] a (m, k) b, b packed */
  gemm: product(
    ({ m, k, lda }) => pitched(m, k, lda),
    ({ k, n }) => ({ lda: k, ldc: n }),
  ),
  /** c (m, n) = [c +] a^T b, a (k, m), b packed */
  gemm_tn: product(
    ({ m, k, lda }) => pitched(k, m, lda),
    ({ m, n }) => ({ lda: m, ldc: n }),
  ),
  /** In float64: out (m, n) = y x^T for x (n, k), y (m, k) */
  dots64: manyDots('f64'),
  dots32: manyDots('f32'),
  /** In float64: out (m, k) += w x for x (n, k), w (m, n) */
  combine64: manySums('f64'),
  combine32: manySums('f32'),
};
