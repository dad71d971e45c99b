/**
 * What each operation computes, as the loops of its definition, in float64. Arrays are changed in place; what is
 * returned counts where the operation has a result.
 */
import { KEYS, ROWS, TILE_FLOATS } from '../../../workers/kernels/inner/block.js';
import type { Call } from '../../../workers/kernels/inner/call.js';
import type { OperationName } from '../../../workers/kernels/inner/operations/operations.js';
import type { StageName } from '../../../workers/kernels/inner/operations/stages.js';
import { attend } from './attend-loop.js';
import { each, type Loop, panelAt, sum } from './loop.js';
import { PROXY_LOOPS } from './proxy-loops.js';

type Arrays = Parameters<Loop>[1];
type Numbers = Parameters<Loop>[0];

function product(
  { m, n, k, ldc, accumulate }: Numbers,
  { b, c }: Arrays,
  a: (i: number, x: number) => number,
) {
  each(m!, n!, (i, j) => {
    const value = sum(k!, (x) => a(i, x) * b![panelAt(k!, x, j)]!);
    c![i * ldc! + j] = value + (accumulate ? c![i * ldc! + j]! : 0);
  });
}

/** Visits the entries of the tiles of a pass: key j and row i, and where they are in a tile. */
function entries(
  { t0, t1, keys, origin, rows }: Numbers,
  visit: (entry: { key: number; at: number; j: number; i: number }) => void,
) {
  for (let t = t0!; t < t1!; t++) {
    const first = t * KEYS;
    const width = Math.min(KEYS, 8 * Math.ceil((keys! - first) / 8));
    each(width, rows!, (j, i) => {
      const at = (t - origin!) * TILE_FLOATS + j * ROWS + i;
      visit({ key: first + j, at, j: first + j - origin! * KEYS, i });
    });
  }
}

/** Whether row i of the block does not see the key, which has index j of those with entries of their own. */
const hides = (s: Numbers, { from, to }: Arrays, key: number, j: number, i: number) => {
  const position = s.firstRow! + i;
  return (
    key >= s.keys! ||
    (from!.length > 0 && position < from![j]!) ||
    (to!.length > 0 && position >= to![j]!)
  );
};

/** Whether a tile has no pair of a row and a key that it sees: such tiles are passed over. */
const isHidden = (s: Numbers, arrays: Arrays, key: number) => {
  if (arrays.from!.length + arrays.to!.length === 0) return false;
  const first = key - (key % KEYS);
  for (let k = first; k < Math.min(first + KEYS, s.keys!); k++) {
    for (let i = 0; i < s.rows!; i++) {
      if (!hides(s, arrays, k, k - s.origin! * KEYS, i)) return false;
    }
  }
  return true;
};

/** S of a key and a row, with what the slope of the cap is there. */
function logit(s: Numbers, { q, k, bias, cap, slope }: Arrays, at: number, j: number, i: number) {
  const plain = dot(q!, i, k!, j, s.d!);
  const [c] = cap!;
  const capped = c ? c * Math.tanh(plain / c) : plain;
  if (c) slope![at] = 1 - Math.tanh(plain / c) ** 2;
  return capped + (bias!.length > 0 ? bias![j]! : 0);
}

/** r_i . a_j for r in panels of 16 rows. */
const dot = (r: Float64Array, i: number, a: Float64Array, j: number, width: number) =>
  sum(width, (x) => r[panelAt(width, x, i)]! * a[j * width + x]!);

/** Tiles that are passed over become zero, rows beyond those of the block too. */
function clearHidden(s: Numbers, arrays: Arrays, tiles: Float64Array) {
  entries({ ...s, rows: ROWS }, ({ key, at }) => {
    if (isHidden(s, arrays, key)) tiles[at] = 0;
  });
}

const values: Loop = (s, arrays) => {
  const { g, v, e, t, dot: dots } = arrays;
  clearHidden(s, arrays, t!);
  entries(s, ({ key, at, j, i }) => {
    if (!isHidden(s, arrays, key)) t![at] = dot(g!, i, v!, j, s.dv!);
    dots![i]! += e![at]! * t![at]!;
  });
};

const manyDots: Loop = ({ n, k, m }, { x, y, out }) =>
  each(m!, n!, (v, j) => (out![v * n! + j] = sum(k!, (c) => x![j * k! + c]! * y![v * k! + c]!)));

const manySums: Loop = ({ n, k, m }, { w, x, out }) =>
  each(m!, k!, (v, c) => (out![v * k! + c]! += sum(n!, (j) => w![v * n! + j]! * x![j * k! + c]!)));

export const LOOPS: Readonly<Record<OperationName | StageName, Loop>> = {
  attend,
  exp: (_, { x }) => x!.set(x!.map(Math.exp)),
  largest: (_, { x }) => x!.reduce((m, value) => Math.max(m, Math.abs(value)), 0),
  largest_norm: ({ rows, n }, { x }) =>
    Math.max(
      ...Array.from({ length: rows! }, (_, i) => Math.sqrt(sum(n!, (k) => x![i * n! + k]! ** 2))),
    ),
  sum_parts: ({ parts, rows, columns, stride, ldx }, { x, out }) =>
    each(rows!, columns!, (i, c) => {
      out![i * columns! + c] = sum(parts!, (p) => x![p * stride! + i * ldx! + c]!);
    }),
  multiply: ({ n }, { x, y }) => each(1, n!, (_, i) => (y![i]! *= x![i]!)),
  gather_rows: ({ rows, n }, { index, x, y }) =>
    each(rows!, n!, (i, c) => (y![i * n! + c] = x![index![i]! * n! + c]!)),
  scatter_rows: ({ rows, n }, { index, x, y }) =>
    each(rows!, n!, (i, c) => (y![index![i]! * n! + c]! += x![i * n! + c]!)),
  pack: ({ k, n, ldb }, { b, packed }) => {
    packed!.fill(0);
    each(k!, n!, (i, j) => (packed![panelAt(k!, i, j)] = b![i * ldb! + j]!));
  },
  pack_transposed: ({ k, n, ld, scale }, { bt, packed }) => {
    packed!.fill(0);
    each(k!, n!, (i, j) => (packed![panelAt(k!, i, j)] = scale! * bt![j * ld! + i]!));
  },
  gemm: (s, arrays) => product(s, arrays, (i, x) => arrays.a![i * s.lda! + x]!),
  gemm_tn: (s, arrays) => product(s, arrays, (i, x) => arrays.a![x * s.lda! + i]!),
  dots64: manyDots,
  dots32: manyDots,
  combine64: manySums,
  combine32: manySums,

  scores: (s, arrays) =>
    entries(s, ({ key, at, j, i }) => {
      if (isHidden(s, arrays, key)) return;
      const { e, max } = arrays;
      const value = logit(s, arrays, at, j, i);
      e![at] = hides(s, arrays, key, j, i) ? Number.NEGATIVE_INFINITY : value;
      max![i] = Math.max(max![i]!, e![at]!);
    }),
  weights: (s, arrays) => {
    const { v, e, o, max, sum: sums, g } = arrays;
    const weight = (key: number, at: number, j: number, i: number) => {
      if (!s.bounded) return e![at]! - max![i]! < -100 ? 0 : 2 ** (e![at]! - max![i]!);
      const value = logit(s, arrays, at, j, i);
      return hides(s, arrays, key, j, i) ? 0 : 2 ** value;
    };
    clearHidden(s, arrays, e!);
    entries(s, ({ key, at, j, i }) => {
      if (isHidden(s, arrays, key)) return;
      e![at] = weight(key, at, j, i);
      sums![i]! += e![at]!;
      for (let c = 0; c < s.dv! && o!.length > 0; c++) {
        o![c * ROWS + i]! += v![j * s.dv! + c]! * e![at]!;
      }
    });
    if (g!.length > 0) values(s, arrays);
  },
  values,
  gradients: (s, arrays) => {
    const { e, t, mean, slope, us, uv, ws, wv, rs, rv, ls, lv } = arrays;
    const thin = (
      [x, at, j, i]: readonly [number, number, number, number],
      [u, w, right, left]: readonly Float64Array[],
      p: number,
    ) => {
      for (let c = 0; c < p; c++) {
        if (u!.length > 0) right![i * p + c]! += x * u![j * p + c]!;
        if (left!.length > 0) left![j * p + c]! += x * w![i * p + c]!;
      }
      return at;
    };
    entries(s, ({ key, at, j, i }) => {
      if (isHidden(s, arrays, key)) return;
      if (s.ps! > 0) {
        t![at] = e![at]! * (t![at]! - mean![i]!) * (slope!.length > 0 ? slope![at]! : 1);
        thin([t![at]!, at, j, i], [us!, ws!, rs!, ls!], s.ps!);
      }
      thin([e![at]!, at, j, i], [uv!, wv!, rv!, lv!], s.pv!);
    });
  },

  running_softmax: ({ rows, columns }, { s, max, total, factor }) => {
    for (let i = 0; i < rows!; i++) {
      const row = s!.subarray(i * columns!, (i + 1) * columns!);
      const top = Math.max(max![i]!, ...row);
      factor![i] = Math.exp(max![i]! - top);
      row.set(row.map((value) => Math.exp(value - top)));
      total![i] = factor![i]! * total![i]! + sum(columns!, (j) => row[j]!);
      max![i] = top;
    }
  },
  score_gradient: ({ rows, columns }, { p, t, scale, shift }) =>
    each(rows!, columns!, (i, j) => {
      const at = i * columns! + j;
      p![at]! *= scale![i]!;
      t![at] = p![at]! * (t![at]! - shift![i]!);
    }),
  outer: ({ rows, n, p, ldc }, { a, b, c }) =>
    each(rows!, n! * p!, (i, at) => {
      c![i * ldc! + at] = a![i * n! + Math.floor(at / p!)]! * b![i * p! + (at % p!)]!;
    }),
  contract: ({ rows, n, p, ldt }, { a, t, c }) =>
    each(rows!, p!, (i, y) => {
      c![i * p! + y]! += sum(n!, (x) => a![i * n! + x]! * t![i * ldt! + x * p! + y]!);
    }),
  take_centres: ({ rows, groups, p }, { x, c }) =>
    each(rows!, groups! * p!, (i, at) => {
      const first = (i * groups! + Math.floor(at / p!)) * (p! + 1);
      c![first + (at % p!)]! -= c![first + p!]! * x![i * p! + (at % p!)]!;
    }),
  group_sums: ({ rows, n, p, groups, ldphi }, { phi, t, out }) => {
    const size = n! / groups!;
    each(rows! * groups!, p!, (ik, y) => {
      const [i, k] = [Math.floor(ik / groups!), ik % groups!];
      out![ik * p! + y] = sum(size, (x) => {
        const f = k * size + x;
        return phi![f * ldphi! + i]! * t![(i * n! + f) * p! + y]!;
      });
    });
  },
  fold: (_, { block, sums }) => {
    sums!.set(sums!.map((x, i) => x + block![i]!));
    block!.fill(0);
  },
  transpose: ({ rows, columns }, { a, b }) =>
    each(rows!, columns!, (i, j) => (b![j * rows! + i] = a![i * columns! + j]!)),
  feature_products: ({ features, rows }, { base, slot, table, phi }) =>
    each(features!, rows!, (f, i) => {
      if (f === 0) return;
      phi![f * rows! + i] = phi![base![f]! * rows! + i]! * table![slot![f]! * rows! + i]!;
    }),
  signed_products: ({ functions, rows, directions, slots }, { ends, signs, table, out }) =>
    each(functions!, rows!, (k, i) => {
      let product = 1;
      for (let a = 0, s = 0; a < directions!; a++) {
        let total = 1;
        for (; s < ends![a]!; s++) total += signs![k * slots! + s]! * table![s * rows! + i]!;
        product *= total;
      }
      out![k * rows! + i] = product;
    }),
  weigh_features: ({ features, rows }, { phi, weight, out }) =>
    each(features!, rows!, (f, i) => (out![f * rows! + i] = phi![f * rows! + i]! * weight![i]!)),
  scale_columns: ({ features, rows }, { x, scale, out }) =>
    each(features!, rows!, (f, i) => (out![f * rows! + i] = x![f * rows! + i]! * scale![i]!)),
  column_dots: ({ features, rows }, { a, b, out }) =>
    each(rows!, 1, (i) => {
      out![i] = sum(features!, (f) => a![f * rows! + i]! * b![f * rows! + i]!);
    }),
  rotate: ({ rows, d, width, back }, { cos, sin, x }) => {
    const half = width! / 2;
    each(rows!, half, (i, e) => {
      const [a, b] = [i * width! + e, i * width! + half + e];
      const [atU, atV] = [i * d! + e, i * d! + half + e];
      const [u, v] = [x![atU]!, x![atV]!];
      x![atU] = u * cos![a]! + v * (back ? sin![b]! : -sin![a]!);
      x![atV] = v * cos![b]! + u * (back ? -sin![a]! : sin![b]!);
    });
  },
  forms: ({ rows, n }, { x, linear, quadratic, out }) =>
    each(rows!, 1, (i) => {
      out![i] = sum(n!, (a) => {
        const value = x![i * n! + a]!;
        return (linear![a]! + quadratic![a]! * value) * value;
      });
    }),
  row_dots: ({ rows, n }, { a, b, out }) =>
    each(rows!, 1, (i) => (out![i] = sum(n!, (k) => a![i * n! + k]! * b![i * n! + k]!))),
  scale_rows: ({ rows, n }, { x, scale }) =>
    each(rows!, n!, (i, a) => (x![i * n! + a]! *= scale![i]!)),
  add_row: ({ rows, n }, { row, y }) => each(rows!, n!, (i, a) => (y![i * n! + a]! += row![a]!)),
  combine: ({ n, alpha, beta }, { x, y }) =>
    each(n!, 1, (i) => (y![i] = alpha! * x![i]! + beta! * y![i]!)),
  copy_columns: ({ rows, columns, ldx, ldy }, { x, y }) =>
    each(rows!, columns!, (i, c) => (y![i * ldy! + c] = x![i * ldx! + c]!)),
  ...PROXY_LOOPS,
  joined_row: ({ n, scale }, { low, exactly, e, weight, t, other, out }) => {
    each(n!, 1, (j) => (other![j] = scale! * low![j]! + exactly![j]! * e![j]!));
    out![0] = sum(n!, (j) => weight![j]! * other![j]!);
    out![1] = sum(n!, (j) => weight![j]! * other![j]! * t![j]!);
  },
  row_errors: (s, { e, t, other, weight, u, v, scoreColumns, valueColumns, out }) => {
    out!.fill(0);
    for (let j = 0; j < s.n!; j++) {
      const p = s.inverse! * e![j]!;
      const off = p - s.otherInverse! * other![j]!;
      const score = u![j]! * (off * (t![j]! - s.mean!) + p * s.shift!) ** 2;
      const value = v![j]! * off ** 2;
      out![0]! += weight![j]! * score;
      out![1]! += weight![j]! * value;
      scoreColumns![j]! += s.forScore! * score;
      valueColumns![j]! += s.forValue! * value;
    }
  },
  square_sums: ({ features, rows }, { phi, out }) =>
    each(rows!, 1, (i) => (out![i] = sum(features!, (f) => phi![f * rows! + i]! ** 2))),
  feature_table: ({ slots, rows }, { index, factor, x, table }) => {
    table!.fill(1, 0, rows!);
    each(slots!, rows!, (s, i) => {
      const [a, one, two] = index!.subarray(3 * s, 3 * s + 3);
      const up = factor![2 * s]! * x![a! * rows! + i]! * table![one! * rows! + i]!;
      table![(s + 1) * rows! + i] = up - factor![2 * s + 1]! * table![two! * rows! + i]!;
    });
  },
};

/** The outcome of a call as the loops have it. */
export function expected(call: Call) {
  const arrays = Object.fromEntries(
    Object.entries(call.arrays).map(([name, x]) => [name, Float64Array.from(x)]),
  );
  const returned = Number(LOOPS[call.name](call.numbers, arrays));
  return { arrays, returned };
}
