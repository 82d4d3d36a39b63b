/* Convolution with filters that cover the whole map: the products of rows of x and rows of the
   filters, both read in place. At a small batch the memory is the limit. */

#include "gemm.h"

#define DOT_COLUMNS (LANES == 16 ? 6 : 4) /* rows of the filters in a tile */
#define DOT_ROWS (LANES == 16 ? 4 : 2)    /* rows of x in a tile */
#define DOT_DEPTH 1024                    /* numbers of a tile's rows that stay in the cache */

INLINE float sum_of(vf v)
{
    UNROLL for (int h = LANES / 2; h > 0; h /= 2) {
        vi other;
        for (int l = 0; l < LANES; l++) other[l] = l ^ h;
        v += __builtin_shuffle(v, other);
    }
    return v[0];
}

INLINE void dot_tile(const int rows, const int columns, const float *x, const float *f, int64_t depth,
                     int64_t count, float *out, int64_t step, int64_t add)
{
    vf sum[4][6];
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int c = 0; c < columns; c++) sum[r][c] = all(0);
    int64_t d = 0;
    for (; d + LANES <= count; d += LANES) {
        vf a[4];
        UNROLL for (int r = 0; r < rows; r++) a[r] = load(x + r * depth + d);
        UNROLL for (int c = 0; c < columns; c++) {
            vf b = load(f + c * depth + d);
            UNROLL for (int r = 0; r < rows; r++) sum[r][c] += a[r] * b;
        }
    }
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int c = 0; c < columns; c++) {
            float rest = sum_of(sum[r][c]);
            for (int64_t e = d; e < count; e++) rest += x[r * depth + e] * f[c * depth + e];
            out[r * step + c] = rest + (add ? out[r * step + c] : 0);
        }
}

/* Full filters.

   p  x, filters, bias, add, out; NULL for an absent one
   n  batch, depth, columns, relu, threads */
KERNEL(conv_full)
{
    const float *x = p[0], *f = p[1], *bias = p[2], *residual = p[3];
    float *out = p[4];
    int64_t batch = n[0], depth = n[1], K = n[2], relu = n[3];
    int64_t whole = batch / DOT_ROWS * DOT_ROWS;
#pragma omp parallel for schedule(static) num_threads(threads_of(n[4])) if (K * depth > PARALLEL_WORTH)
    for (int64_t tile = 0; tile < (K + DOT_COLUMNS - 1) / DOT_COLUMNS; tile++) {
        int64_t k = tile * DOT_COLUMNS, columns = least(DOT_COLUMNS, K - k);
        for (int64_t d = 0; d < depth; d += DOT_DEPTH) {
            const float *xd = x + d, *fd = f + k * depth + d;
            int64_t count = least(DOT_DEPTH, depth - d);
            if (columns == DOT_COLUMNS) {
                for (int64_t r = 0; r < whole; r += DOT_ROWS)
                    dot_tile(DOT_ROWS, DOT_COLUMNS, xd + r * depth, fd, depth, count,
                             out + r * K + k, K, d > 0);
                for (int64_t r = whole; r < batch; r++)
                    dot_tile(1, DOT_COLUMNS, xd + r * depth, fd, depth, count, out + r * K + k, K, d > 0);
            } else
                for (int64_t r = 0; r < batch; r++)
                    for (int64_t c = 0; c < columns; c++)
                        dot_tile(1, 1, xd + r * depth, fd + c * depth, depth, count,
                                 out + r * K + k + c, K, d > 0);
        }
        for (int64_t r = 0; r < batch; r++)
            for (int64_t i = r * K + k, c = k; c < k + columns; c++, i++) {
                float y = out[i] + (bias ? bias[c] : 0) + (residual ? residual[i] : 0);
                out[i] = relu && y < 0 ? 0 : y;
            }
    }
}

#define FULL_ROWS 128                   /* rows of the filters that are read for a panel of the output */
#define FULL_ROWS_OF_FEW 16             /* where the batch is small, and memory the limit */
#define FULL_PITCH (FULL_ROWS + 16)

/* Derivative of `conv_full` with respect to x; LANES divides depth.

   p  dzdy, filters, add, mask, out, scratch of FULL_PITCH * batch a thread; add and mask NULL if absent
   n  batch, depth, columns, threads */
KERNEL(conv_full_data)
{
    const float *dzdy = p[0], *f = p[1], *add = p[2], *mask = p[3];
    float *out = p[4], *scratch = p[5];
    int64_t batch = n[0], depth = n[1], K = n[2];
    int64_t panels = (depth + PANEL - 1) / PANEL, parts = threads_of(n[3]);
    int64_t many = batch >= TILE_ROWS / 2, most_rows = many ? FULL_ROWS : FULL_ROWS_OF_FEW;
#pragma omp parallel for schedule(static) num_threads(threads_of(n[3])) if (K * depth > PARALLEL_WORTH)
    for (int64_t part = 0; part < parts; part++)
        for (int64_t k = 0; k < K; k += most_rows) {
            int64_t count = least(most_rows, K - k);
            int64_t end = first_of(part + 1, parts, panels);
            float *ders = scratch + part * FULL_PITCH * batch;
            for (int64_t r = 0; r < batch; r++)
                memcpy(ders + r * FULL_PITCH, dzdy + r * K + k, 4 * count);
            for (int64_t i = first_of(part, parts, panels); i < end; i++) {
                int64_t c = i * PANEL;
                const float *panel = f + k * depth + c;
                pieces d = {1, 0, 1, 0, count};
                finish ending = {NULL, offset(k ? out : add, c), offset(k + count < K ? NULL : mask, c),
                                 out + c, least(PANEL, depth - c), 0};
                if (many && i + 1 < end)
                    for (int64_t r = 0; r < count; r++)
                        for (int64_t l = 0; l < PANEL; l += 16) __builtin_prefetch(panel + r * depth + PANEL + l);
                for (int64_t row = 0; row < batch; row += TILE_ROWS) {
                    const float *a[TILE_ROWS];
                    int64_t at[TILE_ROWS], rows = least(TILE_ROWS, batch - row);
                    for (int64_t r = 0; r < rows; r++) {
                        a[r] = ders + (row + r) * FULL_PITCH;
                        at[r] = (row + r) * depth;
                    }
                    tile_rows(rows, a, &d, panel, depth, &ending, at);
                }
            }
        }
}
