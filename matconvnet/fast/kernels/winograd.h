/* Convolutions with 3 x 3 and 5 x 5 filters by Winograd's algorithm: F(4x4, 3x3) takes 36
   multiplications for 16 outputs instead of 144, F(2x2, 5x5) for 4 outputs instead of 100 (Lavin
   and Gray, "Fast algorithms for convolutional neural networks").

   A tile of 4 x 4, or 2 x 2, outputs reads 6 x 6 inputs. With transforms of its rows and columns

       V = B' x B,  U = G f G',  y = A' (sum over channels of U .* V) A

   the sum is a matrix product (tiles x channels) . (channels x filters) for each of 36 numbers.
   The points are 0, +-sqrt(1/2), +-sqrt(2), infinity: their rounding errors are a fifth of those
   of 0, +-1, +-2. The derivatives use the transposed transforms. */

#ifndef MATCONVNET_WINOGRAD_H
#define MATCONVNET_WINOGRAD_H

#include <omp.h>

#include "kernel.h"

#define INLINE static inline __attribute__((always_inline))
#define POINTS 36
#define ROWS (LANES == 16 ? 14 : 6) /* tiles of a product that stays in registers */
#define WIDTH (2 * LANES)           /* its filters, and those of a panel of U */

static const float P = 0.70710678f, Q = 1.41421356f; /* the points, with P * Q = 1 */

/* The transforms of a row. */

INLINE void transform_input(const vf d[6], vf t[6]) /* B' */
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

/* Values of the polynomial with `count` coefficients a at the points, those at +-P and +-Q times s
   and S: A and G. At infinity it is the last coefficient. */
INLINE void evaluate(const int count, const vf *a, float s, float S, vf t[6])
{
    vf even = a[0], odd = a[1], EVEN = even, ODD = odd;
    if (count > 2) even += a[2] * 0.5f, EVEN += a[2] * 2;
    if (count > 3) odd += a[3] * 0.5f, ODD += a[3] * 2;
    if (count > 4) even += a[4] * 0.25f, EVEN += a[4] * 4;
    even *= s, odd *= s * P, EVEN *= S, ODD *= S * Q;
    t[0] = a[0];
    t[1] = even + odd;
    t[2] = even - odd;
    t[3] = EVEN + ODD;
    t[4] = EVEN - ODD;
    t[5] = a[count - 1];
}

/* Its transpose: A' and G'. */
INLINE void combine(const int count, const vf t[6], float s, float S, vf *a)
{
    vf even = (t[1] + t[2]) * s, odd = (t[1] - t[2]) * (s * P);
    vf EVEN = (t[3] + t[4]) * S, ODD = (t[3] - t[4]) * (S * Q);
    a[0] = t[0] + even + EVEN;
    a[1] = odd + ODD;
    if (count > 2) a[2] = even * 0.5f + EVEN * 2;
    if (count > 3) a[3] = odd * 0.5f + ODD * 2;
    if (count > 4) a[4] = even * 0.25f + EVEN * 4;
    a[count - 1] += t[5];
}

#define OUTPUT 1, 1             /* s and S of A */
#define FILTER -2.f / 3, 1.f / 6 /* and of G */

/* The sizes of a convolution with stride 1: x is H W C, y is Y X K, for `batch` images; C and K are
   those of one of the `groups`.

   Tiles at the edges of a small map reach beyond it: 13 x 13 outputs take 16 tiles of 4 x 4, of
   which a third is for nothing. So images lie on sheets, `stacked` in a column and `beside` in a
   row, each high x wide rows and columns from the next: as many as keep zeros between them where
   their neighbours' outputs read. Four such images take 49 tiles. stacked * beside divides batch. */
typedef struct {
    int64_t batch, H, W, C, K, top, left, Y, X, taps, groups, stacked, beside;
    int64_t side, x_pixel, y_pixel, high, wide, across, down, tiles; /* side: of a tile's outputs */
} shape;

#define SIZES 13 /* that are given in n */

static inline shape shape_of(const int64_t *n)
{
    shape s = {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9], n[10], n[11], n[12]};
    s.side = 7 - s.taps, s.x_pixel = s.groups * s.C, s.y_pixel = s.groups * s.K;
    int64_t bottom = s.Y + s.taps - 1 - s.H - s.top, right = s.X + s.taps - 1 - s.W - s.left;
    s.high = most(s.Y, s.H + most(s.top, bottom)), s.wide = most(s.X, s.W + most(s.left, right));
    s.down = (s.high * (s.stacked - 1) + s.Y + s.side - 1) / s.side;
    s.across = (s.wide * (s.beside - 1) + s.X + s.side - 1) / s.side;
    s.tiles = s.batch / (s.stacked * s.beside) * s.down * s.across;
    return s;
}

/* A call of f with the size of filters as a literal: the compiler makes straight code of it. */
#define BY_TAPS(taps, f, ...) ((taps) == 3 ? f(3, __VA_ARGS__) : f(5, __VA_ARGS__))

static inline int64_t filter_size(const shape *s) { return s->taps * s->taps * s->C; }
static inline int64_t vectors(int64_t count) { return (count + LANES - 1) / LANES; }

/* Floats between two of the 36 numbers: an odd count of cache lines, so that 36 numbers of one
   tile lie in 36 sets of the cache. */
static inline int64_t odd(int64_t count) { return (vectors(count) | 1) * LANES; }

/* Where the size x size pixels of a tile are in maps H x W, from (row - up, column - left) of its
   sheet on; -1 outside all images. pixel: numbers from one to the next. */
INLINE void find_pixels(const int size, const shape *s, int64_t tile, int64_t up, int64_t left,
                        int64_t H, int64_t W, int64_t pixel, int64_t *at)
{
    int64_t sheet = tile / (s->down * s->across), area = H * W;
    int64_t row = s->side * (tile / s->across % s->down) - up;
    int64_t column = s->side * (tile % s->across) - left;
    int64_t y = row % s->high, x = column % s->wide;
    int64_t image = (sheet * s->stacked + row / s->high) * s->beside + column / s->wide;
    if (y >= 0 && x >= 0 && y + size <= H && x + size <= W) {
        int64_t first = image * area + y * W + x;
        for (int i = 0; i < size; i++)
            for (int j = 0; j < size; j++) at[size * i + j] = (first + i * W + j) * pixel;
        return;
    }
    int64_t along[6]; /* from the first column of its images, or -1 */
    for (int j = 0; j < size; j++, column++) {
        int64_t beside = column / s->wide, x = column % s->wide;
        int inside = column >= 0 && x < W && beside < s->beside;
        along[j] = inside ? (beside * area + x) * pixel : -1;
    }
    for (int i = 0; i < size; i++, row++) {
        int64_t stacked = row / s->high, y = row % s->high;
        int inside = row >= 0 && y < H && stacked < s->stacked;
        int64_t first = ((sheet * s->stacked + stacked) * s->beside * area + y * W) * pixel;
        for (int j = 0; j < size; j++)
            at[size * i + j] = inside && along[j] >= 0 ? first + along[j] : -1;
    }
}

/* The 36 numbers of the 6 x 6 pixels `at`, for `count` channels from c on, are written to v,
   `between` floats apart. */
INLINE void vector_of_input(const num *const *at, int64_t c, int64_t count, float *v,
                            int64_t between)
{
    vf columns[6][6], d[6], t[6];
#pragma GCC unroll 6
    for (int j = 0; j < 6; j++) {
        for (int i = 0; i < 6; i++) d[i] = load_left(at[6 * i + j] + c, count);
        transform_input(d, t);
        for (int i = 0; i < 6; i++) columns[i][j] = t[i];
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6; i++) {
        transform_input(columns[i], t);
        for (int j = 0; j < 6; j++) store(v + (6 * i + j) * between, t[j]);
    }
}

/* Write the 36 numbers of a tile of x, channels [first, last), `between` floats apart: a vector of
   channels to v, the next to v + step, ... */
static inline void tile_of_input(const shape *s, const num *x, int64_t tile, int64_t first,
                                 int64_t last, const num *zeros, float *v, int64_t step,
                                 int64_t between)
{
    int64_t places[36], c = first;
    const num *at[36];
    find_pixels(6, s, tile, s->top, s->left, s->H, s->W, s->x_pixel, places);
    for (int i = 0; i < 36; i++) at[i] = places[i] < 0 ? zeros : x + places[i];
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
