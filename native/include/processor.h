/* Which instruction sets the processor has and the operating system saves. */
#pragma once
#include <stdint.h>

#if defined(__x86_64__)
#include <cpuid.h>

/* By hand: __builtin_cpu_supports needs a part of the compiler's library that not every compiler links. */
static inline uint64_t saved_registers(void) {
  uint32_t low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return ((uint64_t)high << 32) | low;
}

enum { SAVES_256 = 0x6, SAVES_512 = 0xe6 };

static inline int has_features(uint32_t of_leaf_7, uint64_t saves) {
  const uint32_t of_leaf_1 = bit_OSXSAVE | bit_FMA | bit_AVX;
  uint32_t a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c & of_leaf_1) != of_leaf_1) return 0;
  if ((saved_registers() & saves) != saves) return 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & of_leaf_7) == of_leaf_7;
}

static inline int has_avx2(void) { return has_features(bit_AVX2 | bit_BMI | bit_BMI2, SAVES_256); }

static inline int has_avx512(void) {
  const uint32_t sets = bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL | bit_AVX512CD;
  return has_features(sets | bit_AVX2 | bit_BMI | bit_BMI2, SAVES_512);
}

/* Whether AVX-512 multiplies pairs of 16 bits and adds them up in one instruction: asked once. */
static inline int has_vnni(void) {
  static int known;
  if (!known) {
    uint32_t a, b, c = 0, d;
    known = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (c & bit_AVX512VNNI) ? 1 : -1;
  }
  return known > 0;
}
#else
static inline int has_vnni(void) { return 0; }
/* Part of the 64-bit ARM architecture. */
static inline int has_neon(void) { return 1; }
#endif
