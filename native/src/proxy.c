/*
 * The proxies of the sampled kernel: logits of a block of rows with many keys in a few coordinates, and their
 * powers of two. Keys lie in panels of 16 and meet four rows at once in registers. Then the draw of keys by what they
 * are worth, and what each adds to the gradients.
 */
#include <math.h>

#include "operations.h"
#include "processor.h"
#include "simd.h"

/*
 * Coordinates are whole numbers of 8 bits, four in a word, which processors multiply and add at once: at level 0 of a
 * panel 16 steps to one, so that 256 steps of their products are one power of two, and half as many at each level above.
 */
enum { LEVELS = 7, LARGEST_BYTE = 127 };
static const float STEPS = 16.f, STEPS_OF_LOGIT = 256.f, LARGEST_CONSTANT = 33554432.f;
/* Two of them make 3 log2(e): the largest variance of what the coordinates leave out. */
static const float LARGEST_REST = 2.08f;

/*
 * 2^x by the bits of a float: the exponent is x, and the mantissa a straight line between powers, at most 3 % off on
 * either side (N. N. Schraudolph 1999). The weights of a draw need no more. In steps of a logit: the exponent of 1, and
 * how much the line lies above the power on average.
 */
enum { ONE = 127 << 8, ABOVE = 12, LARGEST_SUM = ONE + (100 << 8) };

/* Rows of a block, of a panel, of those that meet a key at once; and words of bytes of a row: 67 coordinates. */
enum { BLOCK = 64, PANEL = 16, GROUP = 4, MOST_WORDS = 17 };

/* Words of a row that hold bytes: those of its coordinates and one of what they leave out. Its constant and its level follow. */
static inline int words_of(int c) { return (c + 4) / 4; }

/* The rows of a block, as they meet keys whose bytes count from 128 below. */
typedef struct {
  int words, level[BLOCK / PANEL];
  /* Bytes as they are, and the even and the odd ones as pairs of 16 bits. */
  int32_t all[MOST_WORDS][BLOCK], even[MOST_WORDS][BLOCK], odd[MOST_WORDS][BLOCK];
  /* By level of the keys: the constant, and what these bytes count too much. */
  int32_t start[LEVELS][BLOCK];
} block;

/* `halves`: how often what the coordinates leave out is halved. */
static void lay_out(int rows, int c, const int32_t *x, int halves, block *to) {
  const int words = words_of(c);
  to->words = words;
  for (int i = 0; i < rows; i++) {
    const int32_t *row = x + (long)(i / PANEL) * PANEL * (words + 2) + i % PANEL;
    const int level = row[PANEL * (words + 1)];
    int sum = 0;
    for (int k = 0; k < words; k++) {
      int8_t b[4];
      memcpy(b, row + PANEL * k, 4);
      if (k == c / 4) b[c % 4] = (int8_t)(b[c % 4] >> halves);
      memcpy(&to->all[k][i], b, 4);
      to->even[k][i] = (b[0] & 0xffff) | (int32_t)((uint32_t)b[2] << 16);
      to->odd[k][i] = (b[1] & 0xffff) | (int32_t)((uint32_t)b[3] << 16);
      sum += b[0] + b[1] + b[2] + b[3];
    }
    to->level[i / PANEL] = level;
    for (int l = 0; l < LEVELS; l++) to->start[l][i] = (row[PANEL * words] >> (level + l)) - 128 * sum;
  }
}

/* A vector of keys: where it lies in its panel. */
typedef struct {
  const int32_t *at;
  int level;
} key_vector;

INLINE key_vector keys_at(const int32_t *z, int words, long key) {
  const int32_t *panel = z + key / PANEL * PANEL * (words + 2);
  return (key_vector){panel + key % PANEL, panel[PANEL * (words + 1)]};
}

/* to (row, vector) = the logits of four rows and some vectors of keys without the constants of these, in units of their levels. */
INLINE void logits(const int vectors, const block *b, int row, const key_vector *keys, const int fused, vi to[GROUP][2]) {
  UNROLL for (int v = 0; v < vectors; v++)
    UNROLL for (int i = 0; i < GROUP; i++) to[i][v] = splat_int(b->start[keys[v].level][row + i]);
  for (int k = 0; k < b->words; k++) {
    vi key[2];
    UNROLL for (int v = 0; v < vectors; v++)
      key[v] = load_int(keys[v].at + PANEL * k) ^ constant_int((int32_t)0x80808080);
#if defined(__AVX512F__) && W == 16
    if (fused) {
      UNROLL for (int i = 0; i < GROUP; i++) {
        const vi bytes = splat_int(b->all[k][row + i]);
        UNROLL for (int v = 0; v < vectors; v++)
          __asm__("vpdpbusd %2, %1, %0" : "+v"(to[i][v]) : "v"(key[v]), "v"(bytes));
      }
      continue;
    }
#endif
    (void)fused;
    const vi low = constant_int(0xff00ff);
    UNROLL for (int i = 0; i < GROUP; i++) {
      const vi even = splat_int(b->even[k][row + i]), odd = splat_int(b->odd[k][row + i]);
      UNROLL for (int v = 0; v < vectors; v++)
        to[i][v] += multiply_pairs(key[v] & low, even) + multiply_pairs(key[v] >> 8 & low, odd);
    }
  }
}

/* The float with the exponent x, `largest` at most. */
INLINE vf power_of(vi x, vi largest, int shift) {
  return (vf)(larger_int(smaller_int(x, largest), constant_int(0)) << shift);
}

/* Which of the keys from `key` on are in [first, last): 1 or 0 each. */
INLINE vf inside(long key, long first, long last) {
  vf x;
  UNROLL for (int k = 0; k < W; k++) x[k] = key + k >= first && key + k < last;
  return x;
}

void OF_SET(proxy_rows)(int rows, int first, int last, int step, int c, const int32_t *x, const int32_t *z, float *sums) {
  block b;
  lay_out(rows, c, x, 1, &b);
  for (int row = 0; row < rows; row += GROUP) {
    vf total[GROUP];
    UNROLL for (int i = 0; i < GROUP; i++) total[i] = zero();
    for (long panel = first / PANEL * PANEL; panel < last; panel += (long)PANEL * step) {
      for (long key = panel; key < panel + PANEL; key += W) {
        const key_vector keys = keys_at(z, b.words, key);
        const vi offset = load_int(keys.at + PANEL * b.words) + constant_int(ONE - ABOVE);
        const int whole = key >= first && key + W <= last;
        const vf seen = whole ? constant(1) : inside(key, first, last);
        vi s[GROUP][2];
        logits(1, &b, row, &keys, 0, s);
        UNROLL for (int i = 0; i < GROUP; i++)
          total[i] += seen * power_of((s[i][0] << (keys.level + b.level[row / PANEL])) + offset, constant_int(LARGEST_SUM), 15);
      }
    }
    for (int i = 0; i < GROUP; i++) sums[row + i] += sum_of(total[i]);
  }
}

/* Squares of powers, of twice the exponent, of the largest of four rows at a time. */
INLINE void weigh(const int vectors, int rows, const block *b, const int32_t *z, long key, const int32_t *caps, float size,
                  const int fused, float *weights) {
  key_vector keys[2];
  vi offset[2];
  vf total[2];
  UNROLL for (int v = 0; v < vectors; v++) {
    keys[v] = keys_at(z, b->words, key + v * W);
    offset[v] = load_int(keys[v].at + PANEL * b->words) + constant_int((ONE - ABOVE) / 2);
    total[v] = zero();
  }
  for (int row = 0; row < rows; row += GROUP) {
    vi s[GROUP][2];
    logits(vectors, b, row, keys, fused, s);
    const vi cap = splat_int(caps[row / GROUP] + ONE / 2);
    UNROLL for (int v = 0; v < vectors; v++) {
      const vi most = larger_int(larger_int(s[0][v], s[1][v]), larger_int(s[2][v], s[3][v]));
      total[v] += power_of((most << (keys[v].level + b->level[row / PANEL])) + offset[v], cap, 16);
    }
  }
  UNROLL for (int v = 0; v < vectors; v++) store(weights + v * W, constant(size) * total[v]);
}

INLINE void weigh_all(int rows, int keys, const block *b, const int32_t *z, const int32_t *caps, float size,
                      const int fused, float *weights) {
  long key = 0;
  for (; key + 2 * W <= keys; key += 2 * W) weigh(2, rows, b, z, key, caps, size, fused, weights + key);
  for (; key < keys; key += W) weigh(1, rows, b, z, key, caps, size, fused, weights + key);
}

void OF_SET(proxy_keys)(int rows, int keys, int c, float size, const int32_t *x, const int32_t *z, const int32_t *caps,
                        float *weights) {
  block b;
  lay_out(rows, c, x, 0, &b);
  if (W == 16 && has_vnni()) weigh_all(rows, keys, &b, z, caps, size, 1, weights);
  else weigh_all(rows, keys, &b, z, caps, size, 0, weights);
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

void OF_SET(proxy_coordinates)(int rows, int d, int c, float rest, const float *x, int32_t *out) {
  const int words = words_of(c);
  for (; rows > 0; rows -= PANEL, x += (long)PANEL * (d + 1), out += PANEL * (words + 2)) {
    const int n = least(rows, PANEL);
    float largest = 0;
    for (int i = 0; i < n; i++)
      for (int k = 0; k < c; k++) {
        const float y = fabsf(x[(long)i * (d + 1) + k]);
        largest = y > largest ? y : largest;
      }
    int level = 0;
    float steps = STEPS;
    for (; level < LEVELS - 1 && steps * largest > LARGEST_BYTE; level++) steps /= 2;
    memset(out, 0, 4L * PANEL * (words + 2));
    for (int i = 0; i < n; i++) {
      const float *row = x + (long)i * (d + 1);
      int8_t b[4 * MOST_WORDS] = {0};
      for (int k = 0; k < c; k++) b[k] = (int8_t)steps_of(row[k], steps, LARGEST_BYTE);
      const float left = rest * square_of(d - c, row + c);
      b[c] = (int8_t)steps_of(left < LARGEST_REST ? left : LARGEST_REST, steps, LARGEST_BYTE);
      for (int k = 0; k < words; k++) memcpy(out + PANEL * k + i, b + 4 * k, 4);
      out[PANEL * words + i] = steps_of(row[d], STEPS_OF_LOGIT, LARGEST_CONSTANT);
    }
    for (int i = 0; i < PANEL; i++) out[PANEL * (words + 1) + i] = level;
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
