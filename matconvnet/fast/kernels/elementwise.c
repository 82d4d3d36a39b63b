/* One pass over maps, element by element or channel by channel. Outputs may be inputs. */

#include "vmath.h"

#define PARALLEL_FOR _Pragma("omp parallel for schedule(static) if (count > PARALLEL_WORTH)")
#define PARALLEL_SIMD _Pragma("omp parallel for simd schedule(static) if (count > PARALLEL_WORTH)")

/* y = x where x > 0, leak * x elsewhere.  p: x, y.  n: elements.  s: leak. */
KERNEL(relu)
{
    const float *x = p[0];
    float *y = p[1];
    const int64_t count = n[0];
    const float leak = (float)s[0];
    if (leak == 0) {
        PARALLEL_SIMD
        for (int64_t i = 0; i < count; i++) y[i] = x[i] <= 0 ? 0 : x[i];
    } else {
        PARALLEL_SIMD
        for (int64_t i = 0; i < count; i++) y[i] = x[i] <= 0 ? leak * x[i] : x[i];
    }
}

/* dzdx = dzdy where y > 0, leak * dzdy elsewhere.
   p: y, dzdy, dzdx.  n: elements, add.  s: leak. */
KERNEL(relu_backward)
{
    const float *y = p[0], *dzdy = p[1];
    float *dzdx = p[2];
    const int64_t count = n[0];
    const float leak = (float)s[0];
    const int64_t add = n[1];
    PARALLEL_FOR
    for (int64_t i = 0; i < count; i += LANES) {
        int64_t left = count - i;
        vf der = load_left(dzdy + i, left), leaked = leak == 0 ? (vf){} : leak * der;
        der = where(load_left(y + i, left) <= 0, leaked, der);
        if (add) der += load_left(dzdx + i, left);
        store_left(dzdx + i, der, left);
    }
}

/* y = 1 / (1 + e^-x).  p: x, y.  n: elements. */
KERNEL(sigmoid)
{
    const float *x = p[0];
    float *y = p[1];
    const int64_t count = n[0];
    PARALLEL_FOR
    for (int64_t i = 0; i < count; i += LANES) {
        int64_t left = count - i;
        store_left(y + i, 1.0f / (1.0f + vexp(-load_left(x + i, left))), left);
    }
}

/* dzdx = dzdy * y * (1 - y).  p: y, dzdy, dzdx.  n: elements, add. */
KERNEL(sigmoid_backward)
{
    const float *y = p[0], *dzdy = p[1];
    float *dzdx = p[2];
    const int64_t count = n[0];
    if (n[1]) {
        PARALLEL_SIMD
        for (int64_t i = 0; i < count; i++) dzdx[i] += dzdy[i] * (1 - y[i]) * y[i];
    } else {
        PARALLEL_SIMD
        for (int64_t i = 0; i < count; i++) dzdx[i] = dzdy[i] * (1 - y[i]) * y[i];
    }
}

/* y = sum of maps, rectified if wanted.  p: y, the maps.  n: elements, number of maps, relu. */
KERNEL(add)
{
    float *y = p[0];
    const int64_t count = n[0];
    PARALLEL_FOR
    for (int64_t i = 0; i < count; i += LANES) {
        int64_t left = count - i;
        vf sum = {};
        for (int64_t k = 1; k <= n[1]; k++) sum += load_left((const float *)p[k] + i, left);
        if (n[2]) sum = where(sum <= 0, (vf){}, sum);
        store_left(y + i, sum, left);
    }
}

/* y = x, or y + x; 0 where the mask is not positive. */
static void hand_over(const float *x, float *y, const float *mask, int64_t add, int64_t count)
{
    if (!mask && !add) memmove(y, x, 4 * count);
    else if (!mask)
#pragma omp simd
        for (int64_t i = 0; i < count; i++) y[i] += x[i];
    else if (!add)
#pragma omp simd
        for (int64_t i = 0; i < count; i++) y[i] = mask[i] <= 0 ? 0 : x[i];
    else
#pragma omp simd
        for (int64_t i = 0; i < count; i++) y[i] = mask[i] <= 0 ? 0 : y[i] + x[i];
}

/* p: x, y, mask or NULL.  n: rows, floats of a row of y and the mask, floats from row to row of x,
   add. */
KERNEL(copy_rows)
{
    const float *x = p[0], *mask = p[2];
    float *y = p[1];
    const int64_t count = n[0] * n[1];
    PARALLEL_FOR
    for (int64_t row = 0; row < n[0]; row++)
        hand_over(x + row * n[2], y + row * n[1], mask ? mask + row * n[1] : NULL, n[3], n[1]);
}

/* Stretches of one map.  p: x, y, mask or NULL.  n: elements, add. */
KERNEL(copy)
{
    const float *x = p[0], *mask = p[2];
    float *y = p[1];
    const int64_t count = n[0], size = 4096;
    PARALLEL_FOR
    for (int64_t i = 0; i < count; i += size)
        hand_over(x + i, y + i, mask ? mask + i : NULL, n[1], least(size, count - i));
}

/* Join rows of channels.  p: y, the maps.  n: rows, number of maps, channels of y, of each map. */
KERNEL(concat)
{
    float *y = p[0];
    const int64_t count = n[0] * n[2];
    PARALLEL_FOR
    for (int64_t row = 0; row < n[0]; row++) {
        float *to = y + row * n[2];
        for (int64_t k = 0; k < n[1]; k++) {
            memcpy(to, (const float *)p[1 + k] + row * n[3 + k], 4 * n[3 + k]);
            to += n[3 + k];
        }
    }
}

/* A mask of dropout has a bit for each element: bit b of byte j of a block of BLOCK elements
   belongs to element BYTES * b + j. */
#define BYTES 16
#define BLOCK (8 * BYTES)

/* The mask of one block of `count` elements from its bits, as factors: 0 or `scale`. */
static inline void factors_of(const uint8_t *bits, float *factors, float scale)
{
    for (int b = 0; b < 8; b++)
        for (int j = 0; j < BYTES; j++) factors[BYTES * b + j] = bits[j] >> b & 1 ? scale : 0;
}

/* Keep where u >= rate, scaled.  p: x, u, bits, y.  n: elements.  s: rate, scale. */
KERNEL(dropout_forward)
{
    const float *x = p[0], *u = p[1];
    uint8_t *bits = p[2];
    float *y = p[3];
    const int64_t count = n[0];
    const float rate = (float)s[0], scale = (float)s[1];
    PARALLEL_FOR
    for (int64_t block = 0; block < count; block += BLOCK) {
        float draws[BLOCK], factors[BLOCK];
        uint8_t *own = bits + block / 8;
        int64_t left = least(BLOCK, count - block);
        memcpy(draws, u + block, 4 * left);
        for (int64_t i = left; i < BLOCK; i++) draws[i] = rate;
        for (int j = 0; j < BYTES; j++) own[j] = 0;
        for (int b = 0; b < 8; b++)
            for (int j = 0; j < BYTES; j++) own[j] |= (draws[BYTES * b + j] >= rate) << b;
        factors_of(own, factors, scale);
#pragma omp simd
        for (int64_t i = 0; i < left; i++) y[block + i] = factors[i] * x[block + i];
    }
}

/* p: bits, dzdy, dzdx, mask or NULL.  n: elements, add.  s: scale. */
KERNEL(dropout_backward)
{
    const uint8_t *bits = p[0];
    const float *dzdy = p[1], *mask = p[3];
    float *dzdx = p[2];
    const int64_t count = n[0];
    PARALLEL_FOR
    for (int64_t block = 0; block < count; block += BLOCK) {
        float der[BLOCK];
        int64_t left = least(BLOCK, count - block);
        factors_of(bits + block / 8, der, (float)s[0]);
#pragma omp simd
        for (int64_t i = 0; i < left; i++) der[i] *= dzdy[block + i];
        hand_over(der, dzdx + block, mask ? mask + block : NULL, n[1], left);
    }
}

/* y = multiplier * x + bias of every channel, rectified if wanted.
   p: x, multipliers, biases, y.  n: rows, channels, relu. */
KERNEL(scale_bias)
{
    const float *x = p[0], *multipliers = p[1], *biases = p[2];
    float *y = p[3];
    const int64_t channels = n[1], count = n[0] * channels;
    const float least_value = n[2] ? 0 : -INFINITY;
    PARALLEL_FOR
    for (int64_t row = 0; row < n[0]; row++) {
        const int64_t at = row * channels;
#pragma omp simd
        for (int64_t c = 0; c < channels; c++) {
            float a = x[at + c] * multipliers[c] + biases[c];
            y[at + c] = a <= least_value ? least_value : a;
        }
    }
}

/* The sum of every channel.  p: rows of channels, sums.  n: rows, channels.
   Some rows at a time are summed in float, the sums of these in double. */
KERNEL(channel_sums)
{
    const float *a = p[0];
    float *sums = p[1];
    const int64_t channels = n[1], count = n[0] * channels, some = 128;
    PARALLEL_FOR
    for (int64_t c = 0; c < channels; c += LANES) {
        const int64_t first = most(0, least(c, channels - LANES)); /* the last overlap the others */
        const int64_t left = channels - first;
        double totals[LANES] = {0};
        for (int64_t row = 0; row < n[0]; row += some) {
            const float *from = a + row * channels + first;
            int64_t rows = least(some, n[0] - row), i = 0;
            vf sum = {}, other = {}, third = {}, fourth = {}; /* to wait for no addition */
            for (; i + 4 <= rows; i += 4, from += 4 * channels) {
                sum += load_left(from, left);
                other += load_left(from + channels, left);
                third += load_left(from + 2 * channels, left);
                fourth += load_left(from + 3 * channels, left);
            }
            for (; i < rows; i++, from += channels) sum += load_left(from, left);
            sum += other + third + fourth;
            for (int j = 0; j < LANES; j++) totals[j] += sum[j];
        }
        for (int64_t j = c; j < least(c + LANES, channels); j++) sums[j] = (float)totals[j - first];
    }
}
