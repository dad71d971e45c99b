/*
 * Vectors of W floats in the vector extensions of gcc and clang: one source, compiled once for each instruction
 * set, with W and SUFFIX of its own (AVX-512: 16, AVX2: 8, NEON: 4).
 */
#pragma once
#include <stdint.h>
#include <string.h>
#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifdef W
/* Given: wider vectors than the registers are, to test a set where there is none. */
#elif defined(__AVX512F__)
#define W 16
#elif defined(__AVX2__)
#define W 8
#else
#define W 4
#endif

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)
/* Name of a function that exists once for each instruction set. */
#define OF_SET(name) JOIN(name, SUFFIX)

#define UNROLL _Pragma("GCC unroll 16")
#define INLINE static inline __attribute__((always_inline))
#define APART static __attribute__((noinline))

/* Any address of a float (double) will do, and any other type may lie there. */
typedef float vf __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(4 * W), aligned(4), may_alias));
typedef double vd __attribute__((vector_size(4 * W), aligned(8), may_alias)); /* W / 2 of them */
typedef float half_vf __attribute__((vector_size(2 * W), aligned(4), may_alias));
typedef float v8f __attribute__((vector_size(32), aligned(4), may_alias));

#if W == 16
#define SPLAT(x) ((vf){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x})
#define SPLAT_INT(x) ((vi){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x})
#define SPLAT_DOUBLE(x) ((vd){x, x, x, x, x, x, x, x})
#elif W == 8
#define SPLAT(x) ((vf){x, x, x, x, x, x, x, x})
#define SPLAT_INT(x) ((vi){x, x, x, x, x, x, x, x})
#define SPLAT_DOUBLE(x) ((vd){x, x, x, x})
#else
#define SPLAT(x) ((vf){x, x, x, x})
#define SPLAT_INT(x) ((vi){x, x, x, x})
#define SPLAT_DOUBLE(x) ((vd){x, x})
#endif
#define SPLAT_8(x) ((v8f){x, x, x, x, x, x, x, x})

/* Rows (MR) and vectors (NV) of a tile of a product: its sums leave registers for two operands. */
#if W == 16
#define MR 12
#define NV 2
#elif W == 4 && defined(__aarch64__)
#define MR 6
#define NV 4
#else
#define MR 6
#define NV 2
#endif

INLINE vf load(const float *p) { return *(const vf *)p; }
INLINE void store(float *p, vf x) { *(vf *)p = x; }
INLINE vd load_double(const double *p) { return *(const vd *)p; }
INLINE vf zero(void) { return (vf){0}; }
INLINE vf constant(float x) { return SPLAT(x); }

INLINE vf splat(const float *p) {
  const float x = *p;
  vf y = SPLAT(x);
#if defined(__AVX512F__) || (defined(__x86_64__) && W < 16)
  /* One broadcast for all its uses: embedded in each of them it is loaded as often. */
  __asm__("" : "+v"(y));
#endif
  return y;
}

INLINE vf choose(vi yes, vf a, vf b) { return (vf)((yes & (vi)a) | (~yes & (vi)b)); }
/* The second where either is not a number. Compilers make three instructions of a choice that is one. */
#if defined(__AVX512F__) && W == 16
INLINE vf larger(vf a, vf b) { return (vf)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE vf smaller(vf a, vf b) { return (vf)_mm512_min_ps((__m512)a, (__m512)b); }
#elif defined(__AVX2__) && W == 8
INLINE vf larger(vf a, vf b) { return (vf)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE vf smaller(vf a, vf b) { return (vf)_mm256_min_ps((__m256)a, (__m256)b); }
#else
INLINE vf larger(vf a, vf b) { return choose(a > b, a, b); }
INLINE vf smaller(vf a, vf b) { return choose(a < b, a, b); }
#endif

/* Vectors of whole numbers, and of pairs of them: of 16 bits, two in a word. */
INLINE vi load_int(const int32_t *p) { return *(const vi *)p; }
INLINE vi constant_int(int32_t x) { return SPLAT_INT(x); }
INLINE vi splat_int(int32_t x) {
  vi y = SPLAT_INT(x);
#if defined(__AVX512F__) || (defined(__x86_64__) && W < 16)
  __asm__("" : "+v"(y));
#endif
  return y;
}
#if defined(__AVX512BW__) && W == 16
INLINE vi larger_int(vi a, vi b) { return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b); }
INLINE vi smaller_int(vi a, vi b) { return (vi)_mm512_min_epi32((__m512i)a, (__m512i)b); }
/* The products of both halves, added up. */
INLINE vi multiply_pairs(vi a, vi b) { return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b); }
#elif defined(__AVX2__) && W == 8
INLINE vi larger_int(vi a, vi b) { return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b); }
INLINE vi smaller_int(vi a, vi b) { return (vi)_mm256_min_epi32((__m256i)a, (__m256i)b); }
INLINE vi multiply_pairs(vi a, vi b) { return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b); }
#else
INLINE vi larger_int(vi a, vi b) { return (vi)choose(a > b, (vf)a, (vf)b); }
INLINE vi smaller_int(vi a, vi b) { return (vi)choose(a < b, (vf)a, (vf)b); }
INLINE vi multiply_pairs(vi a, vi b) { return (a << 16 >> 16) * (b << 16 >> 16) + (a >> 16) * (b >> 16); }
#endif

INLINE float sum_of(vf x) {
  float s = 0;
  UNROLL for (int i = 0; i < W; i++) s += x[i];
  return s;
}
INLINE double sum_of_doubles(vd x) {
  double s = 0;
  UNROLL for (int i = 0; i < W / 2; i++) s += x[i];
  return s;
}
INLINE float largest_of(vf x) {
  float m = x[0];
  UNROLL for (int i = 1; i < W; i++) m = x[i] > m ? x[i] : m;
  return m;
}
INLINE vd widen_half(const float *p) { return __builtin_convertvector(*(const half_vf *)p, vd); }

/* to (W) += x in float64: sums of tiles keep their digits. */
INLINE void add_to_doubles(double *to, vf x) {
  UNROLL for (int i = 0; i < W; i++) to[i] += (double)x[i];
}

static inline int least(int a, int b) { return a < b ? a : b; }
static inline int most(int a, int b) { return a > b ? a : b; }
