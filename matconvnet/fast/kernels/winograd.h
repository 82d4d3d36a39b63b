/* Convolutions with 3 x 3 filters by Winograd's algorithm F(4x4, 3x3): 36 multiplications for 16
   outputs instead of 144 (Lavin and Gray, "Fast algorithms for convolutional neural networks").

   A tile of 4 x 4 outputs reads 6 x 6 inputs. With the transforms of its rows and columns

       V = B' x B,  U = G f G',  y = A' (sum over channels of U .* V) A

   the sum is a matrix product (tiles x channels) . (channels x filters) for each of 36 numbers.
   The points are 0, +-sqrt(1/2), +-sqrt(2), infinity: their rounding errors are a fifth of those
   of 0, +-1, +-2. The derivatives use the transposed transforms. */

#ifndef MATCONVNET_WINOGRAD_H
#define MATCONVNET_WINOGRAD_H

#include <omp.h>

#include "kernel.h"

#define POINTS 36
#define ROWS (LANES == 16 ? 14 : 6)    /* tiles of a product that stays in registers */
#define WIDTH (2 * LANES)              /* its filters, and those of a panel of U */

static const float P = 0.70710678f, Q = 1.41421356f; /* the points, with P * Q = 1 */

/* The transforms of a row. */

static inline void transform_input(const vf d[6], vf t[6]) /* B' */
{
    vf even = d[4] - d[2] * 2, odd = (d[3] - d[1] * 2) * P;
    t[0] = d[0] - d[2] * 2.5f + d[4];
    t[1] = even + odd;
    t[2] = even - odd;
    even = d[4] - d[2] * 0.5f, odd = (d[3] - d[1] * 0.5f) * Q;
    t[3] = even + odd;
    t[4] = even - odd;
    t[5] = d[1] - d[3] * 2.5f + d[5];
}

static inline void transform_output(const vf m[6], vf y[4]) /* A' */
{
    vf even = m[1] + m[2], odd = (m[1] - m[2]) * P, EVEN = m[3] + m[4], ODD = (m[3] - m[4]) * Q;
    y[0] = m[0] + even + EVEN;
    y[1] = odd + ODD;
    y[2] = even * 0.5f + EVEN * 2;
    y[3] = odd * 0.5f + ODD * 2 + m[5];
}

static inline void transform_output_der(const vf y[4], vf t[6]) /* A */
{
    vf even = y[0] + y[2] * 0.5f, odd = (y[1] + y[3] * 0.5f) * P;
    t[0] = y[0];
    t[1] = even + odd;
    t[2] = even - odd;
    even = y[0] + y[2] * 2, odd = (y[1] + y[3] * 2) * Q;
    t[3] = even + odd;
    t[4] = even - odd;
    t[5] = y[3];
}

static inline void transform_filter(const vf f[3], vf t[6]) /* G */
{
    vf even = (f[0] + f[2] * 0.5f) * (-2.f / 3), odd = f[1] * (-2.f / 3 * P);
    t[0] = f[0];
    t[1] = even + odd;
    t[2] = even - odd;
    even = (f[0] + f[2] * 2) * (1.f / 6), odd = f[1] * (1.f / 6 * Q);
    t[3] = even + odd;
    t[4] = even - odd;
    t[5] = f[2];
}

static inline void transform_filter_der(const vf t[6], vf f[3]) /* G' */
{
    vf even = (t[1] + t[2]) * (-2.f / 3), EVEN = (t[3] + t[4]) * (1.f / 6);
    f[0] = t[0] + even + EVEN;
    f[1] = (t[1] - t[2]) * (-2.f / 3 * P) + (t[3] - t[4]) * (1.f / 6 * Q);
    f[2] = even * 0.5f + EVEN * 2 + t[5];
}

/* The sizes of a convolution with stride 1: x is H W C, y is Y X K, for `batch` images. */
typedef struct {
    int64_t batch, H, W, C, K, top, left, Y, X, across, down, tiles;
} shape;

static inline shape shape_of(const int64_t *n)
{
    shape s = {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], 0, 0, 0};
    s.down = (s.Y + 3) / 4, s.across = (s.X + 3) / 4, s.tiles = s.batch * s.down * s.across;
    return s;
}

static inline int64_t vectors(int64_t count) { return (count + LANES - 1) / LANES; }

/* Floats between two of the 36 numbers: an odd count of cache lines, so that 36 numbers of one
   tile lie in 36 sets of the cache. */
static inline int64_t odd(int64_t count) { return (vectors(count) | 1) * LANES; }

static inline vf load_first(const float *a, int64_t count)
{
    return count >= LANES ? load(a) : load_some(a, count);
}

static inline void store_first(float *a, vf v, int64_t count)
{
    if (count >= LANES) store(a, v);
    else store_some(a, v, count);
}

/* Where the size x size pixels of a map (H W C) from (row, column) are; `zeros` outside. */
static inline void find_pixels(const float *map, int64_t H, int64_t W, int64_t C, int64_t row,
                               int64_t column, int size, const float *zeros, const float **at)
{
    for (int i = 0; i < size; i++)
        for (int j = 0; j < size; j++) {
            int64_t y = row + i, x = column + j;
            int inside = y >= 0 && y < H && x >= 0 && x < W;
            at[size * i + j] = inside ? map + (y * W + x) * C : zeros;
        }
}

/* The 36 numbers of the 6 x 6 pixels `at`, for `count` channels from c on, are written to v,
   `between` floats apart. */
static inline __attribute__((always_inline)) void vector_of_input(const float *const *at, int64_t c,
                                                                  int64_t count, float *v,
                                                                  int64_t between)
{
    vf columns[6][6], d[6], t[6];
#pragma GCC unroll 6
    for (int j = 0; j < 6; j++) {
        for (int i = 0; i < 6; i++) d[i] = load_first(at[6 * i + j] + c, count);
        transform_input(d, t);
        for (int i = 0; i < 6; i++) columns[i][j] = t[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) {
        transform_input(columns[i], t);
        for (int j = 0; j < 6; j++) store(v + (6 * i + j) * between, t[j]);
    }
}

/* Write the 36 numbers of tile t of x, channels [first, last), `between` floats apart: a vector of
   channels to v, the next to v + step, ... */
static inline void tile_of_input(const shape *s, const float *x, int64_t tile, int64_t first, int64_t last,
                          const float *zeros, float *v, int64_t step, int64_t between)
{
    const float *at[36];
    int64_t n = tile / (s->down * s->across), row = tile / s->across % s->down, c = first;
    find_pixels(x + n * s->H * s->W * s->C, s->H, s->W, s->C, 4 * row - s->top,
                4 * (tile % s->across) - s->left, 6, zeros, at);
    for (; c + LANES <= last; c += LANES, v += step) vector_of_input(at, c, LANES, v, between);
    if (c < last) vector_of_input(at, c, last - c, v, between);
}

/* A function for every even count of rows, and both widths. */
#if LANES == 16
#define EACH_ROWS(DO) DO(2) DO(4) DO(6) DO(8) DO(10) DO(12) DO(14)
#else
#define EACH_ROWS(DO) DO(2) DO(4) DO(6)
#endif
#define EVEN(rows) (((rows) + 1) / 2 * 2)

#endif
