/* The fused multiply-adds that a core can do at best: nothing but them, on registers. */
#include "simd.h"

/* @returns how many floating-point operations it did. */
double OF_SET(peak)(long rounds) {
  enum { CHAINS = MR * NV };
  vf sums[CHAINS];
  _Pragma("GCC unroll 32") for (int i = 0; i < CHAINS; i++) sums[i] = constant(i);
  const volatile float factor = 0.5f, term = 1.f;
  const vf x = constant(factor), y = constant(term);
  for (long k = 0; k < rounds; k++) _Pragma("GCC unroll 32") for (int i = 0; i < CHAINS; i++) sums[i] = sums[i] * x + y;
  vf all = zero();
  _Pragma("GCC unroll 32") for (int i = 0; i < CHAINS; i++) all += sums[i];
  /* Used, or it would not be computed. */
  return sum_of(all) > 0 ? 2. * CHAINS * W * rounds : 0;
}
