/* Passes of the low-rank kernel over blocks of rows. */
#include "operations.h"
#include "power.h"
#include "transpose.h"

static const float LOG2E = 1.44269504f;

/* Minus infinity, of a row that has seen nothing yet, counts as far below. */
static vf exponential_of_difference(vf x, vf top) {
  return power_of_difference(larger((x - top) * constant(LOG2E), constant(-101.f)));
}

void OF_SET(running_softmax)(int rows, int columns, float *s, float *max, float *total, float *factor) {
  for (int i = 0; i < rows; i++, s += columns) {
    vf m = constant(max[i]);
    int j = 0;
    for (; j + W <= columns; j += W) m = larger(load(s + j), m);
    float top = largest_of(m);
    for (; j < columns; j++) top = s[j] > top ? s[j] : top;
    const vf tops = constant(top);
    vf sums = zero();
    for (j = 0; j + W <= columns; j += W) {
      const vf e = exponential_of_difference(load(s + j), tops);
      store(s + j, e);
      sums += e;
    }
    float sum = sum_of(sums);
    for (; j < columns; j++) sum += s[j] = exponential_of_difference(constant(s[j]), tops)[0];
    factor[i] = exponential_of_difference(constant(max[i]), tops)[0];
    total[i] = factor[i] * total[i] + sum;
    max[i] = top;
  }
}

void OF_SET(score_gradient)(int rows, int columns, float *restrict p, float *restrict t, const float *scale,
                            const float *shift) {
  for (int i = 0; i < rows; i++, p += columns, t += columns) {
    const float a = scale[i], b = shift[i];
    for (int j = 0; j < columns; j++) {
      p[j] *= a;
      t[j] = p[j] * (t[j] - b);
    }
  }
}

void OF_SET(outer)(int rows, int n, int p, const float *a, const float *b, float *c, int ldc) {
  for (int i = 0; i < rows; i++, a += n, b += p, c += ldc) {
    int x = 0;
#if W == 16
    if (p == 8) { /* two of n in a vector */
      const v8f half = *(const v8f *)b;
      const vf y = __builtin_shufflevector(half, half, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
      for (; x + 2 <= n; x += 2) {
        const v8f u = SPLAT_8(a[x]), v = SPLAT_8(a[x + 1]);
        store(c + 8 * x, y * __builtin_shufflevector(u, v, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
      }
    }
#endif
    for (; x < n; x++)
      for (int y = 0; y < p; y++) c[(long)x * p + y] = a[x] * b[y];
  }
}

/* to (p) += sum over n of w[x step] t[x p + y]. */
static void weighted_rows(int n, int p, const float *w, long step, const float *t, float *to) {
  int y = 0;
  for (; y + 8 <= p; y += 8) {
    v8f s0 = *(const v8f *)(to + y), s1 = {0};
    int x = 0;
    for (; x + 2 <= n; x += 2) {
      s0 += *(const v8f *)(t + (long)x * p + y) * SPLAT_8(w[x * step]);
      s1 += *(const v8f *)(t + (long)(x + 1) * p + y) * SPLAT_8(w[(x + 1) * step]);
    }
    if (x < n) s0 += *(const v8f *)(t + (long)x * p + y) * SPLAT_8(w[x * step]);
    *(v8f *)(to + y) = s0 + s1;
  }
  for (; y < p; y++) {
    float s = to[y];
    for (int x = 0; x < n; x++) s += w[x * step] * t[(long)x * p + y];
    to[y] = s;
  }
}

void OF_SET(contract)(int rows, int n, int p, const float *a, const float *t, int ldt, float *c) {
  for (int i = 0; i < rows; i++) weighted_rows(n, p, a + (long)i * n, 1, t + (long)i * ldt, c + (long)i * p);
}

void OF_SET(group_sums)(int rows, int n, int p, int groups, const float *phi, int ldphi, const float *t, float *out) {
  const int size = n / groups;
  memset(out, 0, 4L * rows * groups * p);
  for (int i = 0; i < rows; i++)
    for (int k = 0; k < groups; k++)
      weighted_rows(size, p, phi + (long)k * size * ldphi + i, ldphi, t + ((long)i * n + (long)k * size) * p,
                    out + ((long)i * groups + k) * p);
}

void OF_SET(take_centres)(int rows, int groups, int p, const float *restrict x, float *restrict c) {
  for (int i = 0; i < rows; i++, x += p)
    for (int k = 0; k < groups; k++, c += p + 1) {
      const float factor = c[p];
      for (int y = 0; y < p; y++) c[y] -= factor * x[y];
    }
}

void OF_SET(transpose)(int rows, int columns, const float *restrict a, float *restrict b) {
  const v8f one = SPLAT_8(1.f);
  int i = 0;
  for (; i + 8 <= rows; i += 8) {
    int j = 0;
    for (; j + 8 <= columns; j += 8)
      transpose_8(a + (long)i * columns + j, columns, one, b + (long)j * rows + i, rows);
    for (; j < columns; j++)
      for (int k = 0; k < 8; k++) b[(long)j * rows + i + k] = a[(long)(i + k) * columns + j];
  }
  for (; i < rows; i++)
    for (int j = 0; j < columns; j++) b[(long)j * rows + i] = a[(long)i * columns + j];
}

/* Sums in float64: rounded to float32 they would move large logits more than the products of Q and K do. */
void OF_SET(rotate)(int rows, int d, int width, const float *cos, const float *sin, float *x,
                    int back) {
  const int half = width / 2;
  for (int i = 0; i < rows; i++, cos += width, sin += width, x += d) {
    float *restrict a = x, *restrict b = x + half;
    for (int e = 0; e < half; e++) {
      const double u = a[e], v = b[e];
      const double of_u = back ? -sin[e] : sin[half + e], of_v = back ? -sin[half + e] : sin[e];
      a[e] = (float)(u * cos[e] - v * of_v);
      b[e] = (float)(v * cos[half + e] + u * of_u);
    }
  }
}
