/* Squares of 8 by 8 in registers. */
#pragma once
#include "simd.h"

/* to (8 rows, `to_row` floats apart) = scale times the transpose of 8 rows of x, `x_row` floats apart. */
INLINE void transpose_8(const float *x, long x_row, v8f scale, float *to, long to_row) {
  v8f r[8], s[8], t[8];
  UNROLL for (int k = 0; k < 8; k++) r[k] = scale * *(const v8f *)(x + k * x_row);
  UNROLL for (int k = 0; k < 4; k++) {
    s[2 * k] = __builtin_shufflevector(r[2 * k], r[2 * k + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    s[2 * k + 1] = __builtin_shufflevector(r[2 * k], r[2 * k + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
  UNROLL for (int k = 0; k < 2; k++) UNROLL for (int h = 0; h < 2; h++) {
    t[4 * k + 2 * h] = __builtin_shufflevector(s[4 * k + h], s[4 * k + 2 + h], 0, 1, 8, 9, 4, 5, 12, 13);
    t[4 * k + 2 * h + 1] = __builtin_shufflevector(s[4 * k + h], s[4 * k + 2 + h], 2, 3, 10, 11, 6, 7, 14, 15);
  }
  UNROLL for (int k = 0; k < 4; k++) {
    *(v8f *)(to + k * to_row) = __builtin_shufflevector(t[k], t[4 + k], 0, 1, 2, 3, 8, 9, 10, 11);
    *(v8f *)(to + (k + 4) * to_row) = __builtin_shufflevector(t[k], t[4 + k], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}
