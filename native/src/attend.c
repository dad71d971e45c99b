/*
 * The attention stage in one call: row blocks of one query head, straight from and to the arrays that all threads share.
 * What is computed, and in which order, is described in workers/kernels/attention/attend.ts, whose loop this is.
 */
#include "row_block.h"

enum {
  TILES_AT_ONCE = 32, /* between two looks at the word that stops, and in one float32 sum over keys */
  OUT_COLUMNS = 16,
};

typedef enum { SCORES, WEIGHTS, VALUES, GRADIENTS } Pass;

static int stopped(const Attention *a) {
  if (a->beat) __atomic_fetch_add(a->beat, 1, __ATOMIC_RELAXED);
  return a->stop && __atomic_load_n(a->stop, __ATOMIC_RELAXED) != 0;
}

/* sums (float64) += x, x = 0. */
static void fold_rows(long n, float *x, double *sums) {
  for (long k = 0; k < n; k++) {
    sums[k] += x[k];
    x[k] = 0;
  }
}

static void run(RowBlock *rows, Block *b, Pass kind, int t0, int t1) {
  const Attention *a = rows->a;
  const int windowed = a->keys > a->window;
  /* Tiles of a window that was left have to be made again: E, with G there dP too. */
  const int again = windowed && kind >= VALUES;
  if (kind == SCORES || (!b->bounded && (again || (windowed && kind == WEIGHTS)))) OF_SET(scores)(b, t0, t1);
  if (kind == WEIGHTS || again) OF_SET(weights)(b, t0, t1);
  if (kind == VALUES && !again) OF_SET(values)(b, t0, t1);
  if (kind != GRADIENTS) return;
  OF_SET(gradients)(b, t0, t1);
  if (a->us) fold_rows((long)ROWS * a->ps, a->rs, a->right_s);
  if (a->uv) fold_rows((long)ROWS * a->pv, a->rv, a->right_v);
}

#define FROM(x, width) ((x) ? (x) + (long)first * (width) : NULL)

/* The keys from `first` on, whose tiles are in memory. */
static Block window_of(const RowBlock *rows, int first) {
  const Attention *a = rows->a;
  Block b = rows->b;
  b.origin = first / KEYS;
  b.k = FROM(a->k, a->d);
  b.v = FROM(a->v, a->dv);
  b.bias = FROM(a->bias, 1);
  b.from = FROM(a->from, 1);
  b.to = FROM(a->to, 1);
  b.us = FROM(a->us, a->ps);
  b.uv = FROM(a->uv, a->pv);
  b.ls = FROM(a->ls, a->ps);
  b.lv = FROM(a->lv, a->pv);
  return b;
}

/* E and E (dP - G.O) of picked rows, (rows, keys): what their gradients were made of. */
static void keep_tiles(const RowBlock *rows, int first, int from, int to) {
  const Attention *a = rows->a;
  for (int i = 0; i < rows->n; i++) {
    const long row = (long)(rows->first + i) * a->keys;
    for (int j = from; j < to; j++) {
      const long at = (long)(j - first) * ROWS + i;
      a->kept_e[row + j] = a->e[at];
      if (a->kept_t) a->kept_t[row + j] = a->t[at];
    }
  }
}

/* Over all tiles that a row sees. Whether it was stopped. */
static int pass(RowBlock *rows, Pass kind, float *g, float *o) {
  const Attention *a = rows->a;
  for (int first = 0; first < a->keys; first += a->window) {
    const int from = most(rows->seen[0], first), to = least(rows->seen[1], first + a->window);
    if (from >= to) continue;
    Block b = window_of(rows, first);
    b.g = g;
    b.o = o;
    const int last = (to + KEYS - 1) / KEYS;
    for (int t = from / KEYS; t < last;) {
      /* Stretches begin where they would without a mask: sums of a row do not depend on its block. */
      const int next = least(last, (t / TILES_AT_ONCE + 1) * TILES_AT_ONCE);
      if (stopped(a)) return 1;
      run(rows, &b, kind, t, next);
      t = next;
    }
    if (kind == GRADIENTS && a->kept_e) keep_tiles(rows, first, from, to);
  }
  return 0;
}

/* out (width, r) += x^T y for x (n, width) and y = r of `pitch` columns of right, over the row sums. */
static void contract_rows(const RowBlock *rows, const double *right, int pitch, int r, const float *x, int width,
                          double *out) {
  const Attention *a = rows->a;
  float packed[ROWS * OUT_COLUMNS];
  for (int first = 0; first < r; first += OUT_COLUMNS) {
    const int wide = least(OUT_COLUMNS, r - first);
    for (int i = 0; i < rows->n; i++) {
      const double scale = inverse(a->sum[i]);
      for (int c = 0; c < OUT_COLUMNS; c++)
        packed[i * OUT_COLUMNS + c] = c < wide ? (float)(right[(long)i * pitch + first + c] * scale) : 0;
    }
    OF_SET(gemm_tn)(width, wide, rows->n, x, width, packed, a->contracted, wide, 0);
    for (int k = 0; k < width; k++)
      for (int c = 0; c < wide; c++) out[(long)k * r + first + c] += a->contracted[k * wide + c];
  }
}

static double norm_of(const double *x, int n) {
  double sum = 0;
  for (int k = 0; k < n; k++) sum += x[k] * x[k];
  return sqrt(sum);
}

static double norm_of_floats(const float *x, int n) {
  double sum = 0;
  for (int k = 0; k < n; k++) sum += (double)x[k] * x[k];
  return sqrt(sum);
}

/* Norms weigh draws of rows: a sum of them is to stay finite. */
static float weight_of(double norm) { return (float)(norm < 0x1p100 ? norm : 0x1p100); }

/* Keeps dS K B_Q or dS K, and adds Q^T (dS X^K A_K^T) and G^T (P X^V A_V^T). */
static void keep_right(const RowBlock *rows) {
  const Attention *a = rows->a;
  const int ps = a->us ? a->ps : 0;
  for (int i = 0; i < rows->n; i++) {
    const long row = row_at(rows, i);
    const double scale = inverse(a->sum[i]);
    const double carried = scale * norm_of(a->right_s + (long)i * ps, ps);
    const double q = norm_of_floats(a->q_rows + (long)i * a->d, a->d);
    a->norm_s[row] = weight_of(carried);
    a->norm_qs[row] = weight_of(carried * q);
    a->norm_dq[row] = a->t ? weight_of(fabs(a->mean[i]) * q) : 0;
    for (int c = 0; c < a->right; c++) a->right_q[row * a->right + c] = (float)(a->right_s[(long)i * ps + c] * scale);
  }
  if (a->rk) contract_rows(rows, a->right_s + a->rq, ps, a->rk, a->q_rows, a->d, a->out_k);
  if (a->rv_rank) contract_rows(rows, a->right_v, a->pv, a->rv_rank, a->g_rows, a->dv, a->out_v);
}

/* What the rows add to the gradient of the head's sink: -P_sink G.O. */
static void add_sink_gradients(const RowBlock *rows) {
  const Attention *a = rows->a;
  if (a->sink == -INFINITY || !has_objective(a)) return;
  for (int i = 0; i < rows->n; i++) {
    /* Of keys that stand for others the sum may lack the largest: a row would then be all sink. */
    const int by_client = a->bias && knows_sums(a);
    const double p = by_client ? exp2(a->sink - known_sum(rows, i)) : exp2(a->sink - a->max[i]) / a->sum[i];
    const double of_row = a->mean[i] != 0 ? -p * a->mean[i] : 0;
    *a->sink_gradient += of_row;
    a->norm_sink[row_at(rows, i)] = weight_of(fabs(of_row));
  }
}

/* Whether it was stopped. */
static int attend_rows(RowBlock *rows) {
  const Attention *a = rows->a;
  double sums[ROWS];
  load_rows(rows);
  /* Where G is there from the start, dP of a tile is made while its weights are in registers. */
  const int loaded = load_upstream(rows);
  float *g = a->t ? a->g_packed : NULL;
  if (!rows->b.bounded && pass(rows, SCORES, g, a->o)) return 1;
  add_sinks(rows);
  if (pass(rows, WEIGHTS, loaded ? g : NULL, a->o)) return 1;
  memcpy(sums, a->sum, sizeof sums);
  if (a->o) take_output(rows);
  if (g && !loaded && pass(rows, VALUES, g, NULL)) return 1;
  memcpy(a->sum, sums, sizeof sums);
  if (a->us) clear(a->right_s, 8L * ROWS * a->ps);
  if (a->uv) clear(a->right_v, 8L * ROWS * a->pv);
  if (g || a->pv) divide_by_sums(rows);
  if (a->ps + a->pv && pass(rows, GRADIENTS, g, NULL)) return 1;
  memcpy(a->sum, sums, sizeof sums);
  find_contradiction(rows);
  if (a->picked) return 0;
  keep_right(rows);
  add_sink_gradients(rows);
  return 0;
}

float OF_SET(attend)(const Attention *a, int first, int last, int step) {
  for (int block = first; block < last; block += step) {
    RowBlock rows = {.a = a, .first = block * ROWS, .n = least(ROWS, a->rows - block * ROWS), .cap = (float)a->cap};
    rows.seen = a->seen + 3L * block;
    rows.b = (Block){
        .rows = (rows.n + 15) & ~15,
        .first_row = (int)row_at(&rows, 0),
        .keys = rows.seen[1],
        /* Where a row has a single key its weight is to be 1, so that dS is exactly 0. */
        .bounded = rows.seen[2] ? 0 : a->bounded ? 1 : knows_sums(a) ? 2 : 0,
        .d = a->d, .dv = a->dv, .ps = a->ps, .pv = a->pv,
        .q = a->q_packed, .e = a->e, .t = a->t, .slope = a->slope, .cap = a->cap ? &rows.cap : NULL,
        .max = a->max, .sum = a->sum, .dot = a->dot, .mean = a->mean,
        .ws = a->ws, .wv = a->wv, .rs = a->rs, .rv = a->rv,
    };
    if (attend_rows(&rows)) return 1;
  }
  return 0;
}
