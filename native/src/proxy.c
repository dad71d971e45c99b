/*
 * The proxies of the sampled kernel: logits of a block of rows with many keys in a few coordinates, and their
 * powers of two. Rows lie in panels of 16; some keys at once meet a panel in registers. Then the draw of keys by what
 * they are worth, and what each adds to the gradients.
 */
#include <math.h>

#include "operations.h"
#include "simd.h"

/* 3 log2(e): the largest variance of what the coordinates leave out. */
static const float LARGEST_VARIANCE = 4.328085f;

/*
 * 2^x by the bits of a float: the exponent is x, and the mantissa a straight line between powers, at most 3 % off on
 * either side (N. N. Schraudolph 1999). The weights of a draw need no more.
 */
static const float ONE_BITS = 1065353216.f; /* of 1: 127 2^23 */
static const float OFF_BITS = 360710.f;     /* that the line lies above the power on average */
static const float EXPONENT = 8388608.f;    /* of an exponent that is larger by 1: 2^23 */

/* Vectors of a panel, and keys that meet it at once: eight sums and more leave no unit idle. */
#define VECTORS (16 / W)
#define KEYS_AT_ONCE (W == 16 ? 8 : 4)

/* 2^(factor x), `largest` in bits at most. */
INLINE vf line(vf x, float factor, float largest) {
  const vf bits = x * constant(factor * EXPONENT) + constant(ONE_BITS - OFF_BITS);
  return (vf)__builtin_convertvector(larger(smaller(bits, constant(largest)), zero()), vi);
}

/* to (key, vector) = s + share v for a panel x and `keys` rows of z. */
INLINE void logits(const int keys, int c, const float *x, const float *z, float share, vf to[][VECTORS]) {
  const int width = c + 2;
  const float *row = x + 16L * c;
  UNROLL for (int j = 0; j < keys; j++)
    UNROLL for (int v = 0; v < VECTORS; v++) {
      const vf product = load(row + 16 + v * W) * constant(z[(long)j * width + c + 1]);
      const vf variance = smaller(product, constant(LARGEST_VARIANCE));
      to[j][v] = load(row + v * W) + constant(z[(long)j * width + c]) + variance * constant(share);
    }
  for (int k = 0; k < c; k++) {
    vf a[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) a[v] = load(x + 16L * k + v * W);
    UNROLL for (int j = 0; j < keys; j++) {
      const vf b = splat(z + (long)j * width + k);
      UNROLL for (int v = 0; v < VECTORS; v++) to[j][v] += a[v] * b;
    }
  }
}

INLINE void add_rows(const int keys, int c, const float *x, const float *z, vf sums[VECTORS]) {
  vf s[KEYS_AT_ONCE][VECTORS];
  logits(keys, c, x, z, .5f, s);
  UNROLL for (int j = 0; j < keys; j++)
    UNROLL for (int v = 0; v < VECTORS; v++) sums[v] += line(s[j][v], 1, ONE_BITS + 100 * EXPONENT);
}

void OF_SET(proxy_rows)(int rows, int keys, int c, const float *x, const float *z, float *sums) {
  const long width = c + 2;
  for (; rows > 0; rows -= 16, x += 16 * width, sums += 16) {
    vf total[VECTORS];
    UNROLL for (int v = 0; v < VECTORS; v++) total[v] = load(sums + v * W);
    int j = 0;
    for (; j + KEYS_AT_ONCE <= keys; j += KEYS_AT_ONCE) add_rows(KEYS_AT_ONCE, c, x, z + j * width, total);
    for (; j < keys; j++) add_rows(1, c, x, z + j * width, total);
    UNROLL for (int v = 0; v < VECTORS; v++) store(sums + v * W, total[v]);
  }
}

INLINE void weigh_keys(const int keys, int rows, int c, const float *x, const float *z, const float *sizes,
                       float *weights) {
  vf total[KEYS_AT_ONCE];
  UNROLL for (int j = 0; j < keys; j++) total[j] = zero();
  for (int i = 0; i < rows; i += 16, x += 16L * (c + 2)) {
    vf s[KEYS_AT_ONCE][VECTORS];
    logits(keys, c, x, z, 1.f, s);
    UNROLL for (int j = 0; j < keys; j++)
      UNROLL for (int v = 0; v < VECTORS; v++) total[j] += load(sizes + i + v * W) * line(s[j][v], 2, ONE_BITS);
  }
  UNROLL for (int j = 0; j < keys; j++) weights[j] = sum_of(total[j]);
}

void OF_SET(proxy_keys)(int rows, int keys, int c, const float *x, const float *z, const float *sizes,
                        float *weights) {
  const long width = c + 2;
  int j = 0;
  for (; j + KEYS_AT_ONCE <= keys; j += KEYS_AT_ONCE)
    weigh_keys(KEYS_AT_ONCE, rows, c, x, z + j * width, sizes, weights + j);
  for (; j < keys; j++) weigh_keys(1, rows, c, x, z + j * width, sizes, weights + j);
}

static float square_of(int n, const float *x) {
  vf s = zero();
  for (; n >= W; n -= W, x += W) s += load(x) * load(x);
  float sum = sum_of(s);
  for (; n; n--, x++) sum += *x * *x;
  return sum;
}

void OF_SET(proxy_coordinates)(int rows, int d, int c, float rest, const float *x, float *out) {
  for (int i = 0; i < rows; i++, x += d + 1, out += c + 2) {
    memcpy(out, x, 4L * c);
    out[c] = x[d];
    out[c + 1] = rest * square_of(d - c, x + c);
  }
}

float OF_SET(key_worths)(int n, const float *restrict squares, const float *restrict spread, double *restrict worth) {
  double total = 0;
  for (int j = 0; j < n; j++) {
    worth[j] = spread[j] * sqrtf(squares[j]);
    total += worth[j];
  }
  return (float)total;
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
