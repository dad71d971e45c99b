/*
 * dS = E (dP - G.O) of the tiles of a row block, then all thin products:
 *
 *     right: dS us, E uv (rows, width)      left: dS^T ws, E^T wv (keys, width)
 *
 * Eight columns of a factor at a time. Right products have rows as vectors and are kept transposed until the end of
 * the call; dS is formed in the loop of the first of them. Left products of W = 16 take a pair of rows in one vector,
 * broadcast as 64 bits, against factors whose rows are interleaved: one multiply-add for 2 rows and 8 columns.
 */
#include "block.h"

enum {
  STRIP = 8,    /* columns of a factor in one product */
  COLUMNS = 64, /* columns that one sweep over the tiles takes; wider factors take several */
};

/* 16 sums in flight: two vectors of rows where there are 32 registers, one where there are 16. */
#if W == 16 || defined(__aarch64__)
#define RIGHT_VECTORS 2
#else
#define RIGHT_VECTORS 1
#endif

/* right^T (STRIP, ROWS) += u^T x for some rows; `form`: x = e (dp - mean), stored in dp, else x = dp. */
INLINE void right_tile(const int vectors, const int form, int keys, const float *e, float *dp, const float *mean,
                       const float *u, long pitch, float *right) {
  vf sums[STRIP][RIGHT_VECTORS], m[RIGHT_VECTORS];
  UNROLL for (int c = 0; c < STRIP; c++) UNROLL for (int v = 0; v < vectors; v++)
    sums[c][v] = load(right + c * ROWS + v * W);
  if (form) UNROLL for (int v = 0; v < vectors; v++) m[v] = load(mean + v * W);
  for (int j = 0; j < keys; j++, e += ROWS, dp += ROWS, u += pitch) {
    vf x[RIGHT_VECTORS];
    UNROLL for (int v = 0; v < vectors; v++) {
      x[v] = load(dp + v * W);
      if (form) {
        x[v] = load(e + v * W) * (x[v] - m[v]);
        store(dp + v * W, x[v]);
      }
    }
    UNROLL for (int c = 0; c < STRIP; c++) {
      const vf y = splat(u + c);
      UNROLL for (int v = 0; v < vectors; v++) sums[c][v] += y * x[v];
    }
  }
  UNROLL for (int c = 0; c < STRIP; c++) UNROLL for (int v = 0; v < vectors; v++)
    store(right + c * ROWS + v * W, sums[c][v]);
}

APART void right_forming(int rows, int keys, const float *e, float *dp, const float *mean, const float *u, long pitch,
                         float *right) {
  int i = 0;
  for (; i + RIGHT_VECTORS * W <= rows; i += RIGHT_VECTORS * W)
    right_tile(RIGHT_VECTORS, 1, keys, e + i, dp + i, mean + i, u, pitch, right + i);
  for (; i < rows; i += W) right_tile(1, 1, keys, e + i, dp + i, mean + i, u, pitch, right + i);
}

APART void right_product(int rows, int keys, float *x, const float *u, long pitch, float *right) {
  int i = 0;
  for (; i + RIGHT_VECTORS * W <= rows; i += RIGHT_VECTORS * W)
    right_tile(RIGHT_VECTORS, 0, keys, x + i, x + i, x + i, u, pitch, right + i);
  for (; i < rows; i += W) right_tile(1, 0, keys, x + i, x + i, x + i, u, pitch, right + i);
}

/* dS of a tile in place of its dP, with the slope of a soft cap. */
static void form_gradients(const Block *b, int t, float *dp) {
  const int keys = keys_of_tile(b, t);
  const float *e = b->e + at_tile(b, t, TILE_FLOATS);
  const float *slope = b->slope ? b->slope + at_tile(b, t, TILE_FLOATS) : NULL;
  for (int i = 0; i < b->rows; i += W) {
    const vf m = load(b->mean + i);
    for (int j = 0; j < keys; j++) {
      float *x = dp + j * ROWS + i;
      const vf ds = load(e + j * ROWS + i) * (load(x) - m);
      if (slope) store(x, ds * load(slope + j * ROWS + i));
      else store(x, ds);
    }
  }
}

/* left (keys, STRIP of pitch) += x w, for w as `arrange` lays it out. */
#if W == 16
INLINE void left_tile(const int keys, int rows, const float *x, const float *w, float *left, long pitch) {
  vf sums[MR];
  UNROLL for (int j = 0; j < keys; j++) sums[j] = zero();
  for (int i = 0; i < rows; i += 2, w += 2 * STRIP, x += 2) {
    const vf y = load(w);
    UNROLL for (int j = 0; j < keys; j++) {
      double pair;
      memcpy(&pair, x + j * ROWS, 8);
      sums[j] += (vf)SPLAT_DOUBLE(pair) * y;
    }
  }
  UNROLL for (int j = 0; j < keys; j += 2) {
    const vf even =
        __builtin_shufflevector(sums[j], sums[j + 1], 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const vf odd =
        __builtin_shufflevector(sums[j], sums[j + 1], 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    const vf s = even + odd;
    *(v8f *)(left + j * pitch) += __builtin_shufflevector(s, s, 0, 1, 2, 3, 4, 5, 6, 7);
    *(v8f *)(left + (j + 1) * pitch) += __builtin_shufflevector(s, s, 8, 9, 10, 11, 12, 13, 14, 15);
  }
}
static void arrange(int rows, const float *w, long pitch, float *to) {
  for (int i = 0; i < rows; i++)
    for (int c = 0; c < STRIP; c++) to[(i >> 1) * 2 * STRIP + 2 * c + (i & 1)] = w[i * pitch + c];
}
#else
enum { LEFT_VECTORS = STRIP / W };
INLINE void left_tile(const int keys, int rows, const float *x, const float *w, float *left, long pitch) {
  vf sums[12][LEFT_VECTORS];
  UNROLL for (int j = 0; j < keys; j++) UNROLL for (int v = 0; v < LEFT_VECTORS; v++) sums[j][v] = zero();
  for (int i = 0; i < rows; i++, w += STRIP, x++) {
    vf y[LEFT_VECTORS];
    UNROLL for (int v = 0; v < LEFT_VECTORS; v++) y[v] = load(w + v * W);
    UNROLL for (int j = 0; j < keys; j++) {
      const vf s = splat(x + j * ROWS);
      UNROLL for (int v = 0; v < LEFT_VECTORS; v++) sums[j][v] += s * y[v];
    }
  }
  UNROLL for (int j = 0; j < keys; j++) UNROLL for (int v = 0; v < LEFT_VECTORS; v++) {
    float *to = left + j * pitch + v * W;
    store(to, load(to) + sums[j][v]);
  }
}
static void arrange(int rows, const float *w, long pitch, float *to) {
  for (int i = 0; i < rows; i++) memcpy(to + i * STRIP, w + i * pitch, 4 * STRIP);
}
#endif

/* Keys of a tile are whole eights. */
APART void left_product(int rows, int keys, const float *x, const float *w, float *left, long pitch) {
  for (; keys >= 12; keys -= 12, x += 12 * ROWS, left += 12 * pitch) left_tile(12, rows, x, w, left, pitch);
  for (; keys > 0; keys -= 4, x += 4 * ROWS, left += 4 * pitch) left_tile(4, rows, x, w, left, pitch);
}

/* Thin products of one kind, dS or E, with the columns [c, c + n) of factors of `width` columns. */
typedef struct {
  const float *u, *w;
  float *right, *left;
  long width;
} Thin;

static void add_right(int rows, int c, int n, const float *transposed, const Thin *f) {
  for (int i = 0; i < rows; i++)
    for (int x = 0; x < n; x++) f->right[i * f->width + c + x] += transposed[x * ROWS + i];
}

/* `forms`: x is dP and becomes dS. */
static void strips_of_tile(const Block *b, int t, int c, int n, float *x, const Thin *f, int forms, float *right,
                           const float *w) {
  const int keys = keys_of_tile(b, t);
  const long first = at_tile(b, t, KEYS * f->width) + c;
  const int in_passing = forms && f->u && !b->slope;
  if (forms && !in_passing) form_gradients(b, t, x);
  for (int s = 0; s < n; s += STRIP) {
    if (in_passing && s == 0)
      right_forming(b->rows, keys, b->e + at_tile(b, t, TILE_FLOATS), x, b->mean, f->u + first, f->width, right);
    else if (f->u) right_product(b->rows, keys, x, f->u + first + s, f->width, right + s * ROWS);
  }
  if (f->left)
    for (int s = 0; s < n; s += STRIP)
      left_product(b->rows, keys, x, w + s * ROWS, f->left + first + s, f->width);
}

void OF_SET(gradients)(const Block *b, int t0, int t1) {
  const Thin kinds[2] = {{b->us, b->ws, b->rs, b->ls, b->ps}, {b->uv, b->wv, b->rv, b->lv, b->pv}};
  float *const tiles[2] = {b->t, b->e};
  float right[2][COLUMNS * ROWS], w[2][COLUMNS * ROWS];
  const int widest = most(b->ps, b->pv);
  for (int c = 0; c < widest; c += COLUMNS) {
    int n[2];
    for (int kind = 0; kind < 2; kind++) {
      const Thin *f = &kinds[kind];
      n[kind] = most(0, least(COLUMNS, f->width - c));
      memset(right[kind], 0, 4L * n[kind] * ROWS);
      if (f->left)
        for (int s = 0; s < n[kind]; s += STRIP) arrange(b->rows, f->w + c + s, f->width, w[kind] + s * ROWS);
    }
    for (int t = t0; t < t1; t++) {
      if (OF_SET(tile_is_hidden)(b, t)) continue;
      for (int kind = 0; kind < 2; kind++)
        if (n[kind])
          strips_of_tile(b, t, c, n[kind], tiles[kind] + at_tile(b, t, TILE_FLOATS), &kinds[kind],
                         kind == 0 && c == 0, right[kind], w[kind]);
    }
    for (int kind = 0; kind < 2; kind++)
      if (kinds[kind].u) add_right(b->rows, c, n[kind], right[kind], &kinds[kind]);
  }
}
