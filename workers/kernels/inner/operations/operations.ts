/**
 * The operations of the inner loops, declared once. Each is a function of assembly/ (WebAssembly) and one of
 * native/src (C) under the same name, with the arguments in this order: addresses in bytes, leading dimensions
 * in elements.
 */

import {
  type Callable,
  type Draw,
  f32,
  f64,
  flag,
  operation,
  read,
  type Sizes,
  size,
  update,
  write,
} from './operation.js';
import { PASSES } from './passes.js';
import { PROXIES } from './proxies.js';

/** Columns of a panel of a packed operand. */
export const PANEL = 16;

/** Floats that a (k, n) operand takes when packed into panels. */
export function packedFloats(k: number, n: number): number {
  return k * PANEL * Math.ceil(n / PANEL);
}

/** Names of sizes, each drawn from [1, most] in steps of `step`. */
const sizes =
  (limits: Readonly<Record<string, readonly [most: number, step?: number]>>) =>
  (draw: Draw): Sizes =>
    Object.fromEntries(
      Object.entries(limits).map(([name, [most, step = 1]]) => [
        name,
        step * draw.integer(1, Math.ceil(most / step)),
      ]),
    );

/** The same and then leading dimensions: at least as many elements as a row has, by name of both. */
const strided =
  (
    limits: Readonly<Record<string, readonly [most: number, step?: number]>>,
    strides: (of: Sizes) => Sizes,
  ) =>
  (draw: Draw): Sizes => {
    const drawn = sizes(limits)(draw);
    const rows = Object.entries(strides(drawn));
    return {
      ...drawn,
      ...Object.fromEntries(rows.map(([name, least]) => [name, least + draw.integer(0, 5)])),
    };
  };

/** Elements of a matrix whose rows are `pitch` apart. */
const pitched = (rows: number, columns: number, pitch: number) => (rows - 1) * pitch + columns;

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

const n4 = sizes({ n: [90, 4] });
const matrix = sizes({ rows: [20], n: [70] });
const ofN = ({ n }: Sizes) => n;
const ofRows = ({ rows }: Sizes) => rows;
const rowsByN = ({ rows, n }: Sizes) => rows * n;
const rowsByColumns = ({ rows, columns }: Sizes) => rows * columns;
const featuresByRows = ({ features, rows }: Sizes) => features * rows;

/** Rows of a table in a trial, of which some are listed. */
const TABLE_ROWS = 5;
const listed = read('i32', 'index', ofRows, (draw) => draw.integer(0, TABLE_ROWS - 1));
const tableByN = ({ n }: Sizes) => TABLE_ROWS * n!;
/** Coordinates of a row in a trial. */
const COORDINATES = 4;

export const OPERATIONS = {
  /** x = e^x for -87 <= x <= 88, clamped to that range; n a multiple of 4 */
  exp: operation([update('f32', 'x', ofN, (draw) => draw.uniform(-80, 80)), size('n')], n4, {
    elementwise: true,
  }),
  /** Largest Euclidean norm of the rows of x (rows, n) */
  largest_norm: operation([size('rows'), size('n'), read('f32', 'x', rowsByN)], matrix, {
    returns: true,
  }),
  /** y = x y, elementwise; n a multiple of 4 */
  multiply: operation([size('n'), read('f32', 'x', ofN), update('f32', 'y', ofN)], n4),
  /** Row i of y = row index[i] of x (.., n) */
  gather_rows: operation(
    [size('rows'), size('n'), listed, read('f32', 'x', tableByN), write('f32', 'y', rowsByN)],
    matrix,
  ),
  /** Row index[i] of y (.., n) += row i of x */
  scatter_rows: operation(
    [size('rows'), size('n'), listed, read('f32', 'x', rowsByN), update('f32', 'y', tableByN)],
    matrix,
  ),
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
  ...PASSES,
  ...PROXIES,
  /**
   * A step of a running softmax over s (rows, columns): top = max(max, row of s), factor = e^(max - top),
   * s = e^(s - top), total = factor total + sum of s, max = top
   */
  running_softmax: operation(
    [
      ...([size('rows'), size('columns')] as const),
      update('f32', 's', rowsByColumns, (draw) => draw.uniform(-20, 20)),
      update('f32', 'max', ofRows, (draw) =>
        draw.integer(0, 3) ? draw.uniform(-5, 5) : Number.NEGATIVE_INFINITY,
      ),
      update('f32', 'total', ofRows, (draw) => draw.uniform(1, 3)),
      write('f32', 'factor', ofRows),
    ],
    sizes({ rows: [9], columns: [50] }),
  ),
  /** p = scale_i p, t = p (t - shift_i) for p, t (rows, columns) */
  score_gradient: operation(
    [
      ...([size('rows'), size('columns')] as const),
      update('f32', 'p', rowsByColumns),
      update('f32', 't', rowsByColumns),
      read('f32', 'scale', ofRows),
      read('f32', 'shift', ofRows),
    ],
    sizes({ rows: [9], columns: [50] }),
  ),
  /** c[i, x p + y] = a[i, x] b[i, y] for a (rows, n), b (rows, p); rows of c are ldc apart */
  outer: operation(
    [
      ...([size('rows'), size('n'), size('p'), read('f32', 'a', rowsByN)] as const),
      read('f32', 'b', ({ rows, p }) => rows * p),
      update('f32', 'c', ({ rows, n, p, ldc }) => pitched(rows, n * p, ldc)),
      size('ldc'),
    ],
    strided({ rows: [9], n: [12], p: [20] }, ({ n, p }) => ({ ldc: n * p })),
  ),
  /** c[i, y] += sum_x a[i, x] t[i, x p + y] for a (rows, n), c (rows, p); rows of t are ldt apart */
  contract: operation(
    [
      ...([size('rows'), size('n'), size('p'), read('f32', 'a', rowsByN)] as const),
      read('f32', 't', ({ rows, n, p, ldt }) => pitched(rows, n * p, ldt)),
      size('ldt'),
      update('f32', 'c', ({ rows, p }) => rows * p),
    ],
    strided({ rows: [9], n: [12], p: [20] }, ({ n, p }) => ({ ldt: n * p })),
  ),
  /** c[i, k, y] -= c[i, k, p] x[i, y] for c (rows, groups, p + 1), x (rows, p) */
  take_centres: operation(
    [
      ...([size('rows'), size('groups'), size('p')] as const),
      read('f32', 'x', ({ rows, p }) => rows * p),
      update('f32', 'c', ({ rows, groups, p }) => rows * groups * (p + 1)),
    ],
    sizes({ rows: [9], groups: [6], p: [20] }),
  ),
  /**
   * out[i, k p + y] = sum of phi[f, i] t[i, f p + y] over the n / groups features f of group k; rows of phi are
   * ldphi apart
   */
  group_sums: operation(
    [
      ...([size('rows'), size('n'), size('p'), size('groups')] as const),
      read('f32', 'phi', ({ rows, n, ldphi }) => pitched(n, rows, ldphi)),
      size('ldphi'),
      read('f32', 't', ({ rows, n, p }) => rows * n * p),
      write('f32', 'out', ({ rows, groups, p }) => rows * groups * p),
    ],
    (draw) => {
      const { groups, ...drawn } = strided({ rows: [9], p: [20], groups: [4] }, ({ rows }) => ({
        ldphi: rows,
      }))(draw);
      return { ...drawn, groups, n: groups * draw.integer(1, 9) };
    },
  ),
  /** out (rows, columns) = the sum, in float64, of `parts` matrices that lie `stride` apart; their rows are ldx apart */
  sum_parts: operation(
    [
      ...([size('parts'), size('rows'), size('columns')] as const),
      read(
        'f32',
        'x',
        ({ parts, rows, columns, ldx, stride }) =>
          (parts - 1) * stride + pitched(rows, columns, ldx),
      ),
      ...([size('stride'), size('ldx'), write('f32', 'out', rowsByColumns)] as const),
    ],
    strided({ parts: [5], rows: [9], columns: [20] }, ({ rows, columns }) => ({
      ldx: columns,
      stride: rows * columns,
    })),
  ),
  /** sums (float64) += block, block = 0; n a multiple of 4 */
  fold: operation([size('n'), update('f32', 'block', ofN), update('f64', 'sums', ofN)], n4),
  /** b (columns, rows) = transpose of a (rows, columns) */
  transpose: operation(
    [
      ...([size('rows'), size('columns')] as const),
      read('f32', 'a', rowsByColumns),
      write('f32', 'b', rowsByColumns),
    ],
    sizes({ rows: [40], columns: [40] }),
  ),
  /** phi[f] = phi[base[f]] table[slot[f]] for f >= 1: float64 rows of `rows` elements, a multiple of 2 */
  feature_products: operation(
    [
      ...([size('features'), size('rows')] as const),
      read(
        'i32',
        'base',
        ({ features }) => features,
        (draw, _, f) => draw.integer(0, Math.max(0, f - 1)),
      ),
      read(
        'i32',
        'slot',
        ({ features }) => features,
        (draw) => draw.integer(0, TABLE_ROWS - 1),
      ),
      read('f64', 'table', ({ rows }) => TABLE_ROWS * rows),
      update('f64', 'phi', featuresByRows),
    ],
    sizes({ features: [12], rows: [40, 2] }),
  ),
  /** out (float32) = phi (float64) times weight (float64), row by row of `rows` elements, a multiple of 4 */
  weigh_features: operation(
    [
      ...([size('features'), size('rows'), read('f64', 'phi', featuresByRows)] as const),
      read('f64', 'weight', ofRows),
      write('f32', 'out', featuresByRows),
    ],
    sizes({ features: [12], rows: [40, 4] }),
  ),
  /** out[f, i] = x[f, i] scale[i] for x, out (features, rows); out may be x; rows a multiple of 4 */
  scale_columns: operation(
    [
      ...([size('features'), size('rows'), read('f32', 'x', featuresByRows)] as const),
      read('f32', 'scale', ofRows),
      write('f32', 'out', featuresByRows),
    ],
    sizes({ features: [12], rows: [60, 4] }),
  ),
  /** out[i] = sum_f a[f, i] b[f, i] for a, b (features, rows); rows a multiple of 4 */
  column_dots: operation(
    [
      ...([size('features'), size('rows'), read('f32', 'a', featuresByRows)] as const),
      read('f32', 'b', featuresByRows),
      write('f32', 'out', ofRows),
    ],
    sizes({ features: [12], rows: [60, 4] }),
  ),
  /**
   * Rotary positions of x (rows, d), in place: with [a | b] its first `width` columns, [a cos - b sin | b cos + a sin],
   * and the transpose of that with `back`; cos and sin (rows, width), width even and at most d
   */
  rotate: operation(
    [
      ...([size('rows'), size('d'), size('width')] as const),
      read('f32', 'cos', ({ rows, width }) => rows * width),
      read('f32', 'sin', ({ rows, width }) => rows * width),
      update('f32', 'x', ({ rows, d }) => rows * d),
      flag('back'),
    ],
    (draw) => {
      const { rows, width, rest } = sizes({ rows: [9], width: [60, 2], rest: [9] })(draw);
      return { rows, width, d: width + rest - 1 } as Sizes;
    },
  ),
  /** out[i] (float64) = sum_a (linear[a] + quadratic[a] x[i, a]) x[i, a], in float64, for float32 x (rows, n) */
  forms: operation(
    [
      ...([
        size('rows'),
        size('n'),
        read('f32', 'x', rowsByN),
        read('f64', 'linear', ofN),
      ] as const),
      read('f64', 'quadratic', ofN),
      write('f64', 'out', ofRows),
    ],
    matrix,
  ),
  /** out[i] = a_i . b_i for a, b (rows, n) */
  row_dots: operation(
    [
      ...([size('rows'), size('n')] as const),
      // Of one sign: of a single sum that cancels few digits are left in any build.
      ...(['a', 'b'] as const).map((name) =>
        read('f32', name, rowsByN, (draw) => draw.uniform(0, 1)),
      ),
      write('f32', 'out', ofRows),
    ],
    matrix,
  ),
  /** x[i, :] *= scale[i] for x (rows, n) */
  scale_rows: operation(
    [size('rows'), size('n'), update('f32', 'x', rowsByN), read('f32', 'scale', ofRows)],
    matrix,
  ),
  /** y[i, :] += row for y (rows, n) */
  add_row: operation(
    [size('rows'), size('n'), read('f32', 'row', ofN), update('f32', 'y', rowsByN)],
    matrix,
  ),
  /** y = alpha x + beta y; for beta = 0 whatever y was */
  combine: operation(
    [
      ...([size('n'), f32('alpha'), read('f32', 'x', ofN), f32('beta')] as const),
      update('f32', 'y', ofN),
    ],
    (draw) => ({ n: draw.integer(1, 70), ...(draw.flag() ? { beta: 0 } : {}) }),
  ),
  /** y[i, x] = x[i, x] for `columns` columns; rows are ldx and ldy apart */
  copy_columns: operation(
    [
      ...([size('rows'), size('columns')] as const),
      read('f32', 'x', ({ rows, columns, ldx }) => pitched(rows, columns, ldx)),
      size('ldx'),
      update('f32', 'y', ({ rows, columns, ldy }) => pitched(rows, columns, ldy)),
      size('ldy'),
    ],
    strided({ rows: [9], columns: [70] }, ({ columns }) => ({ ldx: columns, ldy: columns })),
  ),
  /** Largest |x[i]| */
  largest: operation([size('n'), read('f32', 'x', ofN)], sizes({ n: [90] }), { returns: true }),
  /**
   * other[j] = scale low[j] + exactly[j] e[j]; out = (sum_j w_j other[j], sum_j w_j other[j] t[j]). low, e and t
   * are float32, the others float64
   */
  joined_row: operation(
    [
      ...([size('n'), f64('scale'), read('f32', 'low', ofN)] as const),
      ...([read('f64', 'exactly', ofN), read('f32', 'e', ofN)] as const),
      ...([read('f64', 'weight', ofN), read('f32', 't', ofN)] as const),
      ...([write('f64', 'other', ofN), write('f64', 'out', () => 2)] as const),
    ],
    sizes({ n: [70] }),
  ),
  /**
   * With p = e inverse, off = p - other otherInverse and ds = off (t - mean) + p shift, the squares u_j ds^2 and
   * v_j off^2: out = their sums over j with weights w_j; times forScore and forValue they are added to the
   * columns. e and t are float32, the others float64
   */
  row_errors: operation(
    [
      ...([size('n'), f64('inverse'), f64('otherInverse'), f64('mean'), f64('shift')] as const),
      ...([f64('forScore'), f64('forValue'), read('f32', 'e', ofN)] as const),
      ...([read('f32', 't', ofN), read('f64', 'other', ofN)] as const),
      ...([read('f64', 'weight', ofN), read('f64', 'u', ofN), read('f64', 'v', ofN)] as const),
      update('f64', 'scoreColumns', ofN),
      update('f64', 'valueColumns', ofN),
      write('f64', 'out', () => 2),
    ],
    sizes({ n: [70] }),
  ),
  /** out[i] = sum_f phi[f, i]^2 over float64 phi (features, rows), rows a multiple of 2 */
  square_sums: operation(
    [
      ...([size('features'), size('rows'), read('f64', 'phi', featuresByRows)] as const),
      write('f64', 'out', ofRows),
    ],
    sizes({ features: [12], rows: [40, 2] }),
  ),
  /**
   * The one-dimensional values that features are made of: row s + 1 of table (.., rows; float64) is
   * up_s x_a row one_s - down_s row two_s for s < slots, and row 0 is 1. `index` holds (a, one, two) of each
   * slot, `factor` (up, down); x (d, rows) is float32 and transposed
   */
  feature_table: operation(
    [
      ...([size('slots'), size('rows')] as const),
      read(
        'i32',
        'index',
        ({ slots }) => 3 * slots,
        (draw, _, i) => draw.integer(0, i % 3 ? Math.floor(i / 3) : COORDINATES - 1),
      ),
      read('f64', 'factor', ({ slots }) => 2 * slots),
      read('f32', 'x', ({ rows }) => COORDINATES * rows),
      write('f64', 'table', ({ slots, rows }) => (slots + 1) * rows),
    ],
    sizes({ slots: [9], rows: [40, 2] }),
  ),
};

export type OperationName = keyof typeof OPERATIONS;

export type Operations = {
  readonly [N in OperationName]: Callable<(typeof OPERATIONS)[N]>;
};
