/* Tiles of matrix products whose sums stay in registers: TILE_ROWS x (2 * LANES) outputs at most.

   tile_rows:    out[r][...] = sum over k of a[r][k] * b[k][...], rows of `a` anywhere in memory
   tile_columns: out[m][...] = sum over t of x[t][m] * y[t][...], the product of a transpose

   Loops over rows are unrolled by the compiler for every number of rows, `width` is 1 or 2 vectors.

   Two neighbours of a sum over numbers of type bfloat16 make a `pair` of 32 bits, the first in its lower
   half, and are multiplied together; where there is an odd number of them, the last one's partner is 0.
   A float is a pair of its own: PAIR is how many numbers a pair has. */

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

#define offset(a, i) ((a) ? (a) + (i) : NULL)

#ifdef HALF
#define PAIR 2
typedef int32_t pair;
typedef vi pairs;
#else
#define PAIR 1
typedef float pair;
typedef vf pairs;
#endif

INLINE int64_t pairs_of(int64_t count) { return (count + PAIR - 1) / PAIR; }

INLINE pairs load_pairs(const pair *a)
{
    pairs v;
    memcpy(&v, a, sizeof v);
    return v;
}
INLINE void store_pairs(pair *a, pairs v) { memcpy(a, &v, sizeof v); }

/* All lanes: the pair that begins at `a`; the one of the last number and 0. */
INLINE pairs pair_at(const num *a)
{
    pair v;
    memcpy(&v, a, sizeof v);
    return v - (pairs){};
}
INLINE pairs last_at(const num *a)
{
    uint16_t bits;
    memcpy(&bits, a, sizeof bits);
    return bits - (pairs){};
}

/* A vector of pairs from one of first and one of second numbers. */
INLINE pairs paired(vf first, vf second)
{
#ifdef HALF
    return __builtin_convertvector(narrowed(first), vi) | __builtin_convertvector(narrowed(second), vi) << 16;
#else
    return first;
#endif
}

/* Likewise, from memory; second: NULL, if the first number is the last. */
INLINE pairs load_paired(const num *first, const num *second)
{
#ifdef HALF
    vs low, high = {};
    memcpy(&low, first, sizeof low);
    if (second) memcpy(&high, second, sizeof high);
    return __builtin_convertvector(low, vi) | __builtin_convertvector(high, vi) << 16;
#else
    return load(first);
#endif
}

INLINE pair single_pair(num first, num second)
{
#ifdef HALF
    return (int32_t)((uint32_t)first.bits | (uint32_t)second.bits << 16);
#else
    return first;
#endif
}

/* sum + a * b, for both numbers of the pairs. */
INLINE vf dot(vf sum, pairs a, pairs b)
{
#if defined(HALF) && defined(__AVX512BF16__)
    return (vf)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
#elif defined(HALF)
    sum += (vf)(a << 16) * (vf)(b << 16);
    return sum + (vf)(a & -0x10000) * (vf)(b & -0x10000);
#else
    return sum + a * b;
#endif
}

/* A row of `columns` <= PANEL numbers as vectors: where the second one begins, which overlaps the first
   if the row does not fill two; 0 if there is none. And what a packed row takes in memory. */
static inline int64_t second_of(int64_t columns) { return most(0, columns - LANES); }
static inline int64_t packed_row(int64_t columns) { return most(LANES, columns); }

/* The numbers of a row that a sum runs over: outer x inner pieces of `length` contiguous ones.
   ahead: what is read soon; a line of it is fetched with every pair of the sum. NULL: nothing. */
typedef struct {
    int64_t outer, outer_step, inner, inner_step, length;
    const num *ahead;
} pieces;

/* What becomes of a tile of sums; bias, add, mask and out begin at the first column of the tile.

       out = (sum + bias + add), larger than 0 if `relu`, and 0 where mask <= 0 */
typedef struct {
    const float *bias;
    const num *add, *mask; /* any of the three may be NULL; add may be out */
    num *out;
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

INLINE void tile_rows_body(const int rows, const int width, const num *const *a, const pieces *d,
                           const pair *b, int64_t step, const finish *f, const int64_t *at)
{
    int64_t second = second_of(f->columns);
    vf sum[TILE_ROWS][2];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < width; v++) sum[r][v] = all(0);
    const char *ahead = d->ahead ? (const void *)d->ahead : (const void *)b;
    int64_t line = d->ahead ? 64 : 0;
    for (int64_t i = 0; i < d->outer; i++)
        for (int64_t j = 0; j < d->inner; j++) {
            int64_t k = i * d->outer_step + j * d->inner_step, end = k + d->length;
            for (; k + PAIR <= end; k += PAIR, b += step, ahead += line) {
                __builtin_prefetch(ahead);
                pairs row[2];
                UNROLL for (int v = 0; v < width; v++) row[v] = load_pairs(b + v * second);
                UNROLL for (int r = 0; r < rows; r++) {
                    pairs number = pair_at(a[r] + k);
                    UNROLL for (int v = 0; v < width; v++) sum[r][v] = dot(sum[r][v], number, row[v]);
                }
            }
            if (PAIR > 1 && k < end) {
                UNROLL for (int r = 0; r < rows; r++)
                    UNROLL for (int v = 0; v < width; v++)
                        sum[r][v] = dot(sum[r][v], last_at(a[r] + k), load_pairs(b + v * second));
                b += step;
            }
        }
    UNROLL for (int r = 0; r < rows; r++)
        finish_row(width, sum[r], f, at[r]);
}

/* How a product of a transpose runs over (pairs of) t: three nested loops, with their steps in x and y. */
typedef struct {
    int64_t count, x, y;
} loop;

INLINE void put_row(const int width, vf sum[2], float *out, int64_t columns, int64_t add)
{
    if (width == 2) {
        int64_t second = second_of(columns);
        vf a = add ? sum[0] + load(out) : sum[0], b = add ? sum[1] + load(out + second) : sum[1];
        store(out, a);
        store(out + second, b);
    } else
        store_left(out, add ? sum[0] + load_left(out, columns) : sum[0], columns);
}

INLINE void tile_columns_body(const int rows, const int width, const pair *x, const pair *y,
                              const loop t[3], float *out, int64_t step, int64_t columns,
                              int64_t add)
{
    int64_t second = second_of(columns);
    vf sum[TILE_ROWS][2];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int v = 0; v < width; v++) sum[r][v] = all(0);
    for (int64_t i = 0; i < t[0].count; i++)
        for (int64_t j = 0; j < t[1].count; j++) {
            const pair *xt = x + i * t[0].x + j * t[1].x, *yt = y + i * t[0].y + j * t[1].y;
            for (int64_t k = 0; k < t[2].count; k++, xt += t[2].x, yt += t[2].y) {
                pairs row[2];
                UNROLL for (int v = 0; v < width; v++) row[v] = load_pairs(yt + v * second);
                UNROLL for (int r = 0; r < rows; r++) {
                    pairs number = xt[r] - (pairs){};
                    UNROLL for (int v = 0; v < width; v++) sum[r][v] = dot(sum[r][v], number, row[v]);
                }
            }
        }
    UNROLL for (int r = 0; r < rows; r++)
        put_row(width, sum[r], out + r * step, columns, add);
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
   b        a row of packed_row(columns) readable pairs for every pair of k, `step` apart
   at       where each row of the tile begins in f->out (and in f->add, f->mask) */
static __attribute__((unused, noinline)) void tile_rows(int64_t rows, const num *const *a,
                                                        const pieces *d, const pair *b,
                                                        int64_t step, const finish *f,
                                                        const int64_t *at)
{
    switch (rows) { EACH_ROWS(ROWS_CASE) }
}

/* out[r * step + column] (+)= sum over the loops of x[r] * y[column].

   rows     1 ... TILE_ROWS
   columns  1 ... PANEL; packed_row(columns) pairs of y must be readable */
static __attribute__((unused, noinline)) void tile_columns(int64_t rows, const pair *x,
                                                           const pair *y, const loop t[3],
                                                           float *out, int64_t step,
                                                           int64_t columns, int64_t add)
{
    switch (rows) { EACH_ROWS(COLUMNS_CASE) }
}

#endif
