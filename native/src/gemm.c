/*
 * General products. The right operand is packed first, into panels of 16 columns: element (k, j) of b (k, n) at
 * ((j / 16) * k' + k) * 16 + j % 16 where k' is its number of rows, padded with zeros. The left operand is read
 * where it lies.
 */
#include "operations.h"
#include "product.h"
#include "transpose.h"

enum {
  PANEL = 16,
  DEPTH = 256, /* rows of a panel that one pass covers: they stay in the first-level cache */
};

void OF_SET(pack)(int k, int n, const float *b, int ldb, float *dst) {
  for (int j = 0; j < n; j += PANEL) {
    const int wide = least(PANEL, n - j);
    const float *from = b + j;
    for (int i = 0; i < k; i++, from += ldb, dst += PANEL) {
      if (wide == PANEL) memcpy(dst, from, 4 * PANEL);
      else for (int x = 0; x < PANEL; x++) dst[x] = x < wide ? from[x] : 0;
    }
  }
}

void OF_SET(pack_transposed)(int n, int k, const float *bt, int ld, float scale, float *dst) {
  const v8f scales = SPLAT_8(scale);
  for (int j = 0; j < n; j += PANEL, dst += (long)PANEL * k)
    for (int x = 0; x < PANEL; x += 8) {
      const float *from = bt + (long)(j + x) * ld;
      int i = 0;
      if (j + x + 8 <= n)
        for (; i + 8 <= k; i += 8) transpose_8(from + i, ld, scales, dst + PANEL * i + x, PANEL);
      for (; i < k; i++)
        for (int y = 0; y < 8; y++) dst[PANEL * i + x + y] = j + x + y < n ? scale * from[(long)y * ld + i] : 0;
    }
}

/* Columns that are no whole vectors: made aside and copied. */
static void edge(int m, int columns, int k, const float *a, long a_row, long a_step, const float *panel, float *c,
                 long c_row, int accumulate) {
  float aside[MR * PANEL];
  for (int i = 0; i < m; i += MR) {
    const int rows = least(MR, m - i);
    product(rows, PANEL / W, k, a + i * a_row, a_row, a_step, panel, PANEL, aside, PANEL, 0);
    for (int r = 0; r < rows; r++) {
      float *to = c + (i + r) * c_row;
      for (int x = 0; x < columns; x++) to[x] = (accumulate ? to[x] : 0) + aside[r * PANEL + x];
    }
  }
}

static void by_panels(int m, int n, int k, const float *a, long a_row, long a_step, const float *b, float *c,
                      long c_row, int accumulate) {
  for (int first = 0; first < k; first += DEPTH, accumulate = 1) {
    const int depth = least(DEPTH, k - first);
    const float *from = a + first * a_step;
    int j = 0;
#if W == 16
    for (; j + 2 * PANEL <= n; j += 2 * PANEL)
      product_wide(m, depth, from, a_row, a_step, b + (long)j * k + (long)first * PANEL, PANEL, (long)k * PANEL,
                   c + j, c_row, accumulate);
#endif
    for (; j < n; j += PANEL) {
      const int columns = least(PANEL, n - j);
      const float *panel = b + (long)j * k + (long)first * PANEL;
      if (columns % W) edge(m, columns, depth, from, a_row, a_step, panel, c + j, c_row, accumulate);
      else product(m, columns / W, depth, from, a_row, a_step, panel, PANEL, c + j, c_row, accumulate);
    }
  }
}

void OF_SET(gemm)(int m, int n, int k, const float *a, int lda, const float *b, float *c, int ldc, int accumulate) {
  by_panels(m, n, k, a, lda, 1, b, c, ldc, accumulate);
}

void OF_SET(gemm_tn)(int m, int n, int k, const float *a, int lda, const float *b, float *c, int ldc, int accumulate) {
  by_panels(m, n, k, a, 1, lda, b, c, ldc, accumulate);
}
