/* Winograd's algorithm (winograd.h): convolutions, and their derivatives for the data. */

#include "winograd.h"

/* By which the scratch memory is measured. */
#ifndef HALF
VISIBLE const int64_t winograd_rows = ROWS;
#endif

/* What is done with the sums before they are written. */
typedef struct {
    const float *b;
    const num *residual, *mask;
    num *y;
    int64_t relu;
} ending;

/* Write the outputs `at` of a tile, filters [k, k + count), from its 36 numbers at m. */
INLINE void vector_of_output(const int side, const ending *e, const int64_t *at, int64_t k,
                             int64_t count, const float *m, int64_t between)
{
    vf sums[4][6], d[6], t[4], bias = e->b ? load_left(e->b + k, count) : (vf){};
#pragma GCC unroll 6
    for (int j = 0; j < 6; j++) {
        for (int i = 0; i < 6; i++) d[i] = load(m + (6 * i + j) * between);
        combine(side, d, OUTPUT, t);
        for (int i = 0; i < side; i++) sums[i][j] = t[i];
    }
    for (int i = 0; i < side; i++, at += side) {
        combine(side, sums[i], OUTPUT, t);
        for (int j = 0; j < side; j++) {
            if (at[j] < 0) continue;
            vf y = t[j] + bias;
            if (e->residual) y += load_left(e->residual + at[j] + k, count);
            if (e->mask) y = where(load_left(e->mask + at[j] + k, count) > 0, y, (vf){});
            if (e->relu) y = larger(y, (vf){});
            store_left(e->y + at[j] + k, y, count);
        }
    }
}

/* The same for filters [first, last), panels of which are m_panel apart. */
INLINE void tile_of_output(const int taps, const shape *s, const ending *e, int64_t tile,
                           int64_t first, int64_t last, const float *m, int64_t m_panel,
                           int64_t between)
{
    const int side = 7 - taps;
    int64_t at[16];
    find_pixels(side, s, tile, 0, 0, s->Y, s->X, s->y_pixel, at);
    for (int64_t k = first; k < last; k += LANES) {
        const float *from = m + (k - first) / WIDTH * m_panel + (k - first) % WIDTH;
        if (k + LANES <= last) vector_of_output(side, e, at, k, LANES, from, between);
        else vector_of_output(side, e, at, k, last - k, from, between);
    }
}

static void write_tile(const shape *s, const ending *e, int64_t tile, int64_t first, int64_t last,
                       const float *m, int64_t m_panel, int64_t between)
{
    BY_TAPS(s->taps, tile_of_output, s, e, tile, first, last, m, m_panel, between);
}

/* m = v . u for `rows` tiles and `wide` vectors of filters; v is in parts of LANES channels, in
   each ROWS x LANES. */
INLINE void product(const int rows, const int wide, const float *v, const float *u, int64_t C,
                    float *m)
{
    vf sums[14][2] = {};
    for (int64_t c = 0; c < C; c += LANES, v += ROWS * LANES)
        for (int64_t end = least(LANES, C - c), i = 0; i < end; i++, u += wide * LANES)
#pragma GCC unroll 14
            for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
                for (int w = 0; w < wide; w++)
                    sums[r][w] += v[r * LANES + i] * load(u + w * LANES);
#pragma GCC unroll 14
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
        for (int w = 0; w < wide; w++) store(m + r * WIDTH + w * LANES, sums[r][w]);
}

static void product_of(int64_t rows, int64_t wide, const float *v, const float *u, int64_t C,
                       float *m)
{
#define CASE(r)                                   \
    case r:                                       \
        if (wide == 2) product(r, 2, v, u, C, m); \
        else product(r, 1, v, u, C, m);           \
        break;
    switch (EVEN(rows)) { EACH_ROWS(CASE) }
#undef CASE
}

/* Floats of a panel of U: WIDTH filters, or the LANES last, as 36 x C x width. */
static inline int64_t panel_size(int64_t C) { return POINTS * odd(C * WIDTH); }

/* Exchange rows and columns: 2 x 2 blocks, then such blocks of blocks, ... */
static inline void transpose(vf rows[LANES])
{
    vi lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
#pragma GCC unroll 4
    for (int step = 1; step < LANES; step *= 2) {
        vi second = (lane & step) / step * (LANES - step); /* lanes that come from another row */
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++)
            if (!(i & step)) {
                vf a = rows[i], b = rows[i + step];
                rows[i] = __builtin_shuffle(a, b, lane + second);
                rows[i + step] = __builtin_shuffle(a, b, lane + step + second);
            }
    }
}

/* How filters f (K taps taps C) are multiplied. flipped: as in the derivative of the data, where
   they are turned by 180 degrees, and the sums are over K. */
typedef struct {
    const float *f;
    int64_t sums, made, C, taps, flipped;
} bank;

/* Transform the filters of a panel for LANES of the sums' numbers. */
INLINE void transform_slice(const int taps, const bank *a, int64_t panel, int64_t slice, float *u)
{
    const int area = taps * taps;
    int64_t wide = least(2, vectors(a->made - panel * WIDTH)), sum = slice * LANES;
    int64_t end = least(LANES, a->sums - sum), between = odd(a->sums * wide * LANES);
    for (int64_t w = 0; w < wide; w++) {
        int64_t k = panel * WIDTH + w * LANES, count = least(LANES, a->made - k);
        float turned[25][LANES][LANES]; /* tap, number of the sum, filter */
        if (a->flipped)
            for (int64_t i = 0; i < end; i++)
                for (int tap = 0; tap < area; tap++)
                    store(turned[tap][i],
                          load_left(a->f + ((sum + i) * area + area - 1 - tap) * a->C + k, count));
        else
            for (int tap = 0; tap < area; tap++) {
                vf rows[LANES] = {};
                for (int64_t j = 0; j < count; j++) {
                    const float *from = a->f + ((k + j) * area + tap) * a->C + sum;
                    rows[j] = load_left(from, end);
                    __builtin_prefetch(from + LANES); /* of the next slice */
                }
                transpose(rows);
                memcpy(turned[tap], rows, sizeof rows);
            }
        float *to = u + (sum * wide + w) * LANES;
        for (int64_t i = 0; i < end; i++, to += wide * LANES) {
            vf columns[6][5], d[5], t[6];
            for (int x = 0; x < taps; x++) {
                for (int y = 0; y < taps; y++) d[y] = load(turned[taps * y + x][i]);
                evaluate(taps, d, FILTER, t);
                for (int y = 0; y < 6; y++) columns[y][x] = t[y];
            }
            for (int y = 0; y < 6; y++) {
                evaluate(taps, columns[y], FILTER, t);
                for (int x = 0; x < 6; x++) store(to + (6 * y + x) * between, t[x]);
            }
        }
    }
}

static void slice_of_panel(const bank *a, int64_t panel, int64_t slice, float *u)
{
    BY_TAPS(a->taps, transform_slice, a, panel, slice, u);
}

#ifndef HALF
/* Transform all filters.

   p: f (K taps taps C), u;  n: K and C of a group, taps, groups, flipped */
KERNEL(winograd_filters)
{
    int64_t K = n[0], C = n[1], taps = n[2], groups = n[3], flipped = n[4];
    bank a = {NULL, flipped ? K : C, flipped ? C : K, C, taps, flipped};
    int64_t panels = (a.made + WIDTH - 1) / WIDTH, slices = vectors(a.sums);
#pragma omp parallel for collapse(2) schedule(static) if (groups * K * C > PARALLEL_WORTH / POINTS)
    for (int64_t panel = 0; panel < groups * panels; panel++)
        for (int64_t slice = 0; slice < slices; slice++) {
            bank group = a;
            group.f = (const float *)p[0] + panel / panels * K * taps * taps * C;
            slice_of_panel(&group, panel % panels, slice,
                           (float *)p[1] + panel * panel_size(a.sums));
        }
}
#endif

/* The numbers of a block of tiles, V: 36 x bands of ROWS tiles x vectors of channels x ROWS x
   LANES. */
static inline int64_t input_step(const shape *s, int64_t bands)
{
    return odd(bands * vectors(s->C) * ROWS * LANES);
}

static void band_of_input(const shape *s, const num *x, int64_t band, const num *zeros,
                          float *v, int64_t between)
{
    for (int64_t r = 0; r < ROWS && band * ROWS + r < s->tiles; r++)
        tile_of_input(s, x, band * ROWS + r, 0, s->C, zeros, v + r * LANES, ROWS * LANES, between);
}

/* Multiply a block of tiles with the panels [first, last) of U, that u holds; write the outputs. */
static void multiply(const shape *s, const ending *e, int64_t band, int64_t bands, const float *v,
                     const float *u, int64_t first, int64_t last, float *m)
{
    int64_t v_step = input_step(s, bands), band_size = vectors(s->C) * ROWS * LANES;
    int64_t m_size = ROWS * WIDTH, m_step = odd((last - first) * bands * m_size);
    for (int point = 0; point < POINTS; point++)
        for (int64_t panel = first; panel < last; panel++) {
            int64_t wide = least(2, vectors(s->K - panel * WIDTH));
            const float *up = u + (panel - first) * panel_size(s->C) +
                              point * odd(s->C * wide * LANES);
            for (int64_t b = 0; b < bands; b++)
                product_of(least(ROWS, s->tiles - (band + b) * ROWS), wide,
                           v + point * v_step + b * band_size, up, s->C,
                           m + point * m_step + ((panel - first) * bands + b) * m_size);
        }
    for (int64_t b = 0; b < bands; b++)
        for (int64_t r = 0; r < ROWS && (band + b) * ROWS + r < s->tiles; r++)
            write_tile(s, e, (band + b) * ROWS + r, first * WIDTH, least(s->K, last * WIDTH),
                       m + b * m_size + r * WIDTH, bands * m_size, m_step);
}

/* How a group's tiles and filters are taken in turn, and the memory for it: zeros (C), v (shared,
   or of each thread), m (of each thread). */
typedef struct {
    int64_t bands, panels, shared, threads;
    num *zeros;
    float *v, *m;
} plan;

/* f: filters that are transformed to u while they are used; its f is NULL, if u holds them all. */
static void convolve(const shape *s, const plan *a, const num *x, const bank *f, float *u,
                     const ending *e)
{
    int64_t all_bands = (s->tiles + ROWS - 1) / ROWS, all_panels = (s->K + WIDTH - 1) / WIDTH;
    int64_t v_size = POINTS * input_step(s, a->bands), u_size = panel_size(s->C);
    int64_t m_size = POINTS * odd(a->panels * a->bands * ROWS * WIDTH);
    int64_t band_size = vectors(s->C) * ROWS * LANES;
    if (!a->shared) {
#pragma omp parallel num_threads(a->threads)
        {
            int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
            int64_t end = all_bands * (thread + 1) / threads;
            float *v = a->v + thread * v_size, *m = a->m + thread * m_size;
            for (int64_t band = all_bands * thread / threads; band < end; band += a->bands) {
                int64_t bands = least(a->bands, end - band), step = input_step(s, bands);
                for (int64_t b = 0; b < bands; b++)
                    band_of_input(s, x, band + b, a->zeros, v + b * band_size, step);
                for (int64_t panel = 0; panel < all_panels; panel += a->panels)
                    multiply(s, e, band, bands, v, u + panel * u_size, panel,
                             least(all_panels, panel + a->panels), m);
            }
        }
        return;
    }
#pragma omp parallel num_threads(a->threads)
    for (int64_t band = 0; band < all_bands; band += a->bands) {
        int64_t bands = least(a->bands, all_bands - band), thread = omp_get_thread_num();
#pragma omp for schedule(static)
        for (int64_t b = 0; b < bands; b++)
            band_of_input(s, x, band + b, a->zeros, a->v + b * band_size, input_step(s, bands));
#pragma omp for schedule(static)
        for (int64_t panel = 0; panel < all_panels; panel += a->panels) {
            int64_t end = least(all_panels, panel + a->panels);
            float *panels = u + (f->f ? thread * a->panels : panel) * u_size;
            for (int64_t i = panel; f->f && i < end; i++)
                for (int64_t slice = 0; slice < vectors(s->C); slice++)
                    slice_of_panel(f, i, slice, panels + (i - panel) * u_size);
            multiply(s, e, band, bands, a->v, panels, panel, end, a->m + thread * m_size);
        }
    }
}

/* The same of another group; none stays none. */
static const void *shift(const void *a, int64_t bytes)
{
    return a ? (const char *)a + bytes : NULL;
}

/* y = relu((the convolution of x + b + residual) .* (mask > 0)), where b, residual, mask may be
   absent. Blocks of `bands` * ROWS tiles and `panels` panels of filters are computed at a time.
   shared: the threads work at one block, each at some of its filters, else at a block each.
   residual may be y. f: filters that are transformed while they are used, if shared; or NULL.

   p: x, f, u (all; or of each thread, if f), b, residual, mask, y,
      zeros (C of a group, as in x), v (shared, or of each thread), m (of each thread)
   n: batch, H, W, C and K (of a group), top, left, Y, X, taps, groups, stacked, beside; flipped, relu, bands,
      panels, shared, threads */
KERNEL(winograd)
{
    shape size = shape_of(n);
    int64_t flipped = n[SIZES], relu = n[SIZES + 1];
    plan a = {n[SIZES + 2], n[SIZES + 3], n[SIZES + 4], n[SIZES + 5], p[7], p[8], p[9]};
    int64_t u_size = p[1] ? 0 : (size.K + WIDTH - 1) / WIDTH * panel_size(size.C);
    memset(a.zeros, 0, sizeof(num) * size.C);
    for (int64_t g = 0; g < size.groups; g++) {
        int64_t k = g * size.K;
        bank f = {shift(p[1], 4 * k * filter_size(&size)), size.C, size.K,
                  flipped ? size.K : size.C, size.taps, flipped};
        ending e = {shift(p[3], 4 * k), shift(p[4], sizeof(num) * k),
                    shift(p[5], sizeof(num) * k), (num *)p[6] + k, relu};
        convolve(&size, &a, (const num *)p[0] + g * size.C, &f, (float *)p[2] + g * u_size, &e);
    }
}
