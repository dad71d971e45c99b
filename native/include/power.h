/* Powers of two: x = n + f with n the nearest integer; 2^f is a polynomial and n is added to its exponent. */
#pragma once
#include "simd.h"

/* Adding it rounds to an integer, which then stands in the low bits of the sum: 1.5 * 2^23. */
static const float ROUNDING = 12582912.f;

/* 2^x for |x| < 126: minimax polynomial of degree 6, relative error 2e-9 (1.3 ulp when rounded). */
INLINE vf power(vf x) {
  const vf t = x + constant(ROUNDING);
  const vf f = x - (t - constant(ROUNDING));
  vf p = constant(1.53533620e-4f) * f + constant(1.33988750e-3f);
  p = p * f + constant(9.61843692e-3f);
  p = p * f + constant(5.55033237e-2f);
  p = p * f + constant(2.40226477e-1f);
  p = p * f + constant(6.93147182e-1f);
  p = p * f + constant(1.f);
  return (vf)((vi)p + ((vi)t << 23));
}

/*
 * 2^x for x <= 0, and 0 below 2^-100, also for minus infinity: in a row whose largest weight is 1 that is far below
 * one rounding, and products stay clear of denormal numbers.
 */
INLINE vf power_of_difference(vf x) { return (vf)((vi)power(x) & (x >= constant(-100.f))); }
