/* Winograd's algorithm (winograd.h): derivatives with respect to filters and biases. */

#include "winograd.h"

/* m (+)= w' . v for `count` tiles: rows of w, v and m are w_step, v_step and m_step apart. */
static inline __attribute__((always_inline)) void sum_products(int rows, int wide, const float *w,
                                                               int64_t w_step, const float *v,
                                                               int64_t v_step, int64_t count,
                                                               float *m, int64_t m_step,
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

/* Write the 36 numbers of tile t of dzdy, filters [first, last), as `tile_of_input` does. sums: where
   the sum of each filter's pixels is added, or NULL. */
static void tile_of_output_der(const shape *s, const float *dzdy, int64_t tile, int64_t first,
                               int64_t last, const float *zeros, float *w, int64_t between,
                               float *sums)
{
    const float *at[16];
    int64_t n = tile / (s->down * s->across), row = tile / s->across % s->down;
    find_pixels(dzdy + n * s->Y * s->X * s->K, s->Y, s->X, s->K, 4 * row, 4 * (tile % s->across), 4,
                zeros, at);
    for (int64_t k = first; k < last; k += LANES, w += LANES) {
        vf columns[6][4], d[4], t[6], sum = {};
#pragma GCC unroll 4
        for (int j = 0; j < 4; j++) {
            for (int i = 0; i < 4; i++) d[i] = load_first(at[4 * i + j] + k, last - k);
            sum += d[0] + d[1] + d[2] + d[3];
            transform_output_der(d, t);
            for (int i = 0; i < 6; i++) columns[i][j] = t[i];
        }
        for (int i = 0; i < 6; i++) {
            transform_output_der(columns[i], t);
            for (int j = 0; j < 6; j++) store(w + (6 * i + j) * between, t[j]);
        }
        if (sums) store(sums + k - first, load(sums + k - first) + sum);
    }
}

/* A block of the derivative of the filters: filters [k, k_end), channels [c, c_end). */
typedef struct {
    int64_t k, k_end, c, c_end, high, wide; /* rounded up to vectors */
    int64_t step;                            /* floats from one of the 36 numbers to the next */
} part;

/* u (36 x filters x channels) = sum of w' v over the tiles [tile, end), `block` of them at a time.
   work holds w and v. */
static void sum_tiles(const shape *s, const part *q, const float *x, const float *dzdy, int64_t tile,
                      int64_t end, int64_t block, const float *zeros, float *work, float *u,
                      float *sums)
{
    int64_t w_step = odd(block * q->high), v_step = odd(block * q->wide), first = tile;
    float *w = work, *v = work + POINTS * w_step;
    for (; tile < end; tile += block) {
        int64_t count = least(block, end - tile);
        for (int64_t t = 0; t < count; t++) {
            tile_of_output_der(s, dzdy, tile + t, q->k, q->k_end, zeros, w + t * q->high, w_step, sums);
            tile_of_input(s, x, tile + t, q->c, q->c_end, zeros, v + t * q->wide, LANES, v_step);
        }
        for (int point = 0; point < POINTS; point++)
            for (int64_t c = 0; c < q->wide; c += WIDTH)
                for (int64_t k = 0; k < q->high; k += ROWS)
                    sum_products_of(least(ROWS, q->high - k), least(2, (q->wide - c) / LANES),
                                    w + point * w_step + k, q->high, v + point * v_step + c, q->wide,
                                    count, u + point * q->step + k * q->wide + c, q->wide,
                                    tile > first);
    }
}

/* Transform the sum of `copies` of u, `apart` floats apart, to the derivative of filter k. */
static void filter_of_sums(const shape *s, const part *q, int64_t k, const float *u, int64_t copies,
                           int64_t apart, float *df)
{
    for (int64_t c = q->c; c < q->c_end; c += LANES) {
        const float *from = u + (k - q->k) * q->wide + c - q->c;
        vf columns[3][6], d[6], f[3];
        for (int j = 0; j < 6; j++) {
            for (int i = 0; i < 6; i++) {
                d[i] = load(from + (6 * i + j) * q->step);
                for (int64_t copy = 1; copy < copies; copy++)
                    d[i] += load(from + (6 * i + j) * q->step + copy * apart);
            }
            transform_filter_der(d, f);
            for (int i = 0; i < 3; i++) columns[i][j] = f[i];
        }
        for (int i = 0; i < 3; i++) {
            transform_filter_der(columns[i], f);
            for (int j = 0; j < 3; j++)
                store_first(df + (k * 9 + 3 * i + j) * s->C + c, f[j], q->c_end - c);
        }
    }
}

/* Derivatives of the filters and biases. Parts of k_block filters x c_block channels are summed one
   by one, and each by `splits` threads that take their share of the tiles. splits: at most the tiles.

   p: x, dzdy, df, db (or NULL), zeros (C or K), work (of each thread), u (of each thread; of each
      part and split, if splits > 1), sums (splits x K, rounded up to vectors)
   n: batch, H, W, C, K, top, left, Y, X, block, k_block, c_block, splits, threads */
KERNEL(winograd_filters_backward)
{
    shape size = shape_of(n);
    const float *x = p[0], *dzdy = p[1];
    float *df = p[2], *db = p[3], *zeros = p[4], *work = p[5], *us = p[6], *sums = p[7];
    int64_t block = n[9], k_block = n[10], c_block = n[11], splits = n[12], threads = n[13];
    int64_t wide = vectors(c_block) * LANES, row = vectors(size.K) * LANES;
    int64_t work_size = POINTS * (odd(block * vectors(k_block) * LANES) + odd(block * wide));
    int64_t across = (size.C + c_block - 1) / c_block, down = (size.K + k_block - 1) / k_block;
    int64_t u_size = POINTS * odd(vectors(k_block) * LANES * wide);
    memset(zeros, 0, 4 * most(size.C, size.K));
    memset(sums, 0, 4 * splits * row);
#define PART(i)                                                                                    \
    int64_t k0 = (i) / across * k_block, c0 = (i) % across * c_block;                              \
    part q = {k0, least(size.K, k0 + k_block), c0, least(size.C, c0 + c_block), 0, 0, 0};          \
    q.high = vectors(q.k_end - q.k) * LANES, q.wide = vectors(q.c_end - q.c) * LANES,              \
    q.step = odd(q.high * q.wide)
#pragma omp parallel for schedule(static) num_threads(threads)
    for (int64_t item = 0; item < down * across * splits; item++) {
        PART(item / splits);
        int64_t split = item % splits, thread = omp_get_thread_num();
        float *u = us + (splits > 1 ? item : thread) * u_size;
        sum_tiles(&size, &q, x, dzdy, size.tiles * split / splits, size.tiles * (split + 1) / splits,
                  block, zeros, work + thread * work_size, u,
                  db && q.c == 0 ? sums + split * row + q.k : NULL);
        if (splits > 1) continue;
        for (int64_t k = q.k; k < q.k_end; k++) filter_of_sums(&size, &q, k, u, 1, 0, df);
    }
    if (splits > 1)
#pragma omp parallel for collapse(2) schedule(static) num_threads(threads)
        for (int64_t i = 0; i < down * across; i++)
            for (int64_t j = 0; j < k_block; j++) {
                PART(i);
                if (q.k + j < q.k_end)
                    filter_of_sums(&size, &q, q.k + j, us + i * splits * u_size, splits, u_size, df);
            }
    for (int64_t k = 0; db && k < size.K; k++) {
        db[k] = 0;
        for (int64_t split = 0; split < splits; split++) db[k] += sums[split * row + k];
    }
#undef PART
}
