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

enum { AT_ONCE = 4 };

/* Product of the sums of directions for `vectors` vectors of rows, all in registers. */
INLINE void product_of_sums(int vectors, int rows, int directions, const int32_t *ends, const double *signs,
                            const double *table, double *out) {
  vd product[AT_ONCE];
  UNROLL for (int v = 0; v < vectors; v++) product[v] = SPLAT_DOUBLE(1.0);
  for (int a = 0, s = 0; a < directions; a++) {
    vd sum[AT_ONCE];
    UNROLL for (int v = 0; v < vectors; v++) sum[v] = SPLAT_DOUBLE(1.0);
    for (; s < ends[a]; s++) {
      const double *row = table + (long)s * rows;
      UNROLL for (int v = 0; v < vectors; v++) sum[v] += SPLAT_DOUBLE(signs[s]) * load_double(row + v * DOUBLES);
    }
    UNROLL for (int v = 0; v < vectors; v++) product[v] *= sum[v];
  }
  UNROLL for (int v = 0; v < vectors; v++) *(vd *)(out + v * DOUBLES) = product[v];
}

void OF_SET(signed_products)(int functions, int rows, int directions, int slots, const int32_t *ends,
                             const double *signs, const double *table, double *out) {
  for (int k = 0; k < functions; k++, signs += slots, out += rows) {
    int i = 0;
    for (; i + AT_ONCE * DOUBLES <= rows; i += AT_ONCE * DOUBLES)
      product_of_sums(AT_ONCE, rows, directions, ends, signs, table + i, out + i);
    for (; i + DOUBLES <= rows; i += DOUBLES)
      product_of_sums(1, rows, directions, ends, signs, table + i, out + i);
    for (; i < rows; i++) {
      out[i] = 1;
      for (int a = 0, s = 0; a < directions; a++) {
        double sum = 1;
        for (; s < ends[a]; s++) sum += signs[s] * table[(long)s * rows + i];
        out[i] *= sum;
      }
    }
  }
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
