/** Operations of the low-rank kernel: features, their sums, trials of a plan. */
import { f64, operation, read, size, update, write } from './operation.js';
import {
  featuresByRows,
  matrix,
  ofN,
  ofRows,
  pitched,
  rowsByColumns,
  rowsByN,
  sizes,
  strided,
  TABLE_ROWS,
} from './trial-sizes.js';

/** Coordinates of a row in a trial. */
const COORDINATES = 4;

export const LOW_RANK = {
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
  /**
   * out[k, i] = product over directions a of 1 + the sum of signs[k, s] table[s, i] over its slots s, which end at
   * ends[a]: float64 rows of `rows` elements, a multiple of 2; signs (functions, slots)
   */
  signed_products: operation(
    [
      ...([size('functions'), size('rows'), size('directions'), size('slots')] as const),
      read(
        'i32',
        'ends',
        ({ directions }) => directions,
        (draw, _, a) => draw.integer(2 * a, 2 * a + 2),
      ),
      read('f64', 'signs', ({ functions, slots }) => functions * slots),
      read('f64', 'table', ({ slots, rows }) => slots * rows),
      write('f64', 'out', ({ functions, rows }) => functions * rows),
    ],
    (draw) => {
      const drawn = sizes({ functions: [5], rows: [40, 2], directions: [4] })(draw);
      return { ...drawn, slots: 2 * drawn.directions };
    },
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
