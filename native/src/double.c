/* Passes in float64: single rows of attention and of its approximation, computed again exactly. */
#include "operations.h"
#include "simd.h"

void OF_SET(widen)(int n, const float *restrict x, double *restrict y) {
  for (int i = 0; i < n; i++) y[i] = x[i];
}

void OF_SET(dots64)(int n, int k, const double *x, const double *y, double *out) {
  for (int j = 0; j < n; j++, x += k) {
    vd s = {0}, t = {0};
    int c = 0;
    for (; c + W <= k; c += W) {
      s += load_double(x + c) * load_double(y + c);
      t += load_double(x + c + W / 2) * load_double(y + c + W / 2);
    }
    double sum = sum_of_doubles(s + t);
    for (; c < k; c++) sum += x[c] * y[c];
    out[j] = sum;
  }
}

void OF_SET(combine64)(int n, int k, const double *restrict w, const double *restrict x, double *restrict out) {
  int j = 0;
  /* Four rows at a time: one visit to out for all of them. */
  for (; j + 4 <= n; j += 4, x += 4L * k)
    for (int c = 0; c < k; c++)
      out[c] += (w[j] * x[c] + w[j + 1] * x[k + c]) + (w[j + 2] * x[2L * k + c] + w[j + 3] * x[3L * k + c]);
  for (; j < n; j++, x += k)
    for (int c = 0; c < k; c++) out[c] += w[j] * x[c];
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
