/* Tiles of matrix products whose sums stay in registers: TILE_ROWS x (2 * LANES) outputs at most.

   tile_rows:    out[r][...] = sum over k of a[r][k] * b[k][...], rows of `a` anywhere in memory
   tile_columns: out[m][...] = sum over t of x[t][m] * y[t][...], the product of a transpose

   Loops over rows are unrolled by the compiler for every number of rows, `width` is 1 or 2 vectors. */

#ifndef MATCONVNET_GEMM_H
#define MATCONVNET_GEMM_H

#include <omp.h>

#include "kernel.h"

/* 2 * rows sums, one row of b and one broadcast number: as many as the registers hold. */
#if LANES == 16
#define TILE_ROWS 14
#define EACH_ROWS(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7) DO(8) DO(9) DO(10) DO(11) DO(12) DO(13) DO(14)
#elif LANES == 8
#define TILE_ROWS 6
#define EACH_ROWS(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6)
#else
#define TILE_ROWS 4
#define EACH_ROWS(DO) DO(1) DO(2) DO(3) DO(4)
#endif
#define PANEL (2 * LANES)

#define UNROLL _Pragma("GCC unroll 14")
#define INLINE static inline __attribute__((always_inline, unused))

INLINE int threads_of(int64_t planned) { return (int)least(planned, omp_get_max_threads()); }

/* The first of `count` things that belongs to `part` of `parts`. */
INLINE int64_t first_of(int64_t part, int64_t parts, int64_t count) { return part * count / parts; }

INLINE const float *offset(const float *a, int64_t i) { return a ? a + i : NULL; }

/* A row of `columns` <= PANEL numbers as vectors: where the second one begins, which overlaps the first
   if the row does not fill two; 0 if there is none. And what a packed row takes in memory. */
static inline int64_t second_of(int64_t columns) { return most(0, columns - LANES); }
static inline int64_t packed_row(int64_t columns) { return most(LANES, columns); }

/* The numbers of a row that a sum runs over: outer x inner pieces of `length` contiguous ones.
   ahead: what is read soon; a line of it is fetched with every number of the sum. NULL: nothing. */
typedef struct {
    int64_t outer, outer_step, inner, inner_step, length;
    const float *ahead;
} pieces;

/* What becomes of a tile of sums; bias, add, mask and out begin at the first column of the tile.

       out = (sum + bias + add), larger than 0 if `relu`, and 0 where mask <= 0 */
typedef struct {
    const float *bias, *add, *mask; /* any may be NULL; add may be out */
    float *out;
    int64_t columns; /* that exist, at most PANEL */
    int64_t relu;
} finish;

INLINE vf finished(vf v, const finish *f, int64_t at, int64_t column)
{
    if (f->bias) v += load(f->bias + column);
    if (f->add) v += load(f->add + at + column);
    if (f->relu) v = where(v < 0, all(0), v);
    if (f->mask) v = where(load(f->mask + at + column) > 0, v, all(0));
    return v;
}

INLINE vf finished_some(vf v, const finish *f, int64_t at)
{
    if (f->bias) v += load_some(f->bias, f->columns);
    if (f->add) v += load_some(f->add + at, f->columns);
    if (f->relu) v = where(v < 0, all(0), v);
    if (f->mask) v = where(load_some(f->mask + at, f->columns) > 0, v, all(0));
    return v;
}

INLINE void finish_row(const int width, vf sum[2], const finish *f, int64_t at)
{
    if (width == 2) {
        int64_t second = second_of(f->columns);
        vf a = finished(sum[0], f, at, 0), b = finished(sum[1], f, at, second);
        store(f->out + at, a);
        store(f->out + at + second, b);
    } else if (f->columns == LANES)
        store(f->out + at, finished(sum[0], f, at, 0));
    else
        store_some(f->out + at, finished_some(sum[0], f, at), f->columns);
}

INLINE void tile_rows_body(const int rows, const int width, const float *const *a, const pieces *d,
                           const float *b, int64_t step, const finish *f, const int64_t *at)
{
    int64_t second = second_of(f->columns);
    vf sum[TILE_ROWS][2];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < width; v++) sum[r][v] = all(0);
    const float *ahead = d->ahead ? d->ahead : b;
    int64_t line = d->ahead ? 16 : 0;
    for (int64_t i = 0; i < d->outer; i++)
        for (int64_t j = 0; j < d->inner; j++) {
            int64_t k = i * d->outer_step + j * d->inner_step;
            for (int64_t end = k + d->length; k < end; k++, b += step, ahead += line) {
                __builtin_prefetch(ahead);
                vf row[2];
                UNROLL for (int v = 0; v < width; v++) row[v] = load(b + v * second);
                UNROLL for (int r = 0; r < rows; r++) {
                    vf number = all(a[r][k]);
                    UNROLL for (int v = 0; v < width; v++) sum[r][v] += number * row[v];
                }
            }
        }
    UNROLL for (int r = 0; r < rows; r++)
        finish_row(width, sum[r], f, at[r]);
}

/* How a product of a transpose runs over t: three nested loops, with their steps in x and in y. */
typedef struct {
    int64_t count, x, y;
} loop;

INLINE void tile_columns_body(const int rows, const int width, const float *x, const float *y,
                              const loop t[3], float *out, int64_t step, int64_t columns,
                              int64_t add)
{
    int64_t second = second_of(columns);
    vf sum[TILE_ROWS][2];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < width; v++) sum[r][v] = all(0);
    for (int64_t i = 0; i < t[0].count; i++)
        for (int64_t j = 0; j < t[1].count; j++) {
            const float *xt = x + i * t[0].x + j * t[1].x, *yt = y + i * t[0].y + j * t[1].y;
            for (int64_t k = 0; k < t[2].count; k++, xt += t[2].x, yt += t[2].y) {
                vf row[2];
                UNROLL for (int v = 0; v < width; v++) row[v] = load(yt + v * second);
                UNROLL for (int r = 0; r < rows; r++) {
                    vf number = all(xt[r]);
                    UNROLL for (int v = 0; v < width; v++) sum[r][v] += number * row[v];
                }
            }
        }
    finish f = {NULL, add ? out : NULL, NULL, out, columns, 0};
    UNROLL for (int r = 0; r < rows; r++)
        finish_row(width, sum[r], &f, r * step);
}

#define ROWS_CASE(R)                                                                               \
    case R:                                                                                        \
        if (f->columns > LANES) tile_rows_body(R, 2, a, d, b, step, f, at);                        \
        else tile_rows_body(R, 1, a, d, b, step, f, at);                                           \
        break;
#define COLUMNS_CASE(R)                                                                            \
    case R:                                                                                        \
        if (columns > LANES) tile_columns_body(R, 2, x, y, t, out, step, columns, add);            \
        else tile_columns_body(R, 1, x, y, t, out, step, columns, add);                            \
        break;

/* out[at[r] + column] = sum over the pieces of a[r][k] * b[column], finished as `f` says.

   rows     1 ... TILE_ROWS
   a        pointers to the rows
   b        a row of packed_row(columns) readable numbers for every k, `step` apart
   at       where each row of the tile begins in f->out (and in f->add, f->mask) */
static __attribute__((unused, noinline)) void tile_rows(int64_t rows, const float *const *a,
                                                        const pieces *d, const float *b,
                                                        int64_t step, const finish *f,
                                                        const int64_t *at)
{
    switch (rows) { EACH_ROWS(ROWS_CASE) }
}

/* out[r * step + column] (+)= sum over the loops of x[r] * y[column].

   rows     1 ... TILE_ROWS
   columns  1 ... PANEL; packed_row(columns) numbers of y must be readable */
static __attribute__((unused, noinline)) void tile_columns(int64_t rows, const float *x,
                                                           const float *y, const loop t[3],
                                                           float *out, int64_t step,
                                                           int64_t columns, int64_t add)
{
    switch (rows) { EACH_ROWS(COLUMNS_CASE) }
}

#endif
