/* One pass over maps, element by element or channel by channel. Outputs may be inputs. */

#include "vmath.h"

#define PARALLEL_FOR _Pragma("omp parallel for schedule(static) if (count > PARALLEL_WORTH)")

/* y = x where x > 0, leak * x elsewhere.  p: x, y.  n: elements.  s: leak. */
KERNEL(relu)
{
    const num *x = p[0];
    num *y = p[1];
    const int64_t count = n[0];
    const float leak = (float)s[0];
    PARALLEL_FOR
    for (int64_t i = 0; i < count; i += LANES) {
        int64_t left = count - i;
        vf a = load_left(x + i, left), leaked = leak == 0 ? (vf){} : leak * a;
        store_left(y + i, where(a <= 0, leaked, a), left);
    }
}

/* dzdx = dzdy where y > 0, leak * dzdy elsewhere.
   p: y, dzdy, dzdx.  n: elements, add.  s: leak. */
KERNEL(relu_backward)
{
    const num *y = p[0], *dzdy = p[1];
    num *dzdx = p[2];
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
    const num *x = p[0];
    num *y = p[1];
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
    const num *y = p[0], *dzdy = p[1];
    num *dzdx = p[2];
    const int64_t count = n[0], add = n[1];
    PARALLEL_FOR
    for (int64_t i = 0; i < count; i += LANES) {
        int64_t left = count - i;
        vf a = load_left(y + i, left), der = load_left(dzdy + i, left) * (1 - a) * a;
        if (add) der += load_left(dzdx + i, left);
        store_left(dzdx + i, der, left);
    }
}

/* y = sum of maps, rectified if wanted.  p: y, the maps.  n: elements, number of maps, relu. */
KERNEL(add)
{
    num *y = p[0];
    const int64_t count = n[0];
    PARALLEL_FOR
    for (int64_t i = 0; i < count; i += LANES) {
        int64_t left = count - i;
        vf sum = {};
        for (int64_t k = 1; k <= n[1]; k++) sum += load_left((const num *)p[k] + i, left);
        if (n[2]) sum = where(sum <= 0, (vf){}, sum);
        store_left(y + i, sum, left);
    }
}

/* y[i ...] = a, or y + a; 0 where the mask is not positive. Of a vector, or the first `left`. */
static inline void put(num *y, vf a, const num *mask, int64_t add, int64_t i, int64_t left)
{
    if (add) a += load_left(y + i, left);
    if (mask) a = where(load_left(mask + i, left) <= 0, (vf){}, a);
    store_left(y + i, a, left);
}

/* The same for some elements of x. */
static void hand_over(const num *x, num *y, const num *mask, int64_t add, int64_t count)
{
    int64_t i = 0;
    if (!mask && !add) memmove(y, x, sizeof(num) * count);
    else {
        for (; i + LANES <= count; i += LANES) put(y, load(x + i), mask, add, i, LANES);
        for (; i < count; i++) put(y, load_some(x + i, 1), mask, add, i, 1);
    }
}

/* p: x, y, mask or NULL.  n: rows, numbers of a row of y and the mask, numbers from row to row of x,
   add. */
KERNEL(copy_rows)
{
    const num *x = p[0], *mask = p[2];
    num *y = p[1];
    const int64_t count = n[0] * n[1];
    PARALLEL_FOR
    for (int64_t row = 0; row < n[0]; row++)
        hand_over(x + row * n[2], y + row * n[1], mask ? mask + row * n[1] : NULL, n[3], n[1]);
}

/* Stretches of one map.  p: x, y, mask or NULL.  n: elements, add. */
KERNEL(copy)
{
    const num *x = p[0], *mask = p[2];
    num *y = p[1];
    const int64_t count = n[0], size = 4096;
    PARALLEL_FOR
    for (int64_t i = 0; i < count; i += size)
        hand_over(x + i, y + i, mask ? mask + i : NULL, n[1], least(size, count - i));
}

/* Join rows of channels.  p: y, the maps.  n: rows, number of maps, channels of y, of each map. */
KERNEL(concat)
{
    num *y = p[0];
    const int64_t count = n[0] * n[2];
    PARALLEL_FOR
    for (int64_t row = 0; row < n[0]; row++) {
        num *to = y + row * n[2];
        for (int64_t k = 0; k < n[1]; k++) {
            memcpy(to, (const num *)p[1 + k] + row * n[3 + k], sizeof(num) * n[3 + k]);
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
    const num *x = p[0];
    const float *u = p[1];
    uint8_t *bits = p[2];
    num *y = p[3];
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
        for (int64_t i = 0; i < left; i += LANES)
            store_left(y + block + i, load(factors + i) * load_left(x + block + i, left - i), left - i);
    }
}

/* p: bits, dzdy, dzdx, mask or NULL.  n: elements, add.  s: scale. */
KERNEL(dropout_backward)
{
    const uint8_t *bits = p[0];
    const num *dzdy = p[1], *mask = p[3];
    num *dzdx = p[2];
    const int64_t count = n[0];
    PARALLEL_FOR
    for (int64_t block = 0; block < count; block += BLOCK) {
        float der[BLOCK];
        int64_t left = least(BLOCK, count - block);
        factors_of(bits + block / 8, der, (float)s[0]);
        for (int64_t i = 0; i < left; i += LANES)
            store(der + i, load(der + i) * load_left(dzdy + block + i, left - i));
        for (int64_t i = 0; i < left; i += LANES)
            put(dzdx, load(der + i), mask, n[1], block + i, left - i);
    }
}

/* The sum of every channel.  p: rows of channels, sums.  n: rows, channels.
   Some rows at a time are summed in float, the sums of these in double. */
KERNEL(channel_sums)
{
    const num *a = p[0];
    float *sums = p[1];
    const int64_t channels = n[1], count = n[0] * channels, some = 128;
    PARALLEL_FOR
    for (int64_t c = 0; c < channels; c += LANES) {
        const int64_t first = most(0, least(c, channels - LANES)); /* the last overlap the others */
        const int64_t left = channels - first;
        double totals[LANES] = {0};
        for (int64_t row = 0; row < n[0]; row += some) {
            const num *from = a + row * channels + first;
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

#ifndef HALF /* they are about both types of maps */

/* y = x, of bfloat16 numbers.  p: x, y.  n: elements. */
KERNEL(widen)
{
    const bf16 *x = p[0];
    float *y = p[1];
    const int64_t count = n[0];
    PARALLEL_FOR
    for (int64_t i = 0; i < count; i += LANES) {
        int64_t left = count - i;
        store_left(y + i, load_left(x + i, left), left);
    }
}

/* y = x, rounded to bfloat16.  p: x, y.  n: elements. */
KERNEL(narrow)
{
    const float *x = p[0];
    bf16 *y = p[1];
    const int64_t count = n[0];
    PARALLEL_FOR
    for (int64_t i = 0; i < count; i += LANES) {
        int64_t left = count - i;
        store_left(y + i, load_left(x + i, left), left);
    }
}

#endif
