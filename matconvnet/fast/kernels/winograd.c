/* Winograd's algorithm (winograd.h): convolutions, and their derivatives with respect to the data. */

#include "winograd.h"

/* LANES and ROWS, by which the scratch memory is measured. */
__attribute__((visibility("default"))) const int64_t winograd_registers[2] = {LANES, ROWS};

/* What is done with the sums before they are written. */
typedef struct {
    const float *b, *residual, *mask;
    float *y;
    int64_t relu;
} ending;

/* Write 4 x 4 outputs of a tile, filters [k, k + count), from its 36 numbers at m. */
static inline __attribute__((always_inline)) void vector_of_output(const shape *s, const ending *e,
                                                                   int64_t tile, int64_t k,
                                                                   int64_t count, const float *m,
                                                                   int64_t between)
{
    int64_t n = tile / (s->down * s->across), row = 4 * (tile / s->across % s->down);
    int64_t column = 4 * (tile % s->across), rows = least(4, s->Y - row), columns = s->X - column;
    vf sums[4][6], d[6], t[4], bias = e->b ? load_first(e->b + k, count) : (vf){};
#pragma GCC unroll 6
    for (int j = 0; j < 6; j++) {
        for (int i = 0; i < 6; i++) d[i] = load(m + (6 * i + j) * between);
        transform_output(d, t);
        for (int i = 0; i < 4; i++) sums[i][j] = t[i];
    }
    for (int i = 0; i < rows; i++) {
        int64_t at = ((n * s->Y + row + i) * s->X + column) * s->K + k;
        transform_output(sums[i], t);
        for (int j = 0; j < 4 && j < columns; j++, at += s->K) {
            vf y = t[j] + bias;
            if (e->residual) y += load_first(e->residual + at, count);
            if (e->mask) y = where(load_first(e->mask + at, count) > 0, y, (vf){});
            if (e->relu) y = larger(y, (vf){});
            store_first(e->y + at, y, count);
        }
    }
}

static void tile_of_output(const shape *s, const ending *e, int64_t tile, int64_t k, int64_t count,
                           const float *m, int64_t between)
{
    if (count >= LANES) vector_of_output(s, e, tile, k, LANES, m, between);
    else vector_of_output(s, e, tile, k, count, m, between);
}

/* m = v . u for `rows` tiles and `wide` vectors of filters; v is in parts of LANES channels, in each
   ROWS x LANES. */
static inline __attribute__((always_inline)) void product(int rows, int wide, const float *v,
                                                          const float *u, int64_t C, float *m)
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
        for (int w = 0; w < wide; w++) store(m + (r * wide + w) * LANES, sums[r][w]);
}

static void product_of(int64_t rows, int64_t wide, const float *v, const float *u, int64_t C,
                       float *m)
{
#define CASE(r)                                       \
    case r:                                           \
        if (wide == 2) product(r, 2, v, u, C, m);     \
        else product(r, 1, v, u, C, m);               \
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

/* How filters f (K 3 3 C) are multiplied. flipped: as in the derivative of the data, where they are
   turned by 180 degrees, and the sums are over K. */
typedef struct {
    const float *f;
    int64_t sums, made, C, flipped;
} bank;

/* Transform the filters of a panel for LANES of the sums' numbers. */
static void slice_of_panel(const bank *a, int64_t panel, int64_t slice, float *u)
{
    int64_t wide = least(2, vectors(a->made - panel * WIDTH)), sum = slice * LANES;
    int64_t end = least(LANES, a->sums - sum), between = odd(a->sums * wide * LANES);
    for (int64_t w = 0; w < wide; w++) {
        int64_t k = panel * WIDTH + w * LANES, count = least(LANES, a->made - k);
        float turned[9][LANES][LANES]; /* tap, number of the sum, filter */
        if (a->flipped)
            for (int64_t i = 0; i < end; i++)
                for (int tap = 0; tap < 9; tap++)
                    store(turned[tap][i],
                          load_first(a->f + ((sum + i) * 9 + 8 - tap) * a->C + k, count));
        else
            for (int tap = 0; tap < 9; tap++) {
                vf rows[LANES] = {};
                for (int64_t j = 0; j < count; j++) {
                    const float *from = a->f + ((k + j) * 9 + tap) * a->C + sum;
                    rows[j] = load_first(from, end);
                    __builtin_prefetch(from + LANES); /* of the next slice */
                }
                transpose(rows);
                memcpy(turned[tap], rows, sizeof rows);
            }
        float *to = u + (sum * wide + w) * LANES;
        for (int64_t i = 0; i < end; i++, to += wide * LANES) {
            vf columns[6][3], d[3], t[6];
            for (int x = 0; x < 3; x++) {
                for (int y = 0; y < 3; y++) d[y] = load(turned[3 * y + x][i]);
                transform_filter(d, t);
                for (int y = 0; y < 6; y++) columns[y][x] = t[y];
            }
            for (int y = 0; y < 6; y++) {
                transform_filter(columns[y], t);
                for (int x = 0; x < 6; x++) store(to + (6 * y + x) * between, t[x]);
            }
        }
    }
}

/* Transform all filters.

   p: f (K 3 3 C), u;  n: K, C, flipped */
KERNEL(winograd_filters)
{
    int64_t K = n[0], C = n[1], flipped = n[2];
    bank a = {p[0], flipped ? K : C, flipped ? C : K, C, flipped};
    float *u = p[1];
    int64_t panels = (a.made + WIDTH - 1) / WIDTH, slices = vectors(a.sums);
#pragma omp parallel for collapse(2) schedule(static) if (K * C > PARALLEL_WORTH / POINTS)
    for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t slice = 0; slice < slices; slice++)
            slice_of_panel(&a, panel, slice, u + panel * panel_size(a.sums));
}

/* The numbers of a block of tiles, V: 36 x groups of ROWS tiles x vectors of channels x ROWS x LANES. */
static inline int64_t input_step(const shape *s, int64_t groups)
{
    return odd(groups * vectors(s->C) * ROWS * LANES);
}

static void group_of_input(const shape *s, const float *x, int64_t group, const float *zeros,
                           float *v, int64_t between)
{
    for (int64_t r = 0; r < ROWS && group * ROWS + r < s->tiles; r++)
        tile_of_input(s, x, group * ROWS + r, 0, s->C, zeros, v + r * LANES, ROWS * LANES, between);
}

/* Multiply a block of tiles with the panels [first, last) of U, that u holds, and write the outputs. */
static void multiply(const shape *s, const ending *e, int64_t group, int64_t groups, const float *v,
                     const float *u, int64_t first, int64_t last, float *m)
{
    int64_t v_step = input_step(s, groups), group_size = vectors(s->C) * ROWS * LANES;
    int64_t m_size = ROWS * WIDTH, m_step = odd((last - first) * groups * m_size);
    for (int point = 0; point < POINTS; point++)
        for (int64_t panel = first; panel < last; panel++) {
            int64_t wide = least(2, vectors(s->K - panel * WIDTH));
            const float *up = u + (panel - first) * panel_size(s->C) +
                              point * odd(s->C * wide * LANES);
            for (int64_t g = 0; g < groups; g++)
                product_of(least(ROWS, s->tiles - (group + g) * ROWS), wide,
                           v + point * v_step + g * group_size, up, s->C,
                           m + point * m_step + ((panel - first) * groups + g) * m_size);
        }
    for (int64_t g = 0; g < groups; g++)
        for (int64_t r = 0; r < ROWS && (group + g) * ROWS + r < s->tiles; r++)
            for (int64_t k = first * WIDTH; k < least(s->K, last * WIDTH); k += LANES) {
                int64_t panel = k / WIDTH, wide = least(2, vectors(s->K - panel * WIDTH));
                const float *from = m + ((panel - first) * groups + g) * m_size +
                                    r * wide * LANES + k % WIDTH;
                tile_of_output(s, e, (group + g) * ROWS + r, k, least(LANES, s->K - k), from, m_step);
            }
}

/* y = relu((the convolution of x + b + residual) .* (mask > 0)), where b, residual, mask may be
   absent. Blocks of `groups` * ROWS tiles and `panels` panels of filters are computed at a time.
   shared: the threads work at one block, each at some of its filters, else at a block each.
   residual may be y. f: filters that are transformed while they are used, if shared; or NULL.

   p: x, f, u (all; or of each thread, if f), b, residual, mask, y, zeros (C),
      v (shared, or of each thread), m (of each thread)
   n: batch, H, W, C, K, top, left, Y, X, flipped, relu, groups, panels, shared, threads */
KERNEL(winograd)
{
    shape size = shape_of(n);
    const float *x = p[0];
    bank filters = {p[1], size.C, size.K, n[9] ? size.K : size.C, n[9]};
    ending e = {p[3], p[4], p[5], p[6], n[10]};
    float *u = p[2], *zeros = p[7], *v = p[8], *m = p[9];
    int64_t most_groups = n[11], most_panels = n[12], shared = n[13], threads = n[14];
    int64_t all_groups = (size.tiles + ROWS - 1) / ROWS, all_panels = (size.K + WIDTH - 1) / WIDTH;
    int64_t v_size = POINTS * input_step(&size, most_groups), u_size = panel_size(size.C);
    int64_t m_size = POINTS * odd(most_panels * most_groups * ROWS * WIDTH);
    int64_t group_size = vectors(size.C) * ROWS * LANES;
    memset(zeros, 0, 4 * size.C);
    if (!shared) {
#pragma omp parallel for schedule(static) num_threads(threads)
        for (int64_t group = 0; group < all_groups; group += most_groups) {
            int64_t groups = least(most_groups, all_groups - group);
            float *mine = v + omp_get_thread_num() * v_size;
            for (int64_t g = 0; g < groups; g++)
                group_of_input(&size, x, group + g, zeros, mine + g * group_size,
                               input_step(&size, groups));
            for (int64_t panel = 0; panel < all_panels; panel += most_panels)
                multiply(&size, &e, group, groups, mine, u + panel * u_size, panel,
                         least(all_panels, panel + most_panels), m + omp_get_thread_num() * m_size);
        }
        return;
    }
#pragma omp parallel num_threads(threads)
    for (int64_t group = 0; group < all_groups; group += most_groups) {
        int64_t groups = least(most_groups, all_groups - group), thread = omp_get_thread_num();
#pragma omp for schedule(static)
        for (int64_t g = 0; g < groups; g++)
            group_of_input(&size, x, group + g, zeros, v + g * group_size,
                           input_step(&size, groups));
#pragma omp for schedule(static)
        for (int64_t panel = 0; panel < all_panels; panel += most_panels) {
            int64_t end = least(all_panels, panel + most_panels);
            float *panels = u + (filters.f ? thread * most_panels : panel) * u_size;
            for (int64_t i = panel; filters.f && i < end; i++)
                for (int64_t slice = 0; slice < vectors(size.C); slice++)
                    slice_of_panel(&filters, i, slice, panels + (i - panel) * u_size);
            multiply(&size, &e, group, groups, v, panels, panel, end, m + thread * m_size);
        }
    }
}
