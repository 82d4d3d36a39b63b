/* Batch normalisation: two passes over a map in each direction.

   A map is `pixels` rows of `channels` numbers. They are read `fold` at a time, as rows of `width` =
   fold * channels numbers: whole tiles, whatever the number of channels, with `fold` numbers for
   each channel. The last pixels % fold of them are the start of such a row.

   Rows are split into `parts`, however many threads there are, and the sums of the parts added in
   order: the result does not depend on the threads. The second pass starts at the end, which the
   first has left in the cache. Memory is read from one end to the other: where it is not cached,
   several short rows at a time take up to three times as long. */

#include <math.h>

#include "kernel.h"

#define ALWAYS static inline __attribute__((always_inline))
#define TILE 64    /* numbers whose sums stay in registers */
#define STRIP 1024 /* numbers of a row that are worked on together: their sums stay in the cache */
#define PAGE 1024  /* numbers; rows in pages of their own are read together without loss */
#define BLOCK 128  /* rows whose sums are float32; those of blocks are double */

typedef struct {
    int64_t pixels, channels, width, parts, rows, rest; /* rest: numbers in the incomplete row */
} shape;

/* n begins: pixels, channels, fold, parts. */
static shape shape_of(const int64_t *n)
{
    return (shape){n[0], n[1], n[2] * n[1], n[3], n[0] / n[2], n[0] % n[2] * n[1]};
}

/* Rows of a part begin here. */
static int64_t start_of(const shape *g, int64_t part) { return g->rows * part / g->parts; }

/* How many of `lanes` numbers, from place `from` of the row, are in the incomplete row, which belongs
   to the last part. */
static int64_t rest_of(const shape *g, int64_t part, int64_t from, int64_t lanes)
{
    return part == g->parts - 1 ? most(0, least(lanes, g->rest - from)) : 0;
}

/* The derivative dzdy, that of a ReLU with output y behind the block: 0 where y <= 0. */
ALWAYS vf passed(const num *dzdy, const num *y, int64_t at, int64_t count)
{
    vf d = load_left(dzdy + at, count);
    return y ? where(load_left(y + at, count) > 0, d, (vf){}) : d;
}

/* Maps that the sums are taken of. No dzdy: of the deviations themselves. residual: where the
   derivative goes that `passed`. */
typedef struct {
    const num *x, *dzdy, *y;
    num *residual;
    int add_residual;
} summed;

/* s += sum of d, q += sum of d * (x - centre) over `rows` rows from place `at`; d: dzdy, or
   x - centre itself. whole: `lanes` are whole tiles. */
ALWAYS void add_rows(const summed *m, int64_t at, int64_t rows, int64_t width, int64_t lanes, int whole,
                     const float *centre, float *s, float *q)
{
    for (int64_t i = 0; i < lanes; i += TILE) {
        vf c[TILE / LANES], tile_s[TILE / LANES], tile_q[TILE / LANES];
        for (int v = 0; v < TILE / LANES; v++) {
            c[v] = load(centre + i + v * LANES);
            tile_s[v] = load(s + i + v * LANES);
            tile_q[v] = load(q + i + v * LANES);
        }
        for (int64_t r = 0; r < rows; r++)
            for (int v = 0; v < TILE / LANES; v++) {
                int64_t lane = i + v * LANES, here = at + r * width + lane;
                int64_t count = whole ? LANES : most(0, lanes - lane);
                vf t = load_left(m->x + here, count) - c[v], d = t;
                if (m->dzdy) d = passed(m->dzdy, m->y, here, count);
                if (m->residual) {
                    vf old = m->add_residual ? load_left(m->residual + here, count) : (vf){};
                    store_left(m->residual + here, old + d, count);
                }
                tile_s[v] += d;
                tile_q[v] += d * t;
            }
        for (int v = 0; v < TILE / LANES; v++) {
            store(s + i + v * LANES, tile_s[v]);
            store(q + i + v * LANES, tile_q[v]);
        }
    }
}

/* The sums over whole rows, from 0. */
ALWAYS void add_block(const summed *m, int64_t at, int64_t rows, int64_t width, int64_t lanes,
                      const float *centre, float *s, float *q)
{
    memset(s, 0, 4 * lanes);
    memset(q, 0, 4 * lanes);
    int64_t together = width == TILE ? rows : width >= PAGE ? 4 : 1;
    for (int64_t r = 0; r < rows; r += together)
        add_rows(m, at + r * width, least(together, rows - r), width, lanes, 1, centre, s, q);
}

/* mean and square: mean and sum of squared deviations of `have` numbers, for each lane. Join to them
   `more` numbers x, with s the sum of x - p and q that of its squares. */
static void join(double *mean, double *square, double have, const float *p, const float *s,
                 const float *q, double more, int64_t lanes)
{
    double share = more / (have + more), weight = have * share, inverse = 1 / more;
    for (int64_t i = 0; i < lanes; i++) {
        double off = s[i] * inverse, moved = p[i] + off - mean[i];
        square[i] += q[i] - s[i] * off + moved * moved * weight;
        mean[i] += moved * share;
    }
}

/* Moments of every lane over a part. The squares are taken about the mean of the rows before, so
   that nothing cancels where the mean is much larger than the deviation. */
static void moments_of_part(const shape *g, const num *x, int64_t part, double *means, double *squares)
{
    static const float none[STRIP];
    int64_t start = start_of(g, part), end = start_of(g, part + 1);
    for (int64_t from = 0; from < g->width; from += STRIP) {
        float centre[STRIP], s[STRIP], q[STRIP];
        double *mean = means + from, *square = squares + from;
        int64_t lanes = least(STRIP, g->width - from), first = least(8, end - start);
        const num *column = x + from;
        memset(centre, 0, sizeof centre);
        for (int64_t r = start; r < start + first; r++)
            for (int64_t i = 0; i < lanes; i++) centre[i] += value(column[r * g->width + i]) / first;
        memset(mean, 0, 8 * lanes);
        memset(square, 0, 8 * lanes);
        for (int64_t r = start; r < end; r += BLOCK) {
            int64_t rows = least(BLOCK, end - r);
            add_block(&(summed){.x = column}, r * g->width, rows, g->width, lanes, centre, s, q);
            join(mean, square, r - start, centre, s, q, rows, lanes);
            for (int64_t i = 0; i < lanes; i++) centre[i] = mean[i];
        }
        int64_t rest = rest_of(g, part, from, lanes);
        for (int64_t i = 0; i < rest; i++) centre[i] = value(column[g->rows * g->width + i]);
        join(mean, square, end - start, centre, none, none, 1, rest);
    }
}

#define CHANNELS 16 /* that are added up together */

/* How many numbers the part has of the channels at place `lane` of a row. */
static double numbers_of(const shape *g, int64_t part, int64_t lane)
{
    return start_of(g, part + 1) - start_of(g, part) + rest_of(g, part, lane, 1);
}

/* Mean and deviation of each channel in the batch.

   p: x; moments (C x 2), to be written; workspace of 2 * parts * width doubles.
   n: pixels, channels, fold, parts. s: epsilon. */
KERNEL(bnorm_moments)
{
    const shape g = shape_of(n);
    float *moments = p[1];
    double *means = p[2];
#pragma omp parallel for schedule(static) if (g.parts > 1)
    for (int64_t part = 0; part < g.parts; part++) {
        double *mean = means + 2 * part * g.width;
        moments_of_part(&g, p[0], part, mean, mean + g.width);
    }
#pragma omp parallel for schedule(static) if (g.parts * g.width > PARALLEL_WORTH)
    for (int64_t c = 0; c < g.channels; c += CHANNELS) {
        double mean[CHANNELS] = {}, square[CHANNELS] = {};
        int64_t count = least(CHANNELS, g.channels - c);
        for (int64_t part = 0; part < g.parts; part++)
            for (int64_t lane = c; lane < g.width; lane += g.channels) {
                const double *m = means + 2 * part * g.width + lane;
                const double share = numbers_of(&g, part, lane) / g.pixels;
                for (int64_t i = 0; i < count; i++) mean[i] += share * m[i];
            }
        for (int64_t part = 0; part < g.parts; part++)
            for (int64_t lane = c; lane < g.width; lane += g.channels) {
                const double *m = means + 2 * part * g.width + lane;
                const double numbers = numbers_of(&g, part, lane);
                for (int64_t i = 0; i < count; i++)
                    square[i] += m[g.width + i] + numbers * (m[i] - mean[i]) * (m[i] - mean[i]);
            }
        for (int64_t i = 0; i < count; i++) {
            moments[2 * (c + i)] = mean[i];
            moments[2 * (c + i) + 1] = sqrt(square[i] / g.pixels + s[0]);
        }
    }
}

/* y = (x - mu) * scale + b of a row; what stands in k, in order: mu, scale, b, STRIP of each. */
ALWAYS void normalise(const num *x, const num *residual, num *y, int relu, const float *k,
                      int64_t lanes)
{
    for (int64_t i = 0; i < lanes; i += LANES) {
        int64_t count = lanes - i;
        vf v = (load_left(x + i, count) - load(k + i)) * load(k + STRIP + i) + load(k + 2 * STRIP + i);
        if (residual) v += load_left(residual + i, count);
        if (relu) v = larger((vf){}, v);
        store_left(y + i, v, count);
    }
}

/* Normalise, scale and shift.

   p: x; moments (C x 2); g; b; map that is added, or NULL; y, to be written.
   n: pixels, channels, fold, parts, whether a ReLU follows. */
KERNEL(bnorm_apply)
{
    const shape g = shape_of(n);
    const num *x = p[0], *residual = p[4];
    const float *moments = p[1], *scales = p[2], *b = p[3];
    num *y = p[5];
    int relu = n[4];
#pragma omp parallel for schedule(static) if (g.parts > 1)
    for (int64_t i = 0; i < g.parts; i++) {
        int64_t part = g.parts - 1 - i, start = start_of(&g, part), end = start_of(&g, part + 1);
        for (int64_t from = 0; from < g.width; from += STRIP) {
            float k[3 * STRIP];
            int64_t lanes = least(STRIP, g.width - from), r = start;
            for (int64_t lane = 0; lane < lanes; lane++) {
                int64_t c = (from + lane) % g.channels;
                k[lane] = moments[2 * c];
                k[STRIP + lane] = scales[c] / moments[2 * c + 1];
                k[2 * STRIP + lane] = b[c];
            }
            for (; r < end + (part == g.parts - 1); r++) {
                int64_t at = r * g.width + from;
                if (r == g.rows) lanes = rest_of(&g, part, from, lanes);
                normalise(x + at, residual ? residual + at : NULL, y + at, relu, k, lanes);
            }
        }
    }
}

/* Sums of the derivative dzdy: of itself, and of its product with x - mu, for every lane of a part. */
static void sums_of_part(const shape *g, const summed *m, const float *moments, int64_t part, double *sums)
{
    int64_t start = start_of(g, part), end = start_of(g, part + 1);
    for (int64_t from = 0; from < g->width; from += STRIP) {
        float centre[STRIP], s[STRIP], q[STRIP];
        double *ders = sums + from, *products = ders + g->width;
        int64_t lanes = least(STRIP, g->width - from), rest = rest_of(g, part, from, lanes);
        for (int64_t i = 0; i < lanes; i++) centre[i] = moments[2 * ((from + i) % g->channels)];
        memset(s, 0, sizeof s);
        memset(q, 0, sizeof q);
        add_rows(m, g->rows * g->width + from, 1, g->width, rest, 0, centre, s, q);
        for (int64_t i = 0; i < lanes; i++) ders[i] = s[i], products[i] = q[i];
        for (int64_t r = start; r < end; r += BLOCK) {
            int64_t rows = least(BLOCK, end - r), at = r * g->width + from;
            add_block(m, at, rows, g->width, lanes, centre, s, q);
            for (int64_t i = 0; i < lanes; i++) ders[i] += s[i], products[i] += q[i];
        }
    }
}

/* Derivatives with respect to multipliers and biases.

   p: x; output of the ReLU behind the block, or NULL; dzdy; moments (C x 2); workspace of
   2 * parts * width doubles; totals (C x 2), to be written: sums of dzdy and of dzdy * (x - mu);
   dzdg, dzdb and moments (C x 2) * images, to be written, or NULL; where dzdy goes, 0 where the
   ReLU's output is, or NULL.
   n: pixels, channels, fold, parts, images, whether to add to what the last holds. */
KERNEL(bnorm_sums)
{
    const shape g = shape_of(n);
    const summed maps = {p[0], p[2], p[1], p[9], n[5]};
    const float *moments = p[3];
    double *sums = p[4];
    float *totals = p[5], *dzdg = p[6], *dzdb = p[7], *moments_out = p[8];
#pragma omp parallel for schedule(static) if (g.parts > 1)
    for (int64_t part = 0; part < g.parts; part++)
        sums_of_part(&g, &maps, moments, part, sums + 2 * part * g.width);
#pragma omp parallel for schedule(static) if (g.parts * g.width > PARALLEL_WORTH)
    for (int64_t c = 0; c < g.channels; c += CHANNELS) {
        double ders[CHANNELS] = {}, products[CHANNELS] = {};
        int64_t count = least(CHANNELS, g.channels - c);
        for (int64_t part = 0; part < g.parts; part++)
            for (int64_t lane = c; lane < g.width; lane += g.channels) {
                const double *sum = sums + 2 * part * g.width + lane;
                for (int64_t i = 0; i < count; i++) ders[i] += sum[i], products[i] += sum[g.width + i];
            }
        for (int64_t i = 0; i < count; i++) {
            const float *m = moments + 2 * (c + i);
            totals[2 * (c + i)] = ders[i];
            totals[2 * (c + i) + 1] = products[i];
            if (dzdg) dzdg[c + i] = products[i] / m[1];
            if (dzdb) dzdb[c + i] = ders[i];
            if (moments_out) {
                moments_out[2 * (c + i)] = m[0] * n[4];
                moments_out[2 * (c + i) + 1] = m[1] * n[4];
            }
        }
    }
}

/* Maps of the second pass backward: see bnorm_slopes. */
typedef struct {
    const num *x, *y, *dzdy, *mask;
    num *dzdx;
    int add;
} sloped;

/* dzdx = dzdy * scale + (x - mu) * product + constant of a row from place `at`; k: mu, scale,
   product, constant, STRIP of each. */
ALWAYS void slope(const sloped *m, int64_t at, const float *k, int64_t lanes)
{
    for (int64_t i = 0; i < lanes; i += LANES) {
        int64_t here = at + i, count = lanes - i;
        vf v = passed(m->dzdy, m->y, here, count) * load(k + STRIP + i);
        v += (load_left(m->x + here, count) - load(k + i)) * load(k + 2 * STRIP + i) + load(k + 3 * STRIP + i);
        if (m->add) v += load_left(m->dzdx + here, count);
        if (m->mask) v = where(load_left(m->mask + here, count) > 0, v, (vf){});
        store_left(m->dzdx + here, v, count);
    }
}

/* Derivative with respect to the map.

   p: x; output of the ReLU behind the block, or NULL; dzdy; moments (C x 2); g; totals of
   bnorm_sums, or NULL where the moments are constants; mask, or NULL; dzdx, to be written.
   n: pixels, channels, fold, parts, whether to add to what dzdx holds. */
KERNEL(bnorm_slopes)
{
    const shape g = shape_of(n);
    const sloped maps = {p[0], p[1], p[2], p[6], p[7], n[4]};
    const float *moments = p[3], *scales = p[4], *totals = p[5];
#pragma omp parallel for schedule(static) if (g.parts > 1)
    for (int64_t i = 0; i < g.parts; i++) {
        int64_t part = g.parts - 1 - i, start = start_of(&g, part), end = start_of(&g, part + 1);
        for (int64_t from = 0; from < g.width; from += STRIP) {
            float k[4 * STRIP];
            int64_t lanes = least(STRIP, g.width - from), r = start;
            for (int64_t lane = 0; lane < lanes; lane++) {
                int64_t c = (from + lane) % g.channels;
                float sigma = moments[2 * c + 1], scale = scales[c] / sigma, share = scale / g.pixels;
                k[lane] = moments[2 * c];
                k[STRIP + lane] = scale;
                k[2 * STRIP + lane] = totals ? -share * totals[2 * c + 1] / (sigma * sigma) : 0;
                k[3 * STRIP + lane] = totals ? -share * totals[2 * c] : 0;
            }
            for (; r < end + (part == g.parts - 1); r++) {
                if (r == g.rows) lanes = rest_of(&g, part, from, lanes);
                slope(&maps, r * g.width + from, k, lanes);
            }
        }
    }
}
