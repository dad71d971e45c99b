/*
 * What a block of query rows brings along to its passes over the tiles, and what it leaves: Q, the upstream gradient G and
 * the left thin factors; the output, the sums over the keys and the figures that tell whether the client's forward pass
 * was another one.
 */
#pragma once
#include <math.h>

#include "block.h"

static const double LOG2_OF_E = 1.4426950408889634;

typedef struct {
  const Attention *a;
  Block b;
  int first, n; /* rows of the head, or of the list of picked ones */
  const int32_t *seen; /* first key that a row sees, the one after the last, whether a row sees one only */
  float cap;
} RowBlock;

/* Absent arrays have no elements. */
static inline void clear(void *x, long bytes) {
  if (bytes) memset(x, 0, bytes);
}

static inline double inverse(double sum) { return sum > 0 ? 1 / sum : 0; }

static inline long row_at(const RowBlock *rows, int i) {
  const int32_t *picked = rows->a->picked;
  return picked ? picked[rows->first + i] : rows->first + i;
}

/* Tensors are float32 or float64. */
static inline double element(const float *single, const double *wide, long at) {
  return single ? single[at] : wide[at];
}

/* x (n, width) as rows of `pitch` floats, filled up with zeros. */
static void pad_rows(int n, int width, const float *x, float *to, int pitch) {
  for (int i = 0; i < n; i++, x += width, to += pitch) {
    memcpy(to, x, 4L * width);
    clear(to + width, 4L * (pitch - width));
  }
}

/* log2 of the sum of e^S in row i, as the client knows it. */
static double known_sum(const RowBlock *rows, int i) {
  return LOG2_OF_E * element(rows->a->known_sum, rows->a->known_sum_wide, row_at(rows, i));
}
static int knows_sums(const Attention *a) { return a->known_sum || a->known_sum_wide; }
static int knows_output(const Attention *a) { return a->known_output || a->known_output_wide; }
static int has_objective(const Attention *a) { return a->upstream || a->upstream_wide; }

/* Q (packed, times beta log2 e, so that weights are powers of two); ws = [Q B_K | X^Q A_Q^T] or Q. */
static void load_rows(RowBlock *rows) {
  const Attention *a = rows->a;
  const int n = rows->n, d = a->d, ps = a->ps, rq = a->rq, rk = a->rk;
  for (int i = 0; i < n; i++) memcpy(a->q_rows + (long)i * d, a->q + row_at(rows, i) * d, 4L * d);
  OF_SET(pack_transposed)(n, d, a->q_rows, d, (float)a->scale, a->q_packed);
  clear(a->ws, 4L * ROWS * ps);
  if (a->full_dk) pad_rows(n, d, a->q_rows, a->ws, ps);
  if (rk) OF_SET(gemm)(n, rk, d, a->q_rows, d, a->bk, a->ws, ps, 0);
  if (rq)
    for (int i = 0; i < n; i++) memcpy(a->ws + (long)i * ps + rk, a->low_q + row_at(rows, i) * rq, 4L * rq);
  for (int i = 0; i < ROWS; i++) {
    const int known = rows->b.bounded == 2;
    a->max[i] = !known ? (float)a->sink : i < n ? (float)known_sum(rows, i) : 0;
    a->sum[i] = a->dot[i] = 0;
  }
  clear(a->rs, 4L * ROWS * ps);
  clear(a->rv, 4L * ROWS * a->pv);
  if (a->o) clear(a->o, 4L * ROWS * a->dv);
}

/* G lies in g_rows (n, dv): packed; wv = G B_V or G; its norms. */
static void pack_upstream(RowBlock *rows) {
  const double largest_square = 0x1p120; /* norms weigh draws of rows: a sum of them is to stay finite */
  const Attention *a = rows->a;
  const int n = rows->n, dv = a->dv, pv = a->pv;
  /* `mean` is free until the row sums are known. */
  OF_SET(row_dots)(n, dv, a->g_rows, a->g_rows, a->mean);
  for (int i = 0; i < n && !a->picked; i++) {
    const double square = a->mean[i];
    a->norm_g[row_at(rows, i)] = (float)sqrt(square < largest_square ? square : largest_square);
  }
  OF_SET(pack_transposed)(n, dv, a->g_rows, dv, 1, a->g_packed);
  clear(a->wv, 4L * ROWS * pv);
  if (a->full_dv) pad_rows(n, dv, a->g_rows, a->wv, pv);
  if (a->rv_rank) OF_SET(gemm)(n, a->rv_rank, dv, a->g_rows, dv, a->bv, a->wv, pv, 0);
}

/* G as given, or O - Y with O from the client. Whether it is there. */
static int load_upstream(RowBlock *rows) {
  const Attention *a = rows->a;
  const int minus = a->is_target && knows_output(a) && !a->o;
  if (!has_objective(a) || (a->is_target && !minus)) return 0;
  double loss = 0;
  for (int i = 0; i < rows->n; i++) {
    const long at = row_at(rows, i) * a->pitch;
    float *g = a->g_rows + (long)i * a->dv;
    for (int c = 0; c < a->dv; c++) {
      const double y = element(a->upstream, a->upstream_wide, at + c);
      const double x = minus ? element(a->known_output, a->known_output_wide, at + c) - y : y;
      g[c] = (float)x;
      if (minus) loss += 0.5 * x * x;
    }
  }
  *a->loss += loss;
  pack_upstream(rows);
  return 1;
}

/* The output, if anyone asked for it; with a target Y then G = O - Y, without an objective the loss is that of Y = 0. */
static void take_output(RowBlock *rows) {
  const Attention *a = rows->a;
  const int given = has_objective(a), differ = !given || a->is_target;
  double loss = 0;
  for (int i = 0; i < rows->n; i++) {
    const double scale = inverse(a->sum[i]);
    const long at = row_at(rows, i) * a->pitch;
    float *g = a->g_rows + (long)i * a->dv;
    for (int c = 0; c < a->dv; c++) {
      const double value = a->o[(long)c * ROWS + i] * scale;
      if (a->output) a->output[at + c] = (float)value;
      if (!differ) continue;
      const double x = given ? value - (float)element(a->upstream, a->upstream_wide, at + c) : value;
      g[c] = (float)x;
      loss += 0.5 * x * x;
    }
  }
  *a->loss += loss;
  if (given && a->is_target) pack_upstream(rows);
}

/* The sink's share in the row sums, in which E are weights relative to the row maxima or, bounded, to 0. */
static void add_sinks(RowBlock *rows) {
  const Attention *a = rows->a;
  if (a->sink == -INFINITY) return;
  const int bounded = rows->b.bounded == 1;
  for (int i = 0; i < rows->n; i++) a->sum[i] = exp2(a->sink - (bounded ? 0 : a->max[i]));
  for (int i = 0; i < rows->n && bounded; i++) a->max[i] = 0;
}

/* G.O = sum E dP / sum E, and the left factors take the division of P = E / sum E. */
static void divide_by_sums(RowBlock *rows) {
  const Attention *a = rows->a;
  for (int i = 0; i < ROWS; i++) a->mean[i] = i < rows->n ? (float)(a->dot[i] * inverse(a->sum[i])) : 0;
  for (int i = 0; i < rows->n; i++) {
    const double scale = inverse(a->sum[i]);
    for (long c = (long)i * a->ps; c < (i + 1L) * a->ps; c++) a->ws[c] = (float)(a->ws[c] * scale);
    for (long c = (long)i * a->pv; c < (i + 1L) * a->pv; c++) a->wv[c] = (float)(a->wv[c] * scale);
  }
}

static void contradict(const RowBlock *rows, int kind, int i) {
  if (rows->a->contradiction[0]) return;
  rows->a->contradiction[0] = kind;
  rows->a->contradiction[1] = (int32_t)row_at(rows, i);
}

/* As findContradiction of workers/kernels/attention/rows.ts, which says what the limits are. */
static void find_contradiction(const RowBlock *rows) {
  const Attention *a = rows->a;
  const int bounded = rows->b.bounded == 1, dv = a->dv;
  if (a->bias) return;
  for (int i = 0; i < rows->n && knows_sums(a); i++) {
    if (a->sum[i] == 0) continue;
    const double log = log2(a->sum[i]) + (bounded ? 0 : a->max[i]);
    if (!(fabs(log - known_sum(rows, i)) <= 1)) return contradict(rows, 1, i);
  }
  if (!a->is_target || !knows_output(a) || a->o || !a->t) return;
  for (int i = 0; i < rows->n; i++) {
    double dot = 0, gg = 0, oo = 0;
    for (int c = 0; c < dv; c++) {
      const double g = a->g_rows[(long)i * dv + c];
      const double o = element(a->known_output, a->known_output_wide, row_at(rows, i) * a->pitch + c);
      dot += g * o;
      gg += g * g;
      oo += o * o;
    }
    if (!(fabs(dot - a->mean[i]) <= 0x1p-5 * sqrt(gg * oo))) return contradict(rows, 2, i);
  }
}
