/* exp, log, powers and roots of vectors, within about 2 units in the last place.

   The polynomials are those of Cephes (expf.c, logf.c; S. L. Moshier). */

#ifndef MATCONVNET_VMATH_H
#define MATCONVNET_VMATH_H

#include <math.h>

#include "kernel.h"

/* log(2) in two parts: a whole number below 2^15 times the first is exact. */
#define LOG2_HIGH 0.693359375f
#define LOG2_LOW -2.12194440e-4f

static inline vf smaller(vf a, vf b) { return where(a < b, a, b); }

/* Exact roots; the loop becomes one instruction. */
static inline vf vsqrt(vf x)
{
    vf root;
    for (int i = 0; i < LANES; i++) root[i] = __builtin_sqrtf(x[i]);
    return root;
}

/* 2^k for -126 <= k <= 127. */
static inline vf power_of_two(vi k) { return (vf)((k + 127) << 23); }

/* e^x; 0 below the smallest number, infinite above the largest, NaN for NaN. */
static inline vf vexp(vf x)
{
    const float to_whole = 12582912.0f; /* 1.5 * 2^23: what is added to it is rounded to a whole */
    x = where(x < -104.0f, all(-104.0f), where(x > 89.0f, all(89.0f), x));
    vf shifted = x * 1.44269504088896341f + to_whole;
    vf whole = shifted - to_whole;
    vi k = (vi)shifted - 0x4B400000;
    vf r = x - whole * LOG2_HIGH - whole * LOG2_LOW;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * (r * r) + r + 1.0f;
    vi half = k >> 1; /* 2^k in two factors: k reaches from -150 to 128 */
    return p * power_of_two(half) * power_of_two(k - half);
}

/* The natural logarithm; -infinite at 0, NaN below. */
static inline vf vlog(vf x)
{
    vi tiny = x < 1.17549435e-38f;
    vf scaled = where(tiny, x * 8388608.0f, x); /* 2^23: makes denormal numbers normal */
    vi bits = (vi)scaled - 0x3F3504F3;          /* the bits of sqrt(1/2) */
    vi exponent = bits >> 23;
    vf r = (vf)((bits & 0x007FFFFF) + 0x3F3504F3) - 1.0f; /* in sqrt(1/2) - 1 ... sqrt(2) - 1 */
    vf e = __builtin_convertvector(exponent - (tiny & 23), vf);
    vf p = r * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * r + 1.1676998740e-1f;
    p = p * r - 1.2420140846e-1f;
    p = p * r + 1.4249322787e-1f;
    p = p * r - 1.6668057665e-1f;
    p = p * r + 2.0000714765e-1f;
    p = p * r - 2.4999993993e-1f;
    p = p * r + 3.3333331174e-1f;
    vf square = r * r;
    vf y = p * (r * square) + e * LOG2_LOW - 0.5f * square;
    y = (r + y) + e * LOG2_HIGH;
    y = where(x == 0.0f, all(-INFINITY), y);
    y = where(x < 0.0f, all(NAN), y);
    return where((x == INFINITY) | (x != x), x, y);
}

#endif
