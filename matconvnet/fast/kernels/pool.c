/* Pooling: the maximum or the mean of windows, and the derivative.

   Numbers n of both kernels:
       0 images, 1 height, 2 width, 3 channels of x    4 height, 5 width of a window
       6 vertical, 7 horizontal stride    8 top, 9 left pad    10 height, 11 width of y
       12 what is pooled (kind)    13 add, of the derivative

   The winner of a maximum is told by its place in the whole window, row * width + column: a byte,
   or 4 bytes (kind PLACES). Windows are clipped to the map. */

#include "kernel.h"

enum { MEAN, MAXIMUM, MAXIMUM_BYTES, MAXIMUM_PLACES }; /* MAXIMUM: winners are not kept */

#define INLINE static inline __attribute__((always_inline))

#define WIDE 4 /* vectors of a window that are worked on together */
#define EACH(k, vectors) _Pragma("GCC unroll 4") for (int k = 0; k < (vectors); k++)

typedef uint8_t bytes __attribute__((vector_size(LANES)));
typedef uint16_t shorts __attribute__((vector_size(2 * LANES)));
typedef struct {
    int64_t from, to;
} range;

/* The pixels of a window that starts at `at`, clipped to a map of `limit` pixels. */
INLINE range clipped(int64_t at, int64_t size, int64_t limit)
{
    return (range){most(at, 0), least(at + size, limit)};
}

/* The windows that contain a pixel, `at` being its place in the padded map. */
INLINE range windows_of(int64_t at, int64_t size, int64_t stride, int64_t count)
{
    int64_t beyond = at - size + stride; /* stride times the first one, if none is clipped */
    return (range){beyond < 0 ? 0 : beyond / stride, least(at / stride + 1, count)};
}

INLINE vi fetch_places(const void *winners, int64_t at, int kind, int count)
{
    vi places = {};
    if (kind == MAXIMUM_PLACES) {
        memcpy(&places, (const int32_t *)winners + at, 4 * count);
        return places;
    }
    bytes narrow = {};
    memcpy(&narrow, (const uint8_t *)winners + at, count);
    /* In one step GCC converts them one by one. */
    shorts wider = __builtin_convertvector(narrow, shorts);
    return __builtin_convertvector(wider, vi);
}

INLINE void put_places(void *winners, int64_t at, vi places, int kind, int count)
{
    if (kind == MAXIMUM_PLACES) memcpy((int32_t *)winners + at, &places, 4 * count);
    if (kind != MAXIMUM_BYTES) return;
    bytes narrow = __builtin_convertvector(places, bytes);
    memcpy((uint8_t *)winners + at, &narrow, count);
}

/* Pool the window of rows v and columns u, for `vectors` vectors of `count` channels, from x, the
   first of the image's, to y[at]. place: of the first pixel. A NaN wins, the last one of several; of
   equals the first. */
INLINE void pool_window(const num *x, num *y, void *winners, int64_t at, range v, range u,
                        int64_t place, const int64_t *n, int kind, int vectors, int count)
{
    const int64_t width = n[2], channels = n[3];
    const num *corner = x + (v.from * width + u.from) * channels;
    vf best[WIDE];
    vi winner[WIDE];
    EACH(k, vectors)
    {
        best[k] = kind == MEAN ? (vf){} : load_left(corner + k * LANES, count);
        winner[k] = (int32_t)place - (vi){};
    }
    for (int64_t i = v.from; i < v.to; i++, place += n[5] - (u.to - u.from)) {
        const num *pixel = x + (i * width + u.from) * channels;
        for (int64_t j = u.from; j < u.to; j++, place++, pixel += channels) EACH(k, vectors)
            {
                vf value = load_left(pixel + k * LANES, count);
                if (kind == MEAN) {
                    best[k] += value;
                    continue;
                }
                vi wins = (value > best[k]) | (value != value);
                best[k] = where(wins, value, best[k]);
                if (kind != MAXIMUM) winner[k] = (wins & (int32_t)place) | (~wins & winner[k]);
            }
    }
    EACH(k, vectors)
    {
        if (kind == MEAN) best[k] *= 1.0f / ((v.to - v.from) * (u.to - u.from));
        store_left(y + at + k * LANES, best[k], count);
        if (winners) put_places(winners, at + k * LANES, winner[k], kind, count);
    }
}

INLINE void pool_row(const num *x, num *y, void *winners, int64_t row, range part,
                     const int64_t *n, int kind)
{
    const int64_t channels = n[3], image = row / n[10];
    const int64_t top = row % n[10] * n[6] - n[8];
    const range v = clipped(top, n[4], n[1]);
    x += image * n[1] * n[2] * channels;
    for (int64_t j = 0; j < n[11]; j++) {
        const int64_t left = j * n[7] - n[9], at = (row * n[11] + j) * channels;
        const range u = clipped(left, n[5], n[2]);
        const int64_t place = (v.from - top) * n[5] + u.from - left;
        int64_t c = part.from;
        if (channels < LANES) pool_window(x, y, winners, at, v, u, place, n, kind, 1, channels);
        else {
            for (; c + WIDE * LANES <= part.to; c += WIDE * LANES)
                pool_window(x + c, y, winners, at + c, v, u, place, n, kind, WIDE, LANES);
            for (; c < part.to; c += LANES) {
                int64_t k = least(c, part.to - LANES); /* the last ones overlap the others */
                pool_window(x + k, y, winners, at + k, v, u, place, n, kind, 1, LANES);
            }
        }
    }
}

/* Into how many parts the channels of a row are split, so that a few rows serve all threads. */
static int64_t parts_of(int64_t rows, int64_t channels)
{
    return rows < 64 ? most(channels / 256, 1) : 1;
}

/* Part i of the channels: whole blocks of vectors, but the last one has what is left, too. */
static range part_of(int64_t i, int64_t parts, int64_t channels)
{
    return (range){i * 256, i == parts - 1 ? channels : (i + 1) * 256};
}

/* p: x, y, winners or NULL. */
KERNEL(pool_forward)
{
    const num *x = p[0];
    num *y = p[1];
    void *winners = p[2];
    const int64_t rows = n[0] * n[10], parts = parts_of(rows, n[3]);
#pragma omp parallel for schedule(static) if (n[0] * n[1] * n[2] * n[3] > PARALLEL_WORTH)
    for (int64_t i = 0; i < rows * parts; i++) {
        const int64_t row = i / parts;
        const range part = part_of(i % parts, parts, n[3]);
        if (n[12] == MEAN) pool_row(x, y, winners, row, part, n, MEAN);
        else if (n[12] == MAXIMUM) pool_row(x, y, winners, row, part, n, MAXIMUM);
        else if (n[12] == MAXIMUM_BYTES) pool_row(x, y, winners, row, part, n, MAXIMUM_BYTES);
        else pool_row(x, y, winners, row, part, n, MAXIMUM_PLACES);
    }
}

#define AHEAD 512 /* numbers of a map that are fetched before they are written */

/* Write `count` derivatives, the first `done` of which stand there already. */
INLINE void put_der(num *dzdx, vf der, const num *mask, int add, int done, int count)
{
    if (add) {
        vf old = load_left(dzdx, count);
        der += old;
        if (done) memcpy(&der, &old, sizeof(float) * done);
    }
    if (mask) der = where(load_left(mask, count) <= 0, (vf){}, der);
    store_left(dzdx, der, count);
}

/* Maps of the derivative: see pool_backward. */
typedef struct {
    const num *dzdy, *mask_dzdy, *mask;
    const void *winners;
    num *dzdx;
} maps;

/* Write to dzdx[to], `vectors` vectors of `count` channels, what the windows of rows i and columns j
   give to pixel (v, u) of the padded map. at: of the channels in the first window of the image. */
INLINE void gather(maps m, int64_t at, range i, range j, int64_t v, int64_t u, int64_t to,
                   int done, const int64_t *n, int kind, int vectors, int count)
{
    vf sum[WIDE];
    EACH(k, vectors) sum[k] = (vf){};
    for (int64_t y = i.from; y < i.to; y++)
        for (int64_t x = j.from; x < j.to; x++) {
            const int64_t from = at + (y * n[11] + x) * n[3], top = y * n[6], left = x * n[7];
            const range rows = clipped(top - n[8], n[4], n[1]);
            const range columns = clipped(left - n[9], n[5], n[2]);
            const float share = 1.0f / ((rows.to - rows.from) * (columns.to - columns.from));
            const int32_t place = (v - top) * n[5] + u - left;
            EACH(k, vectors)
            {
                const int64_t c = from + k * LANES;
                vf der = load_left(m.dzdy + c, count);
                if (m.mask_dzdy) der = where(load_left(m.mask_dzdy + c, count) <= 0, (vf){}, der);
                if (kind == MEAN) sum[k] += der * share;
                else {
                    vi places = fetch_places(m.winners, c, kind, count);
                    sum[k] += where(places == place, der, (vf){});
                }
            }
        }
    EACH(k, vectors)
    {
        int64_t c = to + k * LANES;
        __builtin_prefetch(m.dzdx + c + AHEAD, 1); /* stores alone wait for every line */
        put_der(m.dzdx + c, sum[k], m.mask ? m.mask + c : NULL, n[13], done, count);
    }
}

INLINE void pool_row_backward(maps m, int64_t row, range part, const int64_t *n, int kind)
{
    const int64_t channels = n[3], image = row / n[1], v = row % n[1] + n[8];
    const int64_t first = image * n[10] * n[11] * channels;
    const range i = windows_of(v, n[4], n[6], n[10]);
    for (int64_t u = n[9]; u < n[9] + n[2]; u++) {
        const int64_t at = (row * n[2] + u - n[9]) * channels;
        const range j = windows_of(u, n[5], n[7], n[11]);
        int64_t c = part.from;
        if (channels < LANES) gather(m, first, i, j, v, u, at, 0, n, kind, 1, channels);
        else {
            for (; c + WIDE * LANES <= part.to; c += WIDE * LANES)
                gather(m, first + c, i, j, v, u, at + c, 0, n, kind, WIDE, LANES);
            for (; c < part.to; c += LANES) {
                int64_t k = least(c, part.to - LANES); /* the last ones overlap the others */
                gather(m, first + k, i, j, v, u, at + k, c - k, n, kind, 1, LANES);
            }
        }
    }
}

/* Every pixel gathers from the windows that contain it, so that it is written once.
   p: dzdy, winners or NULL, dzdx, mask or NULL, mask of dzdy or NULL. */
KERNEL(pool_backward)
{
    const maps m = {.dzdy = p[0], .winners = p[1], .dzdx = p[2], .mask = p[3], .mask_dzdy = p[4]};
    const int64_t rows = n[0] * n[1], parts = parts_of(rows, n[3]);
#pragma omp parallel for schedule(static) if (rows * n[2] * n[3] > PARALLEL_WORTH)
    for (int64_t i = 0; i < rows * parts; i++) {
        const int64_t row = i / parts;
        const range part = part_of(i % parts, parts, n[3]);
        if (n[12] == MEAN) pool_row_backward(m, row, part, n, MEAN);
        else if (n[12] == MAXIMUM_BYTES) pool_row_backward(m, row, part, n, MAXIMUM_BYTES);
        else pool_row_backward(m, row, part, n, MAXIMUM_PLACES);
    }
}
