/* Passes in float64: single rows of attention and of its approximation, computed again exactly. */
#include "operations.h"
#include "simd.h"

#define HALF (W / 2)

/* Elements of x, float32 or float64, at any index. */
INLINE vd some_of(const int narrow, const void *x, long at) {
  return narrow ? widen_half((const float *)x + at) : load_double((const double *)x + at);
}
INLINE double one_of(const int narrow, const void *x, long at) {
  return narrow ? ((const float *)x)[at] : ((const double *)x)[at];
}

/* Products of `rows` rows of x from row j on with `vectors` of y, whose sums stay in registers. */
INLINE void dots_tile(const int narrow, const int rows, const int vectors, int n, int k, const void *x, int j,
                      const double *y, double *out) {
  vd s[4][3] = {0};
  int c = 0;
  for (; c + HALF <= k; c += HALF)
    UNROLL for (int i = 0; i < rows; i++) {
      const vd a = some_of(narrow, x, (long)(j + i) * k + c);
      UNROLL for (int v = 0; v < vectors; v++) s[i][v] += a * load_double(y + (long)v * k + c);
    }
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int v = 0; v < vectors; v++) {
      double sum = sum_of_doubles(s[i][v]);
      for (int r = c; r < k; r++) sum += one_of(narrow, x, (long)(j + i) * k + r) * y[(long)v * k + r];
      out[(long)v * n + j + i] = sum;
    }
}

INLINE void dots(const int narrow, int n, int k, int m, const void *x, const double *y, double *out) {
  int v = 0;
  for (; v + 3 <= m; v += 3) {
    const double *b = y + (long)v * k;
    double *to = out + (long)v * n;
    int j = 0;
    for (; j + 4 <= n; j += 4) dots_tile(narrow, 4, 3, n, k, x, j, b, to);
    for (; j < n; j++) dots_tile(narrow, 1, 3, n, k, x, j, b, to);
  }
  for (; v < m; v++) {
    const double *b = y + (long)v * k;
    double *to = out + (long)v * n;
    int j = 0;
    for (; j + 4 <= n; j += 4) dots_tile(narrow, 4, 1, n, k, x, j, b, to);
    for (; j < n; j++) dots_tile(narrow, 1, 1, n, k, x, j, b, to);
  }
}

void OF_SET(dots64)(int n, int k, int m, const double *x, const double *y, double *out) {
  dots(0, n, k, m, x, y, out);
}
void OF_SET(dots32)(int n, int k, int m, const float *x, const double *y, double *out) {
  dots(1, n, k, m, x, y, out);
}

/* Sums of `vectors` weighings of `columns` vectors of doubles of each row of x, from column c on. */
INLINE void combine_tile(const int narrow, const int vectors, const int columns, int n, int k, const double *w,
                         const void *x, int c, double *out) {
  vd s[4][2];
  UNROLL for (int v = 0; v < vectors; v++)
    UNROLL for (int a = 0; a < columns; a++) s[v][a] = load_double(out + (long)v * k + c + a * HALF);
  for (int j = 0; j < n; j++) {
    vd row[2];
    UNROLL for (int a = 0; a < columns; a++) row[a] = some_of(narrow, x, (long)j * k + c + a * HALF);
    UNROLL for (int v = 0; v < vectors; v++) {
      const vd weight = SPLAT_DOUBLE(w[(long)v * n + j]);
      UNROLL for (int a = 0; a < columns; a++) s[v][a] += weight * row[a];
    }
  }
  UNROLL for (int v = 0; v < vectors; v++)
    UNROLL for (int a = 0; a < columns; a++) *(vd *)(out + (long)v * k + c + a * HALF) = s[v][a];
}

INLINE void combine_vectors(const int narrow, const int vectors, int n, int k, const double *w, const void *x,
                            double *out) {
  int c = 0;
  for (; c + 2 * HALF <= k; c += 2 * HALF) combine_tile(narrow, vectors, 2, n, k, w, x, c, out);
  for (; c < k; c++)
    for (int v = 0; v < vectors; v++)
      for (int j = 0; j < n; j++) out[(long)v * k + c] += w[(long)v * n + j] * one_of(narrow, x, (long)j * k + c);
}

INLINE void combine(const int narrow, int n, int k, int m, const double *w, const void *x, double *out) {
  int v = 0;
  for (; v + 4 <= m; v += 4) combine_vectors(narrow, 4, n, k, w + (long)v * n, x, out + (long)v * k);
  for (; v < m; v++) combine_vectors(narrow, 1, n, k, w + (long)v * n, x, out + (long)v * k);
}

void OF_SET(combine64)(int n, int k, int m, const double *restrict w, const double *restrict x, double *restrict out) {
  combine(0, n, k, m, w, x, out);
}
void OF_SET(combine32)(int n, int k, int m, const double *restrict w, const float *restrict x, double *restrict out) {
  combine(1, n, k, m, w, x, out);
}

void OF_SET(joined_row)(int n, double scale, const float *low, const double *exactly, const float *e,
                        const double *weight, const float *t, double *other, double *out) {
  double total = 0, dot = 0;
  for (int j = 0; j < n; j++) {
    const double x = scale * low[j] + exactly[j] * e[j], weighted = weight[j] * x;
    other[j] = x;
    total += weighted;
    dot += weighted * t[j];
  }
  out[0] = total;
  out[1] = dot;
}

void OF_SET(row_errors)(int n, double inverse, double other_inverse, double mean, double shift, double for_score,
                        double for_value, const float *e, const float *t, const double *other, const double *weight,
                        const double *u, const double *v, double *score_columns, double *value_columns, double *out) {
  double score = 0, value = 0;
  for (int j = 0; j < n; j++) {
    const double p = inverse * e[j], off = p - other_inverse * other[j];
    const double ds = off * (t[j] - mean) + p * shift;
    const double score_square = u[j] * ds * ds, value_square = v[j] * off * off;
    score += weight[j] * score_square;
    value += weight[j] * value_square;
    score_columns[j] += for_score * score_square;
    value_columns[j] += for_value * value_square;
  }
  out[0] = score;
  out[1] = value;
}
