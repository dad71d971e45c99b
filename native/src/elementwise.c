/* Passes over vectors of n elements, and over the rows of a matrix. */
#include <math.h>

#include "operations.h"
#include "power.h"

/*
 * e^x, clamped to -87 <= x <= 88. Cody and Waite: x = n ln 2 + f, with ln 2 in two pieces of which the first has so
 * few bits that its product with n is exact; then e^f by a minimax polynomial (1.3 ulp).
 */
static void exponential(float *x) {
  vf v = larger(constant(-87.f), load(x));
  v = smaller(constant(88.f), v);
  const vf t = v * constant(1.44269504f) + constant(ROUNDING);
  const vf m = t - constant(ROUNDING);
  vf f = v - m * constant(0.693359375f);
  f = f + m * constant(2.12194440e-4f);
  vf p = constant(1.38436537e-3f) * f + constant(8.37415550e-3f);
  p = p * f + constant(4.16680016e-2f);
  p = p * f + constant(1.66664317e-1f);
  p = p * f + constant(4.99999940e-1f);
  p = p * f + constant(1.f);
  p = p * f + constant(1.f);
  store(x, (vf)((vi)p + ((vi)t << 23)));
}

void OF_SET(exp)(float *x, int n) {
  for (; n >= W; n -= W, x += W) exponential(x);
  if (n == 0) return;
  float rest[W] = {0};
  memcpy(rest, x, 4L * n);
  exponential(rest);
  memcpy(x, rest, 4L * n);
}

float OF_SET(largest)(int n, const float *x) {
  vf m = zero();
  for (; n >= W; n -= W, x += W) m = larger((vf)((vi)load(x) & 0x7fffffff), m);
  float s = largest_of(m);
  for (; n; n--, x++) s = fabsf(*x) > s ? fabsf(*x) : s;
  return s;
}

static float dot(const float *a, const float *b, int n) {
  vf s = zero(), t = zero();
  for (; n >= 2 * W; n -= 2 * W, a += 2 * W, b += 2 * W) {
    s += load(a) * load(b);
    t += load(a + W) * load(b + W);
  }
  for (; n >= W; n -= W, a += W, b += W) s += load(a) * load(b);
  float sum = sum_of(s + t);
  for (; n; n--) sum += *a++ * *b++;
  return sum;
}

float OF_SET(largest_norm)(int rows, int n, const float *x) {
  float m = 0;
  for (int i = 0; i < rows; i++, x += n) {
    const float square = dot(x, x, n);
    m = square > m ? square : m;
  }
  return sqrtf(m);
}

void OF_SET(row_dots)(int rows, int n, const float *a, const float *b, float *out) {
  for (int i = 0; i < rows; i++) out[i] = dot(a + (long)i * n, b + (long)i * n, n);
}

void OF_SET(multiply)(int n, const float *restrict x, float *restrict y) {
  for (int i = 0; i < n; i++) y[i] *= x[i];
}

void OF_SET(combine)(int n, float alpha, const float *x, float beta, float *y) {
  if (beta == 0) for (int i = 0; i < n; i++) y[i] = alpha * x[i];
  else for (int i = 0; i < n; i++) y[i] = alpha * x[i] + beta * y[i];
}

void OF_SET(scale_rows)(int rows, int n, float *restrict x, const float *restrict scale) {
  for (int i = 0; i < rows; i++, x += n) {
    const float s = scale[i];
    for (int a = 0; a < n; a++) x[a] *= s;
  }
}

void OF_SET(add_row)(int rows, int n, const float *restrict row, float *restrict y) {
  for (int i = 0; i < rows; i++, y += n)
    for (int a = 0; a < n; a++) y[a] += row[a];
}

void OF_SET(copy_columns)(int rows, int columns, const float *x, int ldx, float *y, int ldy) {
  for (int i = 0; i < rows; i++) memcpy(y + (long)i * ldy, x + (long)i * ldx, 4L * columns);
}

enum { ROWS_AHEAD = 8, LINE = 16 };

/* Row i of a list is soon wanted: no processor foresees where it lies. */
INLINE void fetch_row(const float *x, int n, const int32_t *index, int i, int rows) {
  if (i >= rows) return;
  for (int c = 0; c < n; c += LINE) __builtin_prefetch(x + (long)index[i] * n + c);
}

void OF_SET(gather_rows)(int rows, int n, const int32_t *index, const float *x, float *y) {
  for (int i = 0; i < rows; i++) {
    fetch_row(x, n, index, i + ROWS_AHEAD, rows);
    memcpy(y + (long)i * n, x + (long)index[i] * n, 4L * n);
  }
}

void OF_SET(scatter_rows)(int rows, int n, const int32_t *index, const float *restrict x, float *restrict y) {
  for (int i = 0; i < rows; i++, x += n) {
    float *to = y + (long)index[i] * n;
    fetch_row(y, n, index, i + ROWS_AHEAD, rows);
    for (int c = 0; c < n; c++) to[c] += x[c];
  }
}

void OF_SET(sum_parts)(int parts, int rows, int columns, const float *x, int stride, int ldx, float *restrict out) {
  /* Some rows of a part after the other: parts lie powers of two apart, where one cache line drives out the next. */
  for (int first = 0; first < rows; first += 16)
    for (int c = 0; c < columns; c += 8) {
      const int n = least(16, rows - first), wide = least(8, columns - c);
      double sums[16][8] = {{0}};
      for (int p = 0; p < parts; p++) {
        const float *from = x + (long)p * stride + (long)first * ldx + c;
        for (int i = 0; i < n; i++, from += ldx) {
          if (wide == 8) for (int k = 0; k < 8; k++) sums[i][k] += from[k];
          else for (int k = 0; k < wide; k++) sums[i][k] += from[k];
        }
      }
      for (int i = 0; i < n; i++)
        for (int k = 0; k < wide; k++) out[(long)(first + i) * columns + c + k] = (float)sums[i][k];
    }
}

void OF_SET(fold)(int n, float *restrict block, double *restrict sums) {
  for (int i = 0; i < n; i++) sums[i] += block[i];
  memset(block, 0, 4L * n);
}
