/* Winograd's algorithm (winograd.h): derivatives with respect to filters and biases. */

#include "winograd.h"

/* m (+)= w' . v for `count` tiles: rows of w, v and m are w_step, v_step and m_step apart. */
INLINE void sum_products(const int rows, const int wide, const float *w, int64_t w_step,
                         const float *v, int64_t v_step, int64_t count, float *m, int64_t m_step,
                         int64_t add)
{
    vf sums[14][2] = {};
    for (int64_t t = 0; t < count; t++, w += w_step, v += v_step)
#pragma GCC unroll 14
        for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
            for (int i = 0; i < wide; i++) sums[r][i] += w[r] * load(v + i * LANES);
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int i = 0; i < wide; i++) {
            float *at = m + r * m_step + i * LANES;
            store(at, add ? sums[r][i] + load(at) : sums[r][i]);
        }
}

static void sum_products_of(int64_t rows, int64_t wide, const float *w, int64_t w_step,
                            const float *v, int64_t v_step, int64_t count, float *m,
                            int64_t m_step, int64_t add)
{
#define CASE(r)                                                                                \
    case r:                                                                                    \
        if (wide == 2) sum_products(r, 2, w, w_step, v, v_step, count, m, m_step, add);        \
        else sum_products(r, 1, w, w_step, v, v_step, count, m, m_step, add);                  \
        break;
    switch (EVEN(rows)) { EACH_ROWS(CASE) }
#undef CASE
}

/* Write the 36 numbers of a tile of dzdy, filters [first, last), as `tile_of_input` does. sums:
   where the sum of each filter's pixels is added, or NULL. */
INLINE void transform_tile(const int taps, const shape *s, const num *dzdy, int64_t tile,
                           int64_t first, int64_t last, const num *zeros, float *w,
                           int64_t between, float *sums)
{
    const int side = 7 - taps;
    int64_t places[16];
    const num *at[16];
    find_pixels(side, s, tile, 0, 0, s->Y, s->X, s->y_pixel, places);
    for (int i = 0; i < side * side; i++) at[i] = places[i] < 0 ? zeros : dzdy + places[i];
    for (int64_t k = first; k < last; k += LANES, w += LANES) {
        vf columns[6][4], d[4], t[6], sum = {};
#pragma GCC unroll 4
        for (int j = 0; j < side; j++) {
            for (int i = 0; i < side; i++) d[i] = load_left(at[side * i + j] + k, last - k);
            for (int i = 0; i < side; i++) sum += d[i];
            evaluate(side, d, OUTPUT, t);
            for (int i = 0; i < 6; i++) columns[i][j] = t[i];
        }
        for (int i = 0; i < 6; i++) {
            evaluate(side, columns[i], OUTPUT, t);
            for (int j = 0; j < 6; j++) store(w + (6 * i + j) * between, t[j]);
        }
        if (sums) store(sums + k - first, load(sums + k - first) + sum);
    }
}

static void tile_of_output_der(const shape *s, const num *dzdy, int64_t tile, int64_t first,
                               int64_t last, const num *zeros, float *w, int64_t between,
                               float *sums)
{
    BY_TAPS(s->taps, transform_tile, s, dzdy, tile, first, last, zeros, w, between, sums);
}

/* A block of the derivative of the filters: filters [k, k_end), channels [c, c_end). */
typedef struct {
    int64_t k, k_end, c, c_end, high, wide; /* rounded up to vectors */
    int64_t step;                           /* floats from one of the 36 numbers to the next */
} part;

/* u (36 x filters x channels) = sum of w' v over the tiles [tile, end), `block` of them at a time.
   work holds w and v. */
static void sum_tiles(const shape *s, const part *q, const num *x, const num *dzdy,
                      int64_t tile, int64_t end, int64_t block, const num *zeros, float *work,
                      float *u, float *sums)
{
    int64_t w_step = odd(block * q->high), v_step = odd(block * q->wide), first = tile;
    float *w = work, *v = work + POINTS * w_step;
    for (; tile < end; tile += block) {
        int64_t count = least(block, end - tile);
        for (int64_t t = 0; t < count; t++) {
            tile_of_output_der(s, dzdy, tile + t, q->k, q->k_end, zeros, w + t * q->high, w_step,
                               sums);
            tile_of_input(s, x, tile + t, q->c, q->c_end, zeros, v + t * q->wide, LANES, v_step);
        }
        for (int point = 0; point < POINTS; point++)
            for (int64_t c = 0; c < q->wide; c += WIDTH)
                for (int64_t k = 0; k < q->high; k += ROWS)
                    sum_products_of(least(ROWS, q->high - k), least(2, (q->wide - c) / LANES),
                                    w + point * w_step + k, q->high, v + point * v_step + c,
                                    q->wide, count, u + point * q->step + k * q->wide + c, q->wide,
                                    tile > first);
    }
}

/* Transform the sum of `copies` of u, `apart` floats apart, to the derivative of filter k. */
INLINE void transform_sums(const int taps, const shape *s, const part *q, int64_t k, const float *u,
                           int64_t copies, int64_t apart, float *df)
{
    for (int64_t c = q->c; c < q->c_end; c += LANES) {
        const float *from = u + (k - q->k) * q->wide + c - q->c;
        vf columns[5][6], d[6], f[5];
        for (int j = 0; j < 6; j++) {
            for (int i = 0; i < 6; i++) {
                d[i] = load(from + (6 * i + j) * q->step);
                for (int64_t copy = 1; copy < copies; copy++)
                    d[i] += load(from + (6 * i + j) * q->step + copy * apart);
            }
            combine(taps, d, FILTER, f);
            for (int i = 0; i < taps; i++) columns[i][j] = f[i];
        }
        for (int i = 0; i < taps; i++) {
            combine(taps, columns[i], FILTER, f);
            for (int j = 0; j < taps; j++)
                store_left(df + ((k * taps + i) * taps + j) * s->C + c, f[j], q->c_end - c);
        }
    }
}

static void filter_of_sums(const shape *s, const part *q, int64_t k, const float *u, int64_t copies,
                           int64_t apart, float *df)
{
    BY_TAPS(s->taps, transform_sums, s, q, k, u, copies, apart, df);
}

/* How a group's derivative is summed: parts of k_block filters x c_block channels one by one,
   `block` tiles at a time, and each part by `splits` threads that take their share of the tiles. */
typedef struct {
    int64_t block, k_block, c_block, splits, threads;
    num *zeros;
    float *work, *u, *sums;
} plan;

static part part_of(const shape *s, const plan *a, int64_t i)
{
    int64_t across = (s->C + a->c_block - 1) / a->c_block;
    int64_t k = i / across * a->k_block, c = i % across * a->c_block;
    part q = {k, least(s->K, k + a->k_block), c, least(s->C, c + a->c_block), 0, 0, 0};
    q.high = vectors(q.k_end - q.k) * LANES, q.wide = vectors(q.c_end - q.c) * LANES;
    q.step = odd(q.high * q.wide);
    return q;
}

static void derive(const shape *s, const plan *a, const num *x, const num *dzdy, float *df,
                   float *db)
{
    int64_t wide = vectors(a->c_block) * LANES, row = vectors(s->K) * LANES, splits = a->splits;
    int64_t high = vectors(a->k_block) * LANES, u_size = POINTS * odd(high * wide);
    int64_t work_size = POINTS * (odd(a->block * high) + odd(a->block * wide));
    int64_t parts = (s->C + a->c_block - 1) / a->c_block * ((s->K + a->k_block - 1) / a->k_block);
    memset(a->sums, 0, 4 * splits * row);
#pragma omp parallel for schedule(static) num_threads(a->threads)
    for (int64_t item = 0; item < parts * splits; item++) {
        part q = part_of(s, a, item / splits);
        int64_t split = item % splits, thread = omp_get_thread_num();
        float *u = a->u + (splits > 1 ? item : thread) * u_size;
        sum_tiles(s, &q, x, dzdy, s->tiles * split / splits, s->tiles * (split + 1) / splits,
                  a->block, a->zeros, a->work + thread * work_size, u,
                  db && q.c == 0 ? a->sums + split * row + q.k : NULL);
        if (splits > 1) continue;
        for (int64_t k = q.k; k < q.k_end; k++) filter_of_sums(s, &q, k, u, 1, 0, df);
    }
    if (splits > 1)
#pragma omp parallel for collapse(2) schedule(static) num_threads(a->threads)
        for (int64_t i = 0; i < parts; i++)
            for (int64_t j = 0; j < a->k_block; j++) {
                part q = part_of(s, a, i);
                if (q.k + j < q.k_end)
                    filter_of_sums(s, &q, q.k + j, a->u + i * splits * u_size, splits, u_size, df);
            }
    for (int64_t k = 0; db && k < s->K; k++) {
        db[k] = 0;
        for (int64_t split = 0; split < splits; split++) db[k] += a->sums[split * row + k];
    }
}

/* Derivatives of the filters and biases. splits: at most the tiles.

   p: x, dzdy, df, db (or NULL), zeros (C or K of a group, as in x), work (of each thread),
      u (of each thread; of each part and split, if splits > 1), sums (splits x K of a group, in
      whole vectors)
   n: batch, H, W, C and K (of a group), top, left, Y, X, taps, groups, stacked, beside; block,
      k_block, c_block, splits, threads */
KERNEL(winograd_filters_backward)
{
    shape size = shape_of(n);
    const int64_t *planned = n + SIZES;
    plan a = {planned[0], planned[1], planned[2], planned[3], planned[4], p[4], p[5], p[6], p[7]};
    float *db = p[3];
    memset(a.zeros, 0, sizeof(num) * most(size.C, size.K));
    for (int64_t g = 0; g < size.groups; g++)
        derive(&size, &a, (const num *)p[0] + g * size.C, (const num *)p[1] + g * size.K,
               (float *)p[2] + g * size.K * filter_size(&size), db ? db + g * size.K : NULL);
}
