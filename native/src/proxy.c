/*
 * The proxies of the sampled kernel: logits of a block of rows with many keys in a few coordinates, and their
 * powers of two. Rows lie in panels of 16; some keys at once meet a panel in registers. Then the draw of keys by what
 * they are worth, and what each adds to the gradients.
 */
#include <math.h>

#include "operations.h"
#include "processor.h"
#include "simd.h"

/*
 * Coordinates are whole numbers of 16 bits, two in a word: 64 steps to one, so that 4096 steps of their products are one
 * power of two. A processor multiplies and adds twice as many of them as of floats at a time.
 */
static const float STEPS = 64.f, LARGEST_COORDINATE = 32767.f;
static const float STEPS_OF_LOGIT = 4096.f, LARGEST_CONSTANT = 536870912.f; /* two of them fit a word */
/* 3 log2(e): the largest variance of what the coordinates leave out. */
enum { LARGEST_VARIANCE = 17728 };

/*
 * 2^x by the bits of a float: the exponent is x, and the mantissa a straight line between powers, at most 3 % off on
 * either side (N. N. Schraudolph 1999). The weights of a draw need no more. In steps of a logit: the exponent of 1, and
 * how much the line lies above the power on average.
 */
enum { ONE = 127 << 12, ABOVE = 176, LARGEST_SUM = ONE + (100 << 12) };

/* Vectors of a panel, and keys that meet one at once, or two: as many as there are registers for their sums. */
#define VECTORS (16 / W)
#define PANELS (W == 16 ? 2 : 1)
#define KEYS_AT_ONCE (W == 16 ? 8 : W == 8 ? 6 : 4)

static inline int words_of(int c) { return (c + 1) / 2 + 2; }

/* Where vector v of word k of some panels lies. */
INLINE const int32_t *vector_of(const int32_t *x, int words, int k, int v) {
  return x + (long)(v / VECTORS) * 16 * words + 16L * k + v % VECTORS * W;
}

/* to + the products of both halves: one instruction where `fused` says that there is one. */
INLINE vi add_pairs(vi to, vi a, vi b, const int fused) {
#if defined(__AVX512F__) && W == 16
  if (fused) {
    __asm__("vpdpwssd %2, %1, %0" : "+v"(to) : "v"(a), "v"(b));
    return to;
  }
#endif
  (void)fused;
  return to + multiply_pairs(a, b);
}

/* to (key, vector) = s + v / 2^halves + bias for some panels x and `keys` rows of z. */
INLINE void logits(const int keys, const int vectors, int words, const int32_t *x, const int32_t *z, int bias, int halves,
                   const int fused, vi to[][PANELS * VECTORS]) {
  const int pairs = words - 2;
  UNROLL for (int j = 0; j < keys; j++) {
    const int32_t *key = z + (long)j * words + pairs;
    const vi variance = splat_int(key[0]), offset = splat_int(key[1] + bias);
    UNROLL for (int v = 0; v < vectors; v++) {
      const vi product = multiply_pairs(load_int(vector_of(x, words, pairs, v)), variance);
      const vi constants = load_int(vector_of(x, words, pairs + 1, v)) + offset;
      to[j][v] = (smaller_int(product, constant_int(LARGEST_VARIANCE)) >> halves) + constants;
    }
  }
  for (int k = 0; k < pairs; k++) {
    vi a[PANELS * VECTORS];
    UNROLL for (int v = 0; v < vectors; v++) a[v] = load_int(vector_of(x, words, k, v));
    UNROLL for (int j = 0; j < keys; j++) {
      const vi b = splat_int(z[(long)j * words + k]);
      UNROLL for (int v = 0; v < vectors; v++) to[j][v] = add_pairs(to[j][v], a[v], b, fused);
    }
  }
}

/* The float with the exponent x, `largest` at most. */
INLINE vf power_of(vi x, int largest, int shift) {
  return (vf)(larger_int(smaller_int(x, constant_int(largest)), constant_int(0)) << shift);
}

INLINE void add_rows(const int keys, int words, const int32_t *x, const int32_t *z, vf sums[VECTORS]) {
  vi s[KEYS_AT_ONCE][PANELS * VECTORS];
  logits(keys, VECTORS, words, x, z, ONE - ABOVE, 1, 0, s);
  UNROLL for (int j = 0; j < keys; j++)
    UNROLL for (int v = 0; v < VECTORS; v++) sums[v] += power_of(s[j][v], LARGEST_SUM, 11);
}

void OF_SET(proxy_rows)(int rows, int keys, int c, const int32_t *x, const int32_t *z, float *sums) {
  const int words = words_of(c);
  for (; rows > 0; rows -= 16, x += 16L * words, sums += 16) {
    vf total[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) total[v] = load(sums + v * W);
    int j = 0;
    for (; j + KEYS_AT_ONCE <= keys; j += KEYS_AT_ONCE) add_rows(KEYS_AT_ONCE, words, x, z + (long)j * words, total);
    for (; j < keys; j++) add_rows(1, words, x, z + (long)j * words, total);
    UNROLL for (int v = 0; v < VECTORS; v++) store(sums + v * W, total[v]);
  }
}

/* Squares of powers: of twice the exponent. */
INLINE void add_squares(const int keys, const int vectors, int words, const int32_t *x, const int32_t *z,
                        const float *sizes, const int fused, vf *total) {
  vi s[KEYS_AT_ONCE][PANELS * VECTORS];
  logits(keys, vectors, words, x, z, (ONE - ABOVE) / 2, 0, fused, s);
  UNROLL for (int j = 0; j < keys; j++)
    UNROLL for (int v = 0; v < vectors; v++) total[j] += load(sizes + v * W) * power_of(s[j][v], ONE / 2, 12);
}

/* By halves: one number after the other takes as long as some words of a panel. */
INLINE float total_of(vf x) {
#if defined(__AVX512F__) && W == 16
  return _mm512_reduce_add_ps((__m512)x);
#else
  return sum_of(x);
#endif
}

INLINE void weigh_keys(const int keys, int rows, int words, const int32_t *x, const int32_t *z, const float *sizes,
                       const int fused, float *weights) {
  vf total[KEYS_AT_ONCE];
  UNROLL for (int j = 0; j < keys; j++) total[j] = zero();
  for (; rows >= 16 * PANELS; rows -= 16 * PANELS, x += 16L * PANELS * words, sizes += 16 * PANELS)
    add_squares(keys, PANELS * VECTORS, words, x, z, sizes, fused, total);
  for (; rows > 0; rows -= 16, x += 16L * words, sizes += 16)
    add_squares(keys, VECTORS, words, x, z, sizes, fused, total);
  UNROLL for (int j = 0; j < keys; j++) weights[j] = total_of(total[j]);
}

INLINE void weigh_all(int rows, int keys, int c, const int32_t *x, const int32_t *z, const float *sizes,
                      const int fused, float *weights) {
  const int words = words_of(c);
  int j = 0;
  for (; j + KEYS_AT_ONCE <= keys; j += KEYS_AT_ONCE)
    weigh_keys(KEYS_AT_ONCE, rows, words, x, z + (long)j * words, sizes, fused, weights + j);
  for (; j < keys; j++) weigh_keys(1, rows, words, x, z + (long)j * words, sizes, fused, weights + j);
}

void OF_SET(proxy_keys)(int rows, int keys, int c, const int32_t *x, const int32_t *z, const float *sizes,
                        float *weights) {
  if (W == 16 && has_vnni()) weigh_all(rows, keys, c, x, z, sizes, 1, weights);
  else weigh_all(rows, keys, c, x, z, sizes, 0, weights);
}

static float square_of(int n, const float *x) {
  vf s = zero();
  for (; n >= W; n -= W, x += W) s += load(x) * load(x);
  float sum = sum_of(s);
  for (; n; n--, x++) sum += *x * *x;
  return sum;
}

/* The nearest whole number of steps, `largest` at most on either side. */
INLINE int steps_of(float x, float steps, float largest) {
  const float y = steps * x, above = y > -largest ? y : -largest;
  return (int)lrintf(above < largest ? above : largest);
}

/* In the lower and the upper half of a word. */
INLINE int32_t pair_of(float x, float y) {
  return (steps_of(x, STEPS, LARGEST_COORDINATE) & 0xffff) |
         (int32_t)((uint32_t)steps_of(y, STEPS, LARGEST_COORDINATE) << 16);
}

void OF_SET(proxy_coordinates)(int rows, int d, int c, float rest, const float *x, int32_t *out) {
  const int pairs = c / 2, words = words_of(c);
  for (int i = 0; i < rows; i++, x += d + 1, out += words) {
    for (int k = 0; k < pairs; k++) out[k] = pair_of(x[2 * k], x[2 * k + 1]);
    if (c % 2) out[pairs] = pair_of(x[c - 1], 0);
    out[words - 2] = pair_of(rest * square_of(d - c, x + c), 0);
    out[words - 1] = steps_of(x[d], STEPS_OF_LOGIT, LARGEST_CONSTANT);
  }
}

float OF_SET(key_worths)(int n, const float *restrict squares, const float *restrict spread, double *restrict worth) {
  double total[W] = {0};
  int j = 0;
  for (; j + W <= n; j += W)
    UNROLL for (int k = 0; k < W; k++) total[k] += worth[j + k] = spread[j + k] * sqrtf(squares[j + k]);
  for (; j < n; j++) total[0] += worth[j] = spread[j] * sqrtf(squares[j]);
  double sum = 0;
  for (int k = 0; k < W; k++) sum += total[k];
  return (float)sum;
}

float OF_SET(draw_keys)(int n, int room, double share, double even, double scale, double least, double u, const double *worth,
                        int32_t *index, double *probability) {
  int count = 0;
  /* What is left to the next whole number: sums of many keys would lose its digits. */
  for (int k = 0; k < n; k++) {
    double pi = scale * (share * worth[k] + even);
    pi = pi < least ? least : pi < 1 ? pi : 1;
    u += pi;
    if (u < 1) continue;
    u -= 1;
    if (count < room) {
      index[count] = k;
      probability[count] = pi;
    }
    count++;
  }
  return (float)count;
}

/* |x - m|^2 */
static float distance(int n, const float *x, const float *m) {
  vf s = zero();
  for (; n >= W; n -= W, x += W, m += W) {
    const vf off = load(x) - load(m);
    s += off * off;
  }
  float sum = sum_of(s);
  for (; n; n--, x++, m++) sum += (*x - *m) * (*x - *m);
  return sum;
}

void OF_SET(key_squares)(int keys, int n, const float *a, int lda, int p, const float *x, int ldx, float *mean,
                         float *out) {
  float largest = 0;
  for (int j = 0; j < keys; j++) {
    out[j] = square_of(n, a + (long)j * lda);
    largest = out[j] > largest ? out[j] : largest;
  }
  if (!(largest > 0)) return;
  double total = 0;
  memset(mean, 0, 4L * p);
  for (int j = 0; j < keys; j++) {
    const float weight = out[j] / largest, *row = x + (long)j * ldx;
    total += weight;
    for (int c = 0; c < p; c++) mean[c] += weight * row[c];
  }
  for (int c = 0; c < p; c++) mean[c] = (float)(mean[c] / total);
  for (int j = 0; j < keys; j++) out[j] *= distance(p, x + (long)j * ldx, mean);
}

enum { SUMS_OF_SIZE = 8, LEAST_OCTAVE = -100, SIZES = 280 };

/* The half octave that p > 0 is in, from 2^LEAST_OCTAVE on: by its exponent, and whether the rest is above sqrt(2). */
static int size_of(double p) {
  int64_t bits;
  memcpy(&bits, &p, 8);
  const int64_t root_of_2 = 0x6a09e667f3bcd;
  const int size = 2 * ((int)(bits >> 52) - 1023 - LEAST_OCTAVE) + ((bits & 0xfffffffffffff) >= root_of_2);
  return most(0, least(SIZES - 1, size));
}

void OF_SET(add_keys)(int n, double each, double share, double even, const double *worth, const float *a, const float *b,
                      const float *c, double *sums) {
  for (int k = 0; k < n; k++) {
    const double p = share * worth[k] + even, over = each / p;
    if (!(p > 0)) continue;
    double *to = sums + SUMS_OF_SIZE * size_of(p);
    to[0] += each;
    to[1] += each * p;
    to[2] += each * a[k];
    to[3] += each * b[k];
    to[4] += each * c[k];
    to[5] += over * a[k];
    to[6] += over * b[k];
    to[7] += over * c[k];
  }
}
