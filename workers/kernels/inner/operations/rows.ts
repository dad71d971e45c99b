/** Operations on rows and on numbers one by one. */
import { f32, flag, operation, read, type Sizes, size, update, write } from './operation.js';
import {
  featuresByRows,
  matrix,
  n4,
  ofN,
  ofRows,
  pitched,
  rowsByColumns,
  rowsByN,
  sizes,
  strided,
  TABLE_ROWS,
} from './trial-sizes.js';

const listed = read('i32', 'index', ofRows, (draw) => draw.integer(0, TABLE_ROWS - 1));
const tableByN = ({ n }: Sizes) => TABLE_ROWS * n!;

export const ROWS_OF_NUMBERS = {
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
  /**
   * Rotary positions of x (rows, d), in place: with [a | b] its first `width` columns, [a cos - b sin | b cos + a sin],
   * and the transpose of that with `back`; sums in float64; cos and sin (rows, width), width even and at most d
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
  /** out[i] = a_i . b_i for a, b (rows, n) */
  row_dots: operation(
    [
      ...([size('rows'), size('n')] as const),
      // All of one sign: a single sum that cancels has few digits in any build.
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
  /** out[i] = sum_f phi[f, i]^2 over float64 phi (features, rows), rows a multiple of 2 */
  square_sums: operation(
    [
      ...([size('features'), size('rows'), read('f64', 'phi', featuresByRows)] as const),
      write('f64', 'out', ofRows),
    ],
    sizes({ features: [12], rows: [40, 2] }),
  ),
};
