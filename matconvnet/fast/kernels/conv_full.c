/* Convolution with filters that cover the whole map: products of matrices, the filters a large one
   that lies in memory row by row, and the map a small one. The filters are read in place and once,
   ahead of their use; what is computed with them is copied first, as floats, in the order in which it
   is read, and stays in the caches. At a small batch the memory is the limit, else the arithmetic. */

#include "gemm.h"

#define FEW 8                                /* images for which the memory is the limit */
#define KEPT (1 << 16)                       /* floats of a map or of sums that stay in the second cache */

/* Tiles of FILTERS filters, whose rows may share a set of eight lines, times WIDE vectors at most. */
#if LANES == 16
#define FILTERS 7
#define WIDE 4
#define EACH_FILTERS(DO) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#else
#define FILTERS TILE_ROWS
#define WIDE 2
#define EACH_FILTERS EACH_ROWS
#endif
#define STRIP (WIDE * LANES)

INLINE int64_t rounded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

/* sum[r][...] += a number of row r * a row of b */
INLINE void accumulate(const int rows, const int width, vf sum[][WIDE], const float *a, int64_t row, const float *b)
{
    vf v[WIDE];
    UNROLL for (int i = 0; i < width; i++) v[i] = load(b + i * LANES);
    UNROLL for (int r = 0; r < rows; r++) {
        vf number = all(a[r * row]);
        UNROLL for (int i = 0; i < width; i++) sum[r][i] += number * v[i];
    }
}

INLINE void clear(const int rows, const int width, vf sum[][WIDE])
{
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < width; i++) sum[r][i] = all(0);
}

INLINE void put(const int rows, const int width, vf sum[][WIDE], float *out, int64_t row, int64_t add)
{
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int i = 0; i < width; i++) {
            float *to = out + r * row + i * LANES;
            store(to, add ? sum[r][i] + load(to) : sum[r][i]);
        }
}

/* Forward, a small batch: dot products */

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
            out[c * step + r] = rest + (add ? out[c * step + r] : 0);
        }
}

/* out[k][image] = sum of x[image] * filter k, for filters first ... end - 1 */
static void dots(const float *x, const float *f, float *out, int64_t step, int64_t first, int64_t end,
                 int64_t batch, int64_t depth)
{
    int64_t whole = batch / DOT_ROWS * DOT_ROWS;
    for (int64_t k = first; k < end; k += DOT_COLUMNS)
        for (int64_t d = 0; d < depth; d += DOT_DEPTH) {
            const float *xd = x + d, *fd = f + k * depth + d;
            int64_t count = least(DOT_DEPTH, depth - d);
            float *to = out + k * step;
            if (k + DOT_COLUMNS <= end) {
                for (int64_t r = 0; r < whole; r += DOT_ROWS)
                    dot_tile(DOT_ROWS, DOT_COLUMNS, xd + r * depth, fd, depth, count, to + r, step, d > 0);
                for (int64_t r = whole; r < batch; r++)
                    dot_tile(1, DOT_COLUMNS, xd + r * depth, fd, depth, count, to + r, step, d > 0);
            } else
                for (int64_t r = 0; r < batch; r++)
                    for (int64_t c = 0; c < end - k; c++)
                        dot_tile(1, 1, xd + r * depth, fd + c * depth, depth, count, to + c * step + r, step,
                                 d > 0);
        }
}

/* Forward: filters times panels of images, which lie in memory as depth x PANEL */

/* The same numbers of the next filters are read ahead. */
INLINE void forward_tile(const int rows, const int width, const float *f, int64_t depth, int64_t count,
                         const float *x, float *out, int64_t step, int64_t add)
{
    vf sum[FILTERS][WIDE];
    clear(rows, width, sum);
    int64_t d = 0;
    for (; d + 16 <= count; d += 16) {
        UNROLL for (int r = 0; r < rows; r++) __builtin_prefetch(f + (rows + r) * depth + d);
        for (int64_t i = d; i < d + 16; i++) accumulate(rows, width, sum, f + i, depth, x + i * width * LANES);
    }
    for (; d < count; d++) accumulate(rows, width, sum, f + d, depth, x + d * width * LANES);
    put(rows, width, sum, out, step, add);
}

static void forward_tiles(int64_t rows, int64_t width, const float *f, int64_t depth, int64_t count,
                          const float *x, float *out, int64_t step, int64_t add)
{
    if (rows == FILTERS && width == 2) forward_tile(FILTERS, 2, f, depth, count, x, out, step, add);
    else if (rows == FILTERS) forward_tile(FILTERS, 1, f, depth, count, x, out, step, add);
    else
        for (int64_t r = 0; r < rows; r++, f += depth, out += step)
            if (width == 2) forward_tile(1, 2, f, depth, count, x, out, step, add);
            else forward_tile(1, 1, f, depth, count, x, out, step, add);
}

/* out[k][image] = sum of x[image] * filter k, for filters first ... end - 1; x in panels of images */
static void products(const float *x, const float *f, float *out, int64_t step, int64_t first, int64_t end,
                     int64_t depth)
{
    int64_t length = rounded(most(64, KEPT / step), 16);
    for (int64_t d = 0; d < depth; d += length)
        for (int64_t k = first; k < end; k += FILTERS)
            for (int64_t n = 0; n < step; n += PANEL) {
                int64_t width = least(2, (step - n) / LANES);
                forward_tiles(least(FILTERS, end - k), width, f + k * depth + d, depth, least(length, depth - d),
                              x + n * depth + d * width * LANES, out + k * step + n, step, d > 0);
            }
}

/* Images of x as panels of depth x PANEL floats; the last may be half as wide. Zeros fill it. */
static void put_panels(const num *x, float *panels, int64_t batch, int64_t depth, int64_t first, int64_t end)
{
    for (int64_t n = 0; n < batch; n += PANEL) {
        int64_t images = least(PANEL, batch - n), lanes = images > LANES ? PANEL : LANES;
        for (int64_t d = first; d < end; d += LANES) {
            int64_t count = least(LANES, end - d);
            float *to = panels + n * depth + d * lanes;
            if (images < lanes) memset(to, 0, 4 * count * lanes);
            for (int64_t i = 0; i < images; i++) {
                vf v = load_left(x + (n + i) * depth + d, count);
                for (int64_t l = 0; l < count; l++) to[l * lanes + i] = v[l];
            }
        }
    }
}

/* Full filters.

   p  x, filters, bias, add, out, scratch of (depth + columns) * (batch, rounded to VECTOR); NULL for
      an absent one
   n  batch, depth, columns, relu, threads */
KERNEL(conv_full)
{
    const num *x = p[0], *residual = p[3];
    const float *f = p[1], *bias = p[2];
    num *out = p[4];
    int64_t batch = n[0], depth = n[1], K = n[2], relu = n[3], parts = threads_of(n[4]);
    int64_t step = rounded(batch, LANES), few = batch <= FEW;
    float *copy = p[5], *sums = copy + depth * step;
#pragma omp parallel for schedule(static) num_threads(parts) if (K * depth > PARALLEL_WORTH)
    for (int64_t part = 0; part < parts; part++)
        if (few)
            for (int64_t i = first_of(part, parts, batch * depth), end = first_of(part + 1, parts, batch * depth);
                 i < end; i += LANES)
                store_left(copy + i, load_left(x + i, end - i), end - i);
        else
            put_panels(x, copy, batch, depth, first_of(part, parts, depth), first_of(part + 1, parts, depth));
#pragma omp parallel for schedule(static) num_threads(parts) if (K * depth > PARALLEL_WORTH)
    for (int64_t part = 0; part < parts; part++) {
        int64_t first = first_of(part, parts, K), end = first_of(part + 1, parts, K);
        if (few) dots(copy, f, sums, step, first, end, batch, depth);
        else products(copy, f, sums, step, first, end, depth);
        for (int64_t k = first; k < end; k += LANES) {
            int64_t count = least(LANES, end - k);
            for (int64_t i = 0; i < batch; i++) {
                vf y;
                for (int64_t l = 0; l < LANES; l++) y[l] = l < count ? sums[(k + l) * step + i] : 0;
                if (bias) y += load_left(bias + k, count);
                if (residual) y += load_left(residual + i * K + k, count);
                if (relu) y = where(y < 0, all(0), y);
                store_left(out + i * K + k, y, count);
            }
        }
    }
}

/* Derivative of the map: dzdy times filters, in panels of their columns */

#define DATA_ROWS 16 /* rows of the filters that are read side by side: more would not be read ahead as well */

/* The panel after the next one is read ahead, if this is the first tile of its panel. */
INLINE void data_tile(const int rows, const int width, const float *ders, const float *f, int64_t depth,
                      int64_t count, int64_t ahead, float *out, int64_t step, int64_t add)
{
    vf sum[TILE_ROWS][WIDE];
    clear(rows, width, sum);
    for (int64_t k = 0; k < count; k++, f += depth) {
        UNROLL for (int i = 0; i < width * LANES; i += 16) __builtin_prefetch(f + ahead + i);
        accumulate(rows, width, sum, ders + k, DATA_ROWS, f);
    }
    put(rows, width, sum, out, step, add);
}

#define DATA_CASE(R)                                                                               \
    case R:                                                                                        \
        if (width == 2) data_tile(R, 2, ders, f, depth, count, ahead, out, step, add);             \
        else data_tile(R, 1, ders, f, depth, count, ahead, out, step, add);                        \
        break;

static void data_tiles(int64_t rows, int64_t width, const float *ders, const float *f, int64_t depth,
                       int64_t count, int64_t ahead, float *out, int64_t step, int64_t add)
{
    switch (rows) { EACH_ROWS(DATA_CASE) }
}

/* Derivative of `conv_full` with respect to x; 16 divides depth.

   p  dzdy, filters, add, mask, out, scratch of batch * (columns, rounded to DATA_ROWS, + depth + 16);
      add and mask NULL if absent
   n  batch, depth, columns, threads */
KERNEL(conv_full_data)
{
    const num *dzdy = p[0], *add = p[2], *mask = p[3];
    const float *f = p[1];
    num *out = p[4];
    int64_t batch = n[0], depth = n[1], K = n[2], parts = threads_of(n[3]), pitch = depth + 16;
    int64_t tiles = (batch + TILE_ROWS - 1) / TILE_ROWS, panels = (depth + PANEL - 1) / PANEL;
    int64_t width = rounded(2 * KEPT / batch + 1, PANEL); /* of the sums that stay in the cache */
    float *ders = p[5], *sums = ders + batch * rounded(K, DATA_ROWS);
#pragma omp parallel for schedule(static) num_threads(parts) if (K * depth > PARALLEL_WORTH)
    for (int64_t k = 0; k < K; k += DATA_ROWS)
        for (int64_t i = 0; i < batch; i++) {
            float *to = ders + k * batch + i * DATA_ROWS;
            for (int64_t j = k, end = least(k + DATA_ROWS, K); j < end; j += LANES, to += LANES)
                store_left(to, load_left(dzdy + i * K + j, end - j), end - j);
        }
#pragma omp parallel for schedule(static) num_threads(parts) if (K * depth > PARALLEL_WORTH)
    for (int64_t part = 0; part < parts; part++) {
        int64_t start = first_of(part, parts, panels) * PANEL;
        int64_t stop = least(depth, first_of(part + 1, parts, panels) * PANEL);
        for (int64_t left = start; left < stop; left += width)
            for (int64_t k = 0; k < K; k += DATA_ROWS)
                for (int64_t c = left; c < least(left + width, stop); c += PANEL)
                    for (int64_t tile = 0; tile < tiles; tile++) {
                        int64_t first = first_of(tile, tiles, batch), end = first_of(tile + 1, tiles, batch);
                        data_tiles(end - first, least(PANEL, stop - c) / LANES, ders + k * batch + first * DATA_ROWS,
                                   f + k * depth + c, depth, least(DATA_ROWS, K - k), tile ? 0 : 2 * PANEL,
                                   sums + first * pitch + c, pitch, k > 0);
                    }
        for (int64_t i = 0; i < batch; i++)
            for (int64_t c = start; c < stop; c += LANES) {
                int64_t at = i * depth + c;
                vf der = load(sums + i * pitch + c);
                if (add) der += load(add + at);
                if (mask) der = where(load(mask + at) > 0, der, all(0));
                store(out + at, der);
            }
    }
}

/* Derivative of the filters: columns of dzdy times panels of the map, summed over the images */

/* Copies of x and dzdy in the order in which `conv_full_filters` reads them; the derivative of the bias.

   p  x, dzdy, derivative of the bias or NULL,
      scratch of batch * (depth, rounded to STRIP, + columns, rounded to FILTERS)
   n  batch, depth, columns, threads */
KERNEL(conv_full_copies)
{
    const num *x = p[0], *dzdy = p[1];
    float *db = p[2];
    int64_t batch = n[0], depth = n[1], K = n[2];
    float *map = p[3], *ders = map + rounded(depth, STRIP) * batch;
#pragma omp parallel for schedule(static) num_threads(threads_of(n[3])) if (batch * depth > PARALLEL_WORTH)
    for (int64_t d = 0; d < depth; d += STRIP)
        for (int64_t i = 0; i < batch; i++) {
            float *to = map + d * batch + i * STRIP;
            for (int64_t c = d; c < d + STRIP; c += LANES, to += LANES)
                store(to, c < depth ? load_left(x + i * depth + c, depth - c) : all(0));
        }
#pragma omp parallel for schedule(static) num_threads(threads_of(n[3])) if (batch * K > PARALLEL_WORTH)
    for (int64_t k = 0; k < K; k += FILTERS) {
        int64_t rows = least(FILTERS, K - k);
        float *to = ders + k * batch, sum[FILTERS] = {0};
        for (int64_t i = 0; i < batch; i++, to += FILTERS)
            for (int64_t r = 0; r < rows; r++) sum[r] += to[r] = value(dzdy[i * K + k + r]);
        if (db) memcpy(db + k, sum, 4 * rows);
    }
}

INLINE void filters_tile(const int rows, const float *ders, const float *map, int64_t batch,
                         float *out, int64_t depth, int64_t columns)
{
    vf sum[FILTERS][WIDE];
    clear(rows, WIDE, sum);
    for (int64_t i = 0; i < batch; i++) accumulate(rows, WIDE, sum, ders + i * FILTERS, 1, map + i * STRIP);
    if (columns >= STRIP) put(rows, WIDE, sum, out, depth, 0);
    else
        UNROLL for (int r = 0; r < rows; r++)
            for (int64_t c = 0; c < columns; c += LANES)
                store_left(out + r * depth + c, sum[r][c / LANES], columns - c);
}

#define FILTERS_CASE(R)                                                                            \
    case R: filters_tile(R, ders, map, batch, out, depth, columns); break;

static void filters_tiles(int64_t rows, const float *ders, const float *map, int64_t batch, float *out,
                          int64_t depth, int64_t columns)
{
    switch (rows) { EACH_FILTERS(FILTERS_CASE) }
}

/* Derivatives of filters first ... end - 1.

   p  the scratch of `conv_full_copies`, out: the derivative of filter `first` and those after it
   n  batch, depth, first, end, threads */
KERNEL(conv_full_filters)
{
    int64_t batch = n[0], depth = n[1], start = n[2], end = n[3], parts = threads_of(n[4]);
    const float *map = p[0], *ders = map + rounded(depth, STRIP) * batch;
    float *out = p[1];
    int64_t panels = (depth + STRIP - 1) / STRIP, most_panels = most(1, KEPT / STRIP / batch);
#pragma omp parallel for schedule(static) num_threads(parts) if ((end - start) * depth > PARALLEL_WORTH)
    for (int64_t part = 0; part < parts; part++) {
        int64_t stop = first_of(part + 1, parts, panels);
        for (int64_t i = first_of(part, parts, panels), count; i < stop; i += count) {
            count = least(most_panels, stop - i);
            for (int64_t k = start, rows; k < end; k += rows) {
                rows = least(FILTERS - k % FILTERS, end - k);
                const float *tile = ders + k / FILTERS * FILTERS * batch + k % FILTERS;
                for (int64_t c = i * STRIP; c < least((i + count) * STRIP, depth); c += STRIP)
                    filters_tiles(rows, tile, map + c * batch, batch, out + (k - start) * depth + c, depth,
                                  depth - c);
            }
        }
    }
}
