/** The block operations of arithmetic.ts in float64, in the order in which the formulas are written. */
import { type Arithmetic, type Real, ROWS } from './arithmetic.js';
import { PlainAttention } from './plain-attention.js';

export const plain: Arithmetic = {
  unit: 2 ** -53,
  array: (n) => new Float64Array(n),
  sums: (n) => new Float64Array(n),
  mark: () => 0,
  release: () => {},

  indices: (list) => list,
  pack: (inner, columns, b) => ({ inner, columns, data: b.slice(0, inner * columns) }),
  repack: (operand, b) => operand.data.set(b.subarray(0, operand.inner * operand.columns)),

  product(rows, a, b, c, accumulate) {
    plain.gemm(rows, b.columns, b.inner, a, b.data, c, accumulate);
  },

  transposedProduct(rows, a, b, c, accumulate) {
    plain.transposedGemm(rows, b.columns, b.inner, a, b.data, c, accumulate);
  },

  gemm(rows, columns, inner, a, b, c, accumulate = false) {
    if (!accumulate) c.fill(0, 0, rows * columns);
    for (let i = 0; i < rows; i++) {
      for (let k = 0; k < inner; k++) {
        const aik = a[i * inner + k];
        for (let j = 0, ci = i * columns, bk = k * columns; j < columns; j++, ci++, bk++) {
          c[ci] += aik * b[bk];
        }
      }
    }
  },

  transposedGemm(rows, columns, inner, a, b, c, accumulate = false) {
    if (!accumulate) c.fill(0, 0, rows * columns);
    for (let k = 0; k < inner; k++) {
      for (let i = 0; i < rows; i++) {
        const aki = a[k * rows + i];
        for (let j = 0, ci = i * columns, bk = k * columns; j < columns; j++, ci++, bk++) {
          c[ci] += aki * b[bk];
        }
      }
    }
  },

  largestNorm(rows, n, x) {
    const squares = new Float64Array(rows);
    plain.rowDots(rows, n, x, x, squares);
    return Math.sqrt(squares.reduce((most, square) => Math.max(most, square), 0));
  },

  panels: (rows, width) => ({
    ...{ rows: 0, width, data: new Float64Array(rows * width) },
    largest: new Float64Array(Math.ceil(rows / ROWS)),
  }),

  fillPanels(panels, rows, x, scale) {
    const { width, data, largest } = panels;
    panels.rows = rows;
    for (let i = 0; i < rows * width; i++) data[i] = scale * x[i];
    for (let b = 0; b * ROWS < rows; b++) {
      const block = data.subarray(b * ROWS * width, (b + 1) * ROWS * width);
      largest[b] = plain.largestNorm(Math.min(ROWS, rows - b * ROWS), width, block);
    }
  },

  attention: (keys) => new PlainAttention(keys),

  transpose(rows, columns, a, b) {
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) b[j * rows + i] = a[i * columns + j];
    }
  },

  softmax(rows, columns, s, max, total, factor) {
    for (let i = 0; i < rows; i++) {
      let top = max[i];
      for (let j = i * columns; j < (i + 1) * columns; j++) top = Math.max(top, s[j]);
      factor[i] = max[i] === top ? 1 : Math.exp(max[i] - top);
      max[i] = top;
      let sum = 0;
      for (let j = i * columns; j < (i + 1) * columns; j++) {
        // A row that sees nothing yet has top = -infinity, and all its entries are absent.
        s[j] = s[j] === -Infinity ? 0 : Math.exp(s[j] - top);
        sum += s[j];
      }
      total[i] = factor[i] * total[i] + sum;
    }
  },

  scoreGradient(rows, columns, p, t, scale, shift) {
    for (let i = 0; i < rows; i++) {
      for (let j = i * columns; j < (i + 1) * columns; j++) {
        p[j] *= scale[i];
        t[j] = p[j] * (t[j] - shift[i]);
      }
    }
  },

  outer(rows, n, p, a, b, c, stride, offset) {
    for (let i = 0; i < rows; i++) {
      for (let x = 0; x < n; x++) {
        const to = i * stride + offset + x * p;
        for (let y = 0; y < p; y++) c[to + y] = a[i * n + x] * b[i * p + y];
      }
    }
  },

  contract(rows, n, p, a, t, stride, offset, c) {
    for (let i = 0; i < rows; i++) {
      for (let x = 0; x < n; x++) {
        const from = i * stride + offset + x * p;
        for (let y = 0; y < p; y++) c[i * p + y] += a[i * n + x] * t[from + y];
      }
    }
  },

  groupSums(rows, n, p, groups, phi, ldphi, t, out) {
    const width = groups * p;
    out.fill(0, 0, rows * width);
    for (let i = 0; i < rows; i++) {
      for (let f = 0; f < n; f++) {
        const to = i * width + Math.floor((f * groups) / n) * p;
        for (let y = 0; y < p; y++) out[to + y] += phi[f * ldphi + i] * t[(i * n + f) * p + y];
      }
    }
  },

  takeCentres(rows, groups, p, x, c) {
    for (let i = 0; i < rows; i++) {
      for (let k = 0; k < groups; k++) {
        const at = (i * groups + k) * (p + 1);
        for (let y = 0; y < p; y++) c[at + y] -= c[at + p] * x[i * p + y];
      }
    }
  },

  fold(n: number, block: Real, sums: Float64Array) {
    for (let i = 0; i < n; i++) sums[i] += block[i];
    block.fill(0, 0, n);
  },

  featureProducts(rows, base, slot, table, phi) {
    for (let f = 1; f < base.length; f++) {
      for (let i = 0; i < rows; i++) {
        phi[f * rows + i] = phi[base[f] * rows + i] * table[slot[f] * rows + i];
      }
    }
  },

  weighFeatures(features, rows, phi, weight, out) {
    for (let f = 0; f < features; f++) {
      for (let i = 0; i < rows; i++) out[f * rows + i] = phi[f * rows + i] * weight[i];
    }
  },

  scaleColumns(features, rows, x, weight, out) {
    for (let f = 0; f < features; f++) {
      for (let i = 0; i < rows; i++) out[f * rows + i] = x[f * rows + i] * weight[i];
    }
  },

  columnDots(features, rows, a, b, out) {
    out.fill(0, 0, rows);
    for (let f = 0; f < features; f++) {
      for (let i = 0; i < rows; i++) out[i] += a[f * rows + i] * b[f * rows + i];
    }
  },

  rotate(rows, d, cos, sin, x, back) {
    const half = d / 2;
    for (let i = 0; i < rows; i++) {
      for (let c = i * d; c < i * d + half; c++) {
        const [a, b] = [x[c], x[c + half]];
        const [sa, sb] = back ? [-sin[c + half], -sin[c]] : [sin[c], sin[c + half]];
        x[c] = a * cos[c] - b * sa;
        x[c + half] = b * cos[c + half] + a * sb;
      }
    }
  },

  forms(rows, n, x, linear, quadratic, out) {
    for (let i = 0; i < rows; i++) {
      out[i] = 0;
      for (let a = 0; a < n; a++) {
        const value = x[i * n + a];
        out[i] += (linear[a] + quadratic[a] * value) * value;
      }
    }
  },

  dots(rows, n, x, y, out) {
    for (let i = 0; i < rows; i++) {
      out[i] = 0;
      for (let a = 0; a < n; a++) out[i] += x[i * n + a] * y[a];
    }
  },

  rowDots(rows, n, a, b, out) {
    for (let i = 0; i < rows; i++) {
      out[i] = 0;
      for (let x = i * n; x < (i + 1) * n; x++) out[i] += a[x] * b[x];
    }
  },

  scaleRows(rows, n, x, weight) {
    for (let i = 0; i < rows; i++) {
      for (let a = 0; a < n; a++) x[i * n + a] *= weight[i];
    }
  },

  addRow(rows, n, row, y) {
    for (let i = 0; i < rows; i++) {
      for (let a = 0; a < n; a++) y[i * n + a] += row[a];
    }
  },

  combine(n, alpha, x, beta, y) {
    for (let i = 0; i < n; i++) y[i] = alpha * x[i] + (beta === 0 ? 0 : beta * y[i]);
  },

  copyColumns(rows, columns, x, ldx, from, y, ldy, to) {
    for (let i = 0; i < rows; i++) {
      for (let a = 0; a < columns; a++) y[i * ldy + to + a] = x[i * ldx + from + a];
    }
  },

  squareSums(features, rows, phi, out) {
    out.fill(0, 0, rows);
    for (let f = 0; f < features; f++) {
      for (let i = 0; i < rows; i++) out[i] += phi[f * rows + i] ** 2;
    }
  },

  largest(n, x) {
    let most = 0;
    for (let i = 0; i < n; i++) most = Math.max(most, Math.abs(x[i]));
    return most;
  },

  featureTable(rows, index, factor, x, table) {
    table.fill(1, 0, rows);
    for (let s = 0; 2 * s < factor.length; s++) {
      const [a, one, two] = index.subarray(3 * s);
      const [up, down] = factor.subarray(2 * s);
      for (let i = 0; i < rows; i++) {
        table[(s + 1) * rows + i] =
          up * x[a * rows + i] * table[one * rows + i] - down * table[two * rows + i];
      }
    }
  },

  joinedRow(n, { e, t, low, scale, exactly, weight, row }, out) {
    out.fill(0);
    for (let j = 0; j < n; j++) {
      row[j] = scale * low[j] + exactly[j] * e[j];
      out[0] += weight[j] * row[j];
      out[1] += weight[j] * row[j] * t[j];
    }
  },

  rowErrors(n, { e, t, row, inverse, otherInverse, mean, shift, weight, ...rest }, out) {
    const { u, v, forScore, forValue, scoreColumns, valueColumns } = rest;
    out.fill(0);
    for (let j = 0; j < n; j++) {
      const p = inverse * e[j];
      const off = p - otherInverse * row[j];
      const ds = off * (t[j] - mean) + p * shift;
      out[0] += weight[j] * u[j] * ds ** 2;
      out[1] += weight[j] * v[j] * off ** 2;
      scoreColumns[j] += forScore * u[j] * ds ** 2;
      valueColumns[j] += forValue * v[j] * off ** 2;
    }
  },
};
