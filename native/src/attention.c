/*
 * One block of query rows of an attention head: softmax and dP, never forming more than this block's rows of P.
 *
 * The keys are cut into tiles of 48. A tile is stored (48 keys, 64 rows), keys outermost, so that whatever belongs to
 * a row (maximum, sum, G.O) is a vector beside the tile and no pass needs a horizontal sum. Passes over the tiles
 * [t0, t1), described in workers/kernels/inner/block.ts: `scores`, where row maxima are needed, then `weights` and `values`, then `gradients` (gradients.c).
 *
 * Masks are ranges of rows, one for each key. A pair that no mask shows has E = 0 and dS = 0, and a tile without any
 * pair costs no product.
 *
 * Where all rows see a tile and what its weights are relative to is known, it is finished in registers: scores, biases,
 * exponentials, sums, dP and its sums with the weights. Q and G, 16 KB each, stay in the first-level cache; K and V of the next tile and the place of its
 * results are asked for ahead, one line at each step of the innermost loop (all at once is no faster than not at all).
 */
#include "block.h"
#include "power.h"
#include "product.h"

/* Q and G of the block: panels of 16 rows as pack_transposed makes them. Rows from `row` on, and the next vector. */
static inline const float *panel(const float *q, int row, long k) { return q + (row & ~15) * k + (row & 15); }
static inline long panel_next(long k) { return W == 16 ? 16 * k : W; }

/* tile (keys, ROWS) = a r^T: a (keys, k), r in panels. */
static void outer_product(int rows, int keys, int k, const float *a, const float *r, float *tile) {
  int i = 0;
  for (; i + NV * W <= rows; i += NV * W)
    product_wide(keys, k, a, k, 1, panel(r, i, k), 16, panel_next(k), tile + i, ROWS, 0);
  for (; i < rows; i += W) product_narrow(keys, k, a, k, 1, panel(r, i, k), 16, tile + i, ROWS, 0);
}

/* First row of the block that sees key j of tile t, and the row after the last one: 0 and `rows` where all do. */
static int first_seer(const Block *b, int t, int j) {
  return b->from ? most(0, b->from[at_tile(b, t, KEYS) + j] - b->first_row) : 0;
}
static int last_seer(const Block *b, int t, int j) {
  return b->to ? least(b->rows, b->to[at_tile(b, t, KEYS) + j] - b->first_row) : b->rows;
}

/* How much of a tile the rows of the block see. */
enum { ALL, SOME, NONE };

static int seen(const Block *b, int t) {
  const int keys = least(KEYS, b->keys - t * KEYS);
  int all = keys == keys_of_tile(b, t), some = !b->from && !b->to;
  for (int j = 0; j < keys && (b->from || b->to); j++) {
    const int first = first_seer(b, t, j), last = last_seer(b, t, j);
    some |= first < last;
    all &= first == 0 && last == b->rows;
  }
  return all ? ALL : some ? SOME : NONE;
}

int OF_SET(tile_is_hidden)(const Block *b, int t) { return seen(b, t) == NONE; }

static void fill(float *at, int n, float value) {
  for (int i = 0; i < n; i++) at[i] = value;
}

/* `value` where a key is padding of the tile, or a row does not see it. */
static void mask(const Block *b, int t, float *tile, float value) {
  const int keys = least(KEYS, b->keys - t * KEYS), padded = keys_of_tile(b, t);
  for (int j = keys; j < padded; j++) fill(tile + j * ROWS, b->rows, value);
  if (!b->from && !b->to) return;
  for (int j = 0; j < keys; j++, tile += ROWS) {
    const int first = first_seer(b, t, j), last = most(0, last_seer(b, t, j));
    fill(tile, least(first, b->rows), value);
    fill(tile + last, b->rows - last, value);
  }
}

/*
 * x = c tanh(x / c), and the slope 1 - tanh(x / c)^2. With u = e^-2|y|, y = x / c, both are quotients without
 * cancellation, |tanh y| = (1 - u) / (1 + u) and slope = 4 u / (1 + u)^2; tanh of small y is a polynomial (that of
 * Cephes, |y| <= 0.625).
 */
static void cap_logits(int keys, int rows, float *x, float c, float *slope) {
  for (int j = 0; j < keys; j++, x += ROWS, slope += ROWS)
    for (int i = 0; i < rows; i += W) {
      const vf y = load(x + i) * constant(1 / c);
      const vf size = (vf)((vi)y & 0x7fffffff), sign = (vf)((vi)y & ~0x7fffffff);
      const vf u = power(larger(constant(-100.f), size * constant(-2.885390081777927f)));
      const vf sum = constant(1.f) + u, z = y * y;
      const vf large = (constant(1.f) - u) / sum;
      vf p = constant(-5.70498872745e-3f) * z + constant(2.06390887954e-2f);
      p = p * z + constant(-5.37397155531e-2f);
      p = p * z + constant(1.33314422036e-1f);
      p = p * z + constant(-3.33332819422e-1f);
      const vf small = p * z * y + y;
      store(x + i, constant(c) * choose(size <= constant(0.625f), small, (vf)((vi)large | (vi)sign)));
      store(slope + i, constant(4.f) * u / (sum * sum));
    }
}

/* S of a tile: beta log2(e) Q K^T, capped, plus the biases of the keys. */
static void logits(const Block *b, int t, float *tile) {
  const int keys = keys_of_tile(b, t);
  outer_product(b->rows, keys, b->d, b->k + at_tile(b, t, KEYS * (long)b->d), b->q, tile);
  if (b->cap) cap_logits(keys, b->rows, tile, *b->cap, b->slope + at_tile(b, t, TILE_FLOATS));
  if (!b->bias) return;
  const float *bias = b->bias + at_tile(b, t, KEYS);
  for (int j = 0; j < keys; j++)
    for (int i = 0; i < b->rows; i += W) store(tile + j * ROWS + i, load(tile + j * ROWS + i) + constant(bias[j]));
}

static void raise_maxima(const Block *b, int t) {
  const float *tile = b->e + at_tile(b, t, TILE_FLOATS);
  const int keys = keys_of_tile(b, t);
  for (int i = 0; i < b->rows; i += W) {
    vf m = load(b->max + i);
    for (int j = 0; j < keys; j++) m = larger(load(tile + j * ROWS + i), m);
    store(b->max + i, m);
  }
}

void OF_SET(scores)(const Block *b, int t0, int t1) {
  for (int t = t0; t < t1; t++) {
    if (seen(b, t) == NONE) continue;
    float *tile = b->e + at_tile(b, t, TILE_FLOATS);
    logits(b, t, tile);
    mask(b, t, tile, -__builtin_inff());
    raise_maxima(b, t);
  }
}

/* ---- a whole tile in registers ---- */

enum { NOTHING, READS, WRITES };

/* As add_products for contiguous a, asking for a line of memory at each step. */
INLINE void add_products_ahead(const int rows, const int vectors, long k, const float *a, const float *b, long b_next,
                               vf sums[][NV], const int ahead, const char *next, long next_step) {
  for (long i = 0; i < k; i++, a++, b += 16) {
    vf y[NV];
    if (ahead == READS) __builtin_prefetch(next, 0, 2);
    if (ahead == WRITES) __builtin_prefetch(next, 1, 2);
    next += next_step;
    UNROLL for (int v = 0; v < vectors; v++) y[v] = load(b + v * b_next);
    UNROLL for (int r = 0; r < rows; r++) {
      const vf x = splat(a + r * k);
      UNROLL for (int v = 0; v < vectors; v++) sums[r][v] += x * y[v];
    }
  }
}

/* E = 2^S or, relative to maxima, 2^(S - max) of some keys for the rows of `vectors` vectors; sum += E. */
INLINE void weights_of_keys(const int keys, const int vectors, long d, const float *k, const float *q, const float *bias,
                            const int relative, const float *max, float *e, vf *sum, const int ahead, const char *next,
                            long next_step) {
  vf s[MR][NV];
  if (!bias) clear_sums(keys, vectors, s);
  else UNROLL for (int j = 0; j < keys; j++) UNROLL for (int v = 0; v < vectors; v++) s[j][v] = constant(bias[j]);
  add_products_ahead(keys, vectors, d, k, q, panel_next(d), s, ahead, next, next_step);
  UNROLL for (int j = 0; j < keys; j++) UNROLL for (int v = 0; v < vectors; v++) {
    const vf x = relative ? power_of_difference(s[j][v] - load(max + v * W)) : power(s[j][v]);
    store(e + j * ROWS + v * W, x);
    sum[v] += x;
  }
}

/* dP of the same; dot += E dP. */
INLINE void values_of_keys(const int keys, const int vectors, long dv, const float *v_, const float *g, const float *e,
                           float *dp, vf *dot, const int ahead, const char *next, long next_step) {
  vf s[MR][NV];
  clear_sums(keys, vectors, s);
  add_products_ahead(keys, vectors, dv, v_, g, panel_next(dv), s, ahead, next, next_step);
  UNROLL for (int j = 0; j < keys; j++) UNROLL for (int v = 0; v < vectors; v++) {
    store(dp + j * ROWS + v * W, s[j][v]);
    dot[v] += s[j][v] * load(e + j * ROWS + v * W);
  }
}

/* A tile for the rows from i on, without dP where there is no G. Ahead: K and V of the next tile to be read, or its E and dP to be written. */
INLINE void rows_of_tile(const Block *b, int t, int i, const int vectors, const int relative, const int ahead) {
  const long d = b->d, dv = b->dv;
  const float *q = panel(b->q, i, d), *g = b->g ? panel(b->g, i, dv) : NULL;
  const float *k = b->k + at_tile(b, t, KEYS * d), *v = g ? b->v + at_tile(b, t, KEYS * dv) : NULL;
  const float *bias = b->bias ? b->bias + at_tile(b, t, KEYS) : NULL;
  float *e0 = b->e + at_tile(b, t, TILE_FLOATS), *dp0 = g ? b->t + at_tile(b, t, TILE_FLOATS) : NULL, *e = e0 + i;
  vf sum[NV], dot[NV];
  UNROLL for (int n = 0; n < vectors; n++) sum[n] = dot[n] = zero();
  int m = keys_of_tile(b, t);
#define TILE(keys)                                                                                                     \
  {                                                                                                                    \
    const long j = (e - e0) / ROWS;                                                                                    \
    const char *next_e = (const char *)(ahead == WRITES ? e0 + TILE_FLOATS + j * ROWS : k + KEYS * d);                 \
    weights_of_keys(keys, vectors, d, k, q, bias ? bias + j : NULL, relative, b->max + i, e, sum, ahead, next_e,       \
                    ahead == WRITES ? keys * ROWS * 4 / d : 4 * keys);                                                 \
    if (g) {                                                                                                           \
      const float *vj = v + j * dv;                                                                                    \
      const char *next_dp = (const char *)(ahead == WRITES ? dp0 + TILE_FLOATS + j * ROWS : vj + KEYS * dv);           \
      values_of_keys(keys, vectors, dv, vj, g, e, dp0 + (e - e0), dot, ahead, next_dp,                                 \
                     ahead == WRITES ? keys * ROWS * 4 / dv : 4 * keys);                                               \
    }                                                                                                                  \
  }
  BY_ROWS(m, k, d, e, ROWS, TILE)
#undef TILE
  UNROLL for (int n = 0; n < vectors; n++) {
    add_to_doubles(b->sum + i + n * W, sum[n]);
    if (g) add_to_doubles(b->dot + i + n * W, dot[n]);
  }
}

APART void rows_reading(const Block *b, int t, int i) { rows_of_tile(b, t, i, NV, 0, READS); }
APART void rows_writing(const Block *b, int t, int i) { rows_of_tile(b, t, i, NV, 0, WRITES); }
APART void rows_alone(const Block *b, int t, int i) { rows_of_tile(b, t, i, NV, 0, NOTHING); }
APART void rows_narrow(const Block *b, int t, int i) { rows_of_tile(b, t, i, 1, 0, NOTHING); }
APART void relative_rows_reading(const Block *b, int t, int i) { rows_of_tile(b, t, i, NV, 1, READS); }
APART void relative_rows_writing(const Block *b, int t, int i) { rows_of_tile(b, t, i, NV, 1, WRITES); }
APART void relative_rows_alone(const Block *b, int t, int i) { rows_of_tile(b, t, i, NV, 1, NOTHING); }
APART void relative_rows_narrow(const Block *b, int t, int i) { rows_of_tile(b, t, i, 1, 1, NOTHING); }

static void whole_tile(const Block *b, int t, int is_last) {
  const int relative = b->bounded == 2;
  int i = 0;
  for (; i + NV * W <= b->rows; i += NV * W) {
    if (!is_last && i == 0) (relative ? relative_rows_reading : rows_reading)(b, t, i);
    else if (!is_last && i == NV * W) (relative ? relative_rows_writing : rows_writing)(b, t, i);
    else (relative ? relative_rows_alone : rows_alone)(b, t, i);
  }
  for (; i < b->rows; i += W) (relative ? relative_rows_narrow : rows_narrow)(b, t, i);
}

/* ---- pass by pass ---- */

static void exponentials(const Block *b, int t, float *tile) {
  const int keys = keys_of_tile(b, t);
  for (int i = 0; i < b->rows; i += W) {
    const vf m = b->bounded == 1 ? zero() : load(b->max + i);
    for (int j = 0; j < keys; j++) {
      float *x = tile + j * ROWS + i;
      if (b->bounded == 1) store(x, power(load(x)));
      else store(x, power_of_difference(load(x) - m));
    }
  }
}

static void values_of_tile(const Block *b, int t) {
  const int keys = keys_of_tile(b, t);
  const float *e = b->e + at_tile(b, t, TILE_FLOATS);
  float *dp = b->t + at_tile(b, t, TILE_FLOATS);
  outer_product(b->rows, keys, b->dv, b->v + at_tile(b, t, KEYS * (long)b->dv), b->g, dp);
  for (int i = 0; i < b->rows; i += W) {
    vf s = zero();
    for (int j = 0; j < keys; j++) s += load(e + j * ROWS + i) * load(dp + j * ROWS + i);
    add_to_doubles(b->dot + i, s);
  }
}

/* E of a tile that some rows see in part, or whose S lies there already. */
static void weights_of_tile(const Block *b, int t, float *e) {
  const int keys = keys_of_tile(b, t);
  if (b->bounded) logits(b, t, e);
  exponentials(b, t, e);
  if (b->bounded) mask(b, t, e, 0);
  for (int i = 0; i < b->rows; i += W) {
    vf s = zero();
    for (int j = 0; j < keys; j++) s += load(e + j * ROWS + i);
    add_to_doubles(b->sum + i, s);
  }
  if (b->g) values_of_tile(b, t);
}

void OF_SET(weights)(const Block *b, int t0, int t1) {
  const int simple = b->bounded && !b->cap;
  for (int t = t0; t < t1; t++) {
    const int view = seen(b, t), keys = keys_of_tile(b, t);
    float *e = b->e + at_tile(b, t, TILE_FLOATS);
    if (view == NONE) {
      memset(e, 0, 4L * keys * ROWS);
      if (b->g) memset(b->t + at_tile(b, t, TILE_FLOATS), 0, 4L * keys * ROWS);
      continue;
    }
    if (simple && view == ALL) whole_tile(b, t, t + 1 == t1);
    else weights_of_tile(b, t, e);
    /* O^T (dv, ROWS) += V^T E */
    if (b->o)
      product(b->dv, b->rows / W, keys, b->v + at_tile(b, t, KEYS * (long)b->dv), 1, b->dv, e, ROWS, b->o, ROWS, 1);
  }
}

void OF_SET(values)(const Block *b, int t0, int t1) {
  for (int t = t0; t < t1; t++) {
    if (seen(b, t) != NONE) values_of_tile(b, t);
    else memset(b->t + at_tile(b, t, TILE_FLOATS), 0, 4L * keys_of_tile(b, t) * ROWS);
  }
}
