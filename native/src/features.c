/* Features of the low-rank kernel: phi (features, rows), a row of it for each feature. */
#include "operations.h"
#include "simd.h"

enum { DOUBLES = W / 2 };

void OF_SET(feature_table)(int slots, int rows, const int32_t *index, const double *factor, const float *x,
                           double *table) {
  for (int i = 0; i < rows; i++) table[i] = 1;
  for (int s = 0; s < slots; s++) {
    const float *from = x + (long)index[3 * s] * rows;
    const double *one = table + (long)index[3 * s + 1] * rows, *two = table + (long)index[3 * s + 2] * rows;
    const double up = factor[2 * s], down = factor[2 * s + 1];
    double *to = table + (long)(s + 1) * rows;
    int i = 0;
    for (; i + DOUBLES <= rows; i += DOUBLES)
      *(vd *)(to + i) = SPLAT_DOUBLE(up) * widen_half(from + i) * load_double(one + i) -
                        SPLAT_DOUBLE(down) * load_double(two + i);
    for (; i < rows; i++) to[i] = up * from[i] * one[i] - down * two[i];
  }
}

void OF_SET(feature_products)(int features, int rows, const int32_t *base, const int32_t *slot, const double *table,
                              double *phi) {
  for (int f = 1; f < features; f++) {
    const double *x = phi + (long)base[f] * rows, *y = table + (long)slot[f] * rows;
    double *to = phi + (long)f * rows;
    int i = 0;
    for (; i + DOUBLES <= rows; i += DOUBLES) *(vd *)(to + i) = load_double(x + i) * load_double(y + i);
    for (; i < rows; i++) to[i] = x[i] * y[i];
  }
}

/* Functions and vectors of rows whose sums and products are in registers together. */
enum { FUNCTIONS = 4, AT_ONCE = DOUBLES == 8 ? 2 : 1 };

/*
 * Products of the sums of directions of `functions` functions for `vectors` vectors of rows: a vector of the table, which is
 * larger than the first-level cache for all rows, is read once for all of them.
 */
INLINE void product_of_sums(int functions, int vectors, int rows, int directions, int slots, const int32_t *ends,
                            const double *signs, const double *table, double *out) {
  vd product[FUNCTIONS][AT_ONCE], sum[FUNCTIONS][AT_ONCE];
  UNROLL for (int k = 0; k < functions; k++)
    UNROLL for (int v = 0; v < vectors; v++) product[k][v] = SPLAT_DOUBLE(1.0);
  for (int a = 0, s = 0; a < directions; a++) {
    UNROLL for (int k = 0; k < functions; k++)
      UNROLL for (int v = 0; v < vectors; v++) sum[k][v] = SPLAT_DOUBLE(1.0);
    for (; s < ends[a]; s++) {
      const double *row = table + (long)s * rows;
      UNROLL for (int v = 0; v < vectors; v++) {
        const vd x = load_double(row + v * DOUBLES);
        UNROLL for (int k = 0; k < functions; k++) sum[k][v] += SPLAT_DOUBLE(signs[(long)k * slots + s]) * x;
      }
    }
    UNROLL for (int k = 0; k < functions; k++)
      UNROLL for (int v = 0; v < vectors; v++) product[k][v] *= sum[k][v];
  }
  UNROLL for (int k = 0; k < functions; k++)
    UNROLL for (int v = 0; v < vectors; v++) *(vd *)(out + (long)k * rows + v * DOUBLES) = product[k][v];
}

/* The same for rows that are no whole vector. */
static void product_of_row(int rows, int directions, const int32_t *ends, const double *signs, const double *table,
                           double *out) {
  *out = 1;
  for (int a = 0, s = 0; a < directions; a++) {
    double sum = 1;
    for (; s < ends[a]; s++) sum += signs[s] * table[(long)s * rows];
    *out *= sum;
  }
}

INLINE void some_products(int functions, int rows, int directions, int slots, const int32_t *ends, const double *signs,
                          const double *table, double *out) {
  int i = 0;
  for (; i + AT_ONCE * DOUBLES <= rows; i += AT_ONCE * DOUBLES)
    product_of_sums(functions, AT_ONCE, rows, directions, slots, ends, signs, table + i, out + i);
  for (; i + DOUBLES <= rows; i += DOUBLES)
    product_of_sums(functions, 1, rows, directions, slots, ends, signs, table + i, out + i);
  for (; i < rows; i++)
    for (int k = 0; k < functions; k++)
      product_of_row(rows, directions, ends, signs + (long)k * slots, table + i, out + (long)k * rows + i);
}

void OF_SET(signed_products)(int functions, int rows, int directions, int slots, const int32_t *ends,
                             const double *signs, const double *table, double *out) {
  int k = 0;
  for (; k + FUNCTIONS <= functions; k += FUNCTIONS)
    some_products(FUNCTIONS, rows, directions, slots, ends, signs + (long)k * slots, table, out + (long)k * rows);
  for (; k < functions; k++)
    some_products(1, rows, directions, slots, ends, signs + (long)k * slots, table, out + (long)k * rows);
}

void OF_SET(weigh_features)(int features, int rows, const double *restrict phi, const double *restrict weight,
                            float *restrict out) {
  for (int f = 0; f < features; f++, phi += rows, out += rows)
    for (int i = 0; i < rows; i++) out[i] = (float)(phi[i] * weight[i]);
}

void OF_SET(square_sums)(int features, int rows, const double *restrict phi, double *restrict out) {
  memset(out, 0, 8L * rows);
  for (int f = 0; f < features; f++, phi += rows)
    for (int i = 0; i < rows; i++) out[i] += phi[i] * phi[i];
}

void OF_SET(scale_columns)(int features, int rows, const float *x, const float *scale, float *out) {
  for (int f = 0; f < features; f++, x += rows, out += rows) {
    int i = 0;
    for (; i + W <= rows; i += W) store(out + i, load(x + i) * load(scale + i));
    for (; i < rows; i++) out[i] = x[i] * scale[i];
  }
}

void OF_SET(column_dots)(int features, int rows, const float *a, const float *b, float *out) {
  int i = 0;
  for (; i + W <= rows; i += W) {
    vf s = zero();
    for (int f = 0; f < features; f++) s += load(a + (long)f * rows + i) * load(b + (long)f * rows + i);
    store(out + i, s);
  }
  for (; i < rows; i++) {
    float s = 0;
    for (int f = 0; f < features; f++) s += a[(long)f * rows + i] * b[(long)f * rows + i];
    out[i] = s;
  }
}

void OF_SET(forms)(int rows, int n, const float *x, const double *linear, const double *quadratic, double *out) {
  for (int i = 0; i < rows; i++, x += n) {
    vd s = {0};
    int a = 0;
    for (; a + DOUBLES <= n; a += DOUBLES) {
      const vd value = widen_half(x + a);
      s += (load_double(linear + a) + load_double(quadratic + a) * value) * value;
    }
    double sum = sum_of_doubles(s);
    for (; a < n; a++) sum += (linear[a] + quadratic[a] * x[a]) * x[a];
    out[i] = sum;
  }
}
