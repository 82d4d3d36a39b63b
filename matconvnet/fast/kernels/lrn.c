/* Local response normalisation in one pass over memory.

   A few pixels at a time are copied to rows in the cache that have room for the windows on both
   sides, filled with zeros, so that a sum over channels is a sum of shifted loads. */

#include "vmath.h"

/* Numbers n of both kernels: 0 pixels, 1 channels, 2 channels of a window before and 3 after its
   own, 4 parts that the pixels are split into, 5 pixels at a time, 6 floats from row to row,
   7 floats of room before the first row, 8 floats of workspace for a part, 9 add.
   Scalars s: kappa, alpha, beta. */

#define INLINE static inline __attribute__((always_inline))

/* L^-beta, and L^-1 where `inverse` is given; both 0 where L is 0. roots: beta is 3/4. */
INLINE vf power(vf energy, float beta, int roots, vf *inverse)
{
    vf result;
    if (roots) {
        vf root = vsqrt(energy), fourth = vsqrt(root);
        result = 1.0f / (root * fourth);
        if (inverse) *inverse = result * (result * root);
    } else {
        result = vexp(-beta * vlog(energy));
        if (inverse) *inverse = 1.0f / energy;
    }
    vi none = energy == 0.0f;
    if (inverse) *inverse = where(none, (vf){}, *inverse);
    return where(none, (vf){}, result);
}

/* The sum of the vectors that start `before` places before a ... `after` places after it. */
INLINE vf window_sum(const float *a, int64_t before, int64_t after)
{
    vf sum = load(a);
    if (before == 2 && after == 2) /* the usual ones, without a loop */
        return sum + (load(a - 2) + load(a - 1)) + (load(a + 1) + load(a + 2));
    for (int64_t o = 1; o <= before; o++) sum += load(a - o);
    for (int64_t o = 1; o <= after; o++) sum += load(a + o);
    return sum;
}

/* Squares of `count` pixels, into rows. */
static void square(const num *x, float *rows, int64_t count, const int64_t *n)
{
    for (int64_t i = 0; i < count; i++)
        for (int64_t c = 0; c < n[1]; c += LANES) {
            vf a = load_left(x + i * n[1] + c, n[1] - c);
            store_left(rows + i * n[6] + c, a * a, n[1] - c);
        }
}

INLINE void forward(const num *x, num *y, const float *squares, int64_t count,
                    const int64_t *n, const double *s, int roots)
{
    const float kappa = (float)s[0], alpha = (float)s[1], beta = (float)s[2];
    for (int64_t i = 0; i < count; i++)
        for (int64_t c = 0; c < n[1]; c += LANES) {
            vf sum = window_sum(squares + i * n[6] + c, n[2], n[3]);
            vf a = load_left(x + i * n[1] + c, n[1] - c);
            a *= power(sum * alpha + kappa, beta, roots, NULL);
            store_left(y + i * n[1] + c, a, n[1] - c);
        }
}

/* p: x, y, workspace of n[4] * n[8] floats. */
KERNEL(lrn_forward)
{
#pragma omp parallel for schedule(static) if (n[4] > 1)
    for (int64_t part = 0; part < n[4]; part++) {
        const num *x = p[0];
        num *y = p[1];
        float *squares = (float *)p[2] + part * n[8];
        memset(squares, 0, 4 * n[8]);
        int64_t end = (part + 1) * n[0] / n[4];
        for (int64_t i = part * n[0] / n[4]; i < end; i += n[5]) {
            int64_t count = least(n[5], end - i);
            square(x + i * n[1], squares + n[7], count, n);
            const num *from = x + i * n[1];
            if (s[2] == 0.75) forward(from, y + i * n[1], squares + n[7], count, n, s, 1);
            else forward(from, y + i * n[1], squares + n[7], count, n, s, 0);
        }
    }
}

/* scaled = dzdy * L^-beta,  weights = scaled * x / L, in rows. */
INLINE void weigh(const num *x, const num *dzdy, const float *squares, float *scaled,
                  float *weights, int64_t count, const int64_t *n, const double *s, int roots)
{
    const float kappa = (float)s[0], alpha = (float)s[1], beta = (float)s[2];
    for (int64_t i = 0; i < count; i++)
        for (int64_t c = 0; c < n[1]; c += LANES) {
            vf inverse, sum = window_sum(squares + i * n[6] + c, n[2], n[3]);
            vf der = power(sum * alpha + kappa, beta, roots, &inverse);
            der *= load_left(dzdy + i * n[1] + c, n[1] - c);
            store_left(scaled + i * n[6] + c, der, n[1] - c);
            vf a = load_left(x + i * n[1] + c, n[1] - c);
            store_left(weights + i * n[6] + c, der * a * inverse, n[1] - c);
        }
}

/* dzdx = scaled - 2 * alpha * beta * x * sum of the weights of the windows that contain it. */
static void backward(const num *x, const float *scaled, const float *weights, num *dzdx,
                     const num *mask, int64_t count, const int64_t *n, const double *s)
{
    const float factor = (float)(-2 * s[1] * s[2]);
    for (int64_t i = 0; i < count; i++)
        for (int64_t c = 0; c < n[1]; c += LANES) {
            int64_t at = i * n[1] + c, left = n[1] - c;
            vf sum = window_sum(weights + i * n[6] + c, n[3], n[2]);
            vf der = load(scaled + i * n[6] + c) + factor * load_left(x + at, left) * sum;
            if (n[9]) der += load_left(dzdx + at, left);
            if (mask) der = where(load_left(mask + at, left) <= 0, (vf){}, der);
            store_left(dzdx + at, der, left);
        }
}

/* p: x, dzdy, dzdx, mask or NULL, workspace of n[4] * 3 * n[8] floats. */
KERNEL(lrn_backward)
{
#pragma omp parallel for schedule(static) if (n[4] > 1)
    for (int64_t part = 0; part < n[4]; part++) {
        const num *x = p[0], *dzdy = p[1], *mask = p[3];
        num *dzdx = p[2];
        float *space = (float *)p[4] + 3 * part * n[8];
        float *squares = space + n[7], *scaled = squares + n[8], *weights = scaled + n[8];
        memset(space, 0, 12 * n[8]);
        int64_t end = (part + 1) * n[0] / n[4];
        for (int64_t i = part * n[0] / n[4]; i < end; i += n[5]) {
            int64_t count = least(n[5], end - i), at = i * n[1];
            square(x + at, squares, count, n);
            if (s[2] == 0.75)
                weigh(x + at, dzdy + at, squares, scaled, weights, count, n, s, 1);
            else weigh(x + at, dzdy + at, squares, scaled, weights, count, n, s, 0);
            backward(x + at, scaled, weights, dzdx + at, mask ? mask + at : NULL, count, n, s);
        }
    }
}
