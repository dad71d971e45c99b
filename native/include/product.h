/*
 * Products by tiles of registers. Strides in floats: element (r, k) of the left operand is at a + r a_row + k a_step,
 * row k of the right operand at b + k b_step, row r of the result at c + r c_row. The vectors of a tile lie W floats
 * apart in the result, and `b_next` apart in the right operand (panels of 16 columns are narrower than two vectors
 * of 16).
 */
#pragma once
#include "simd.h"

/* sums (rows, vectors) += sum over k of a b. */
INLINE void add_products(const int rows, const int vectors, long k, const float *a, long a_row, long a_step,
                         const float *b, long b_step, long b_next, vf sums[][NV]) {
  for (long i = 0; i < k; i++, a += a_step, b += b_step) {
    vf y[NV];
    UNROLL for (int v = 0; v < vectors; v++) y[v] = load(b + v * b_next);
    UNROLL for (int r = 0; r < rows; r++) {
      const vf x = splat(a + r * a_row);
      UNROLL for (int v = 0; v < vectors; v++) sums[r][v] += x * y[v];
    }
  }
}

INLINE void clear_sums(const int rows, const int vectors, vf sums[][NV]) {
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vectors; v++) sums[r][v] = zero();
}

INLINE void product_tile(const int rows, const int vectors, long k, const float *a, long a_row, long a_step,
                         const float *b, long b_step, long b_next, float *c, long c_row, int accumulate) {
  vf sums[MR][NV];
  clear_sums(rows, vectors, sums);
  add_products(rows, vectors, k, a, a_row, a_step, b, b_step, b_next, sums);
  UNROLL for (int r = 0; r < rows; r++) UNROLL for (int v = 0; v < vectors; v++) {
    float *to = c + r * c_row + v * W;
    if (accumulate) sums[r][v] += load(to);
    store(to, sums[r][v]);
  }
}

/*
 * Rows of a and c in tiles of MR, then what is left over in tiles of 8, 4, 2 and 1: TILE(rows) is a statement that
 * makes one. Changes m, a and c.
 */
#define BY_ROWS(m, a, a_row, c, c_row, TILE)                                                            \
  for (; (m) >= MR; (m) -= MR, (a) += MR * (a_row), (c) += MR * (c_row)) TILE(MR)                       \
  if (MR > 8 && (m) >= 8) { TILE(8) (m) -= 8; (a) += 8 * (a_row); (c) += 8 * (c_row); }                 \
  if ((m) >= 4) { TILE(4) (m) -= 4; (a) += 4 * (a_row); (c) += 4 * (c_row); }                           \
  if ((m) >= 2) { TILE(2) (m) -= 2; (a) += 2 * (a_row); (c) += 2 * (c_row); }                           \
  if (m) { TILE(1) }

APART void product_wide(long m, long k, const float *a, long a_row, long a_step, const float *b, long b_step,
                        long b_next, float *c, long c_row, int accumulate) {
#define TILE(rows) { product_tile(rows, NV, k, a, a_row, a_step, b, b_step, b_next, c, c_row, accumulate); }
  BY_ROWS(m, a, a_row, c, c_row, TILE)
#undef TILE
}

APART void product_narrow(long m, long k, const float *a, long a_row, long a_step, const float *b, long b_step,
                          float *c, long c_row, int accumulate) {
#define TILE(rows) { product_tile(rows, 1, k, a, a_row, a_step, b, b_step, 0, c, c_row, accumulate); }
  BY_ROWS(m, a, a_row, c, c_row, TILE)
#undef TILE
}

/* c (m, vectors W) = [c +] a b, the vectors of b side by side. */
static inline void product(long m, long vectors, long k, const float *a, long a_row, long a_step, const float *b,
                           long b_step, float *c, long c_row, int accumulate) {
  for (; vectors >= NV; vectors -= NV, b += NV * W, c += NV * W)
    product_wide(m, k, a, a_row, a_step, b, b_step, W, c, c_row, accumulate);
  for (; vectors > 0; vectors--, b += W, c += W)
    product_narrow(m, k, a, a_row, a_step, b, b_step, c, c_row, accumulate);
}
