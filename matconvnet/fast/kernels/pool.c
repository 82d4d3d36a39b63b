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

/* Pool the window of rows v and columns u for `count` channels, from x, the first of the image's,
   to y[at]. place: of the first pixel. A NaN wins, the last one of several; of equals the first. */
INLINE void pool_window(const float *x, float *y, void *winners, int64_t at, range v, range u,
                        int64_t place, const int64_t *n, int kind, int count)
{
    const int64_t width = n[2], channels = n[3];
    vf best = load_left(x + (v.from * width + u.from) * channels, count), sum = {};
    vi winner = (int32_t)place - (vi){};
    for (int64_t i = v.from; i < v.to; i++, place += n[5] - (u.to - u.from)) {
        const float *pixel = x + (i * width + u.from) * channels;
        for (int64_t j = u.from; j < u.to; j++, place++, pixel += channels) {
            vf value = load_left(pixel, count);
            if (kind == MEAN) {
                sum += value;
                continue;
            }
            vi wins = (value > best) | (value != value);
            best = where(wins, value, best);
            if (kind != MAXIMUM) winner = (wins & (int32_t)place) | (~wins & winner);
        }
    }
    if (kind == MEAN) best = sum * (1.0f / ((v.to - v.from) * (u.to - u.from)));
    store_left(y + at, best, count);
    if (winners) put_places(winners, at, winner, kind, count);
}

INLINE void pool_row(const float *x, float *y, void *winners, int64_t row, const int64_t *n,
                     int kind)
{
    const int64_t channels = n[3], image = row / n[10];
    const int64_t top = row % n[10] * n[6] - n[8];
    const range v = clipped(top, n[4], n[1]);
    x += image * n[1] * n[2] * channels;
    for (int64_t j = 0; j < n[11]; j++) {
        const int64_t left = j * n[7] - n[9], at = (row * n[11] + j) * channels;
        const range u = clipped(left, n[5], n[2]);
        const int64_t place = (v.from - top) * n[5] + u.from - left;
        if (channels < LANES) pool_window(x, y, winners, at, v, u, place, n, kind, channels);
        else
            for (int64_t c = 0; c < channels; c += LANES) {
                int64_t first = least(c, channels - LANES); /* the last ones overlap the others */
                pool_window(x + first, y, winners, at + first, v, u, place, n, kind, LANES);
            }
    }
}

/* p: x, y, winners or NULL. */
KERNEL(pool_forward)
{
    const float *x = p[0];
    float *y = p[1];
    void *winners = p[2];
    const int64_t rows = n[0] * n[10];
#pragma omp parallel for schedule(static) if (n[0] * n[1] * n[2] * n[3] > PARALLEL_WORTH)
    for (int64_t row = 0; row < rows; row++) {
        if (n[12] == MEAN) pool_row(x, y, winners, row, n, MEAN);
        else if (n[12] == MAXIMUM) pool_row(x, y, winners, row, n, MAXIMUM);
        else if (n[12] == MAXIMUM_BYTES) pool_row(x, y, winners, row, n, MAXIMUM_BYTES);
        else pool_row(x, y, winners, row, n, MAXIMUM_PLACES);
    }
}

/* What the windows of rows i and columns j give to `count` channels of pixel (v, u) of the padded
   map. at: of the first channel in the first window of the image. */
INLINE vf gather(const float *dzdy, const void *winners, int64_t at, range i, range j, int64_t v,
                 int64_t u, const int64_t *n, int kind, int count)
{
    vf sum = {};
    for (int64_t y = i.from; y < i.to; y++)
        for (int64_t x = j.from; x < j.to; x++) {
            int64_t from = at + (y * n[11] + x) * n[3], top = y * n[6], left = x * n[7];
            vf der = load_left(dzdy + from, count);
            if (kind == MEAN) {
                range rows = clipped(top - n[8], n[4], n[1]);
                range columns = clipped(left - n[9], n[5], n[2]);
                sum += der * (1.0f / ((rows.to - rows.from) * (columns.to - columns.from)));
            } else {
                int32_t place = (v - top) * n[5] + u - left;
                sum += where(fetch_places(winners, from, kind, count) == place, der, (vf){});
            }
        }
    return sum;
}

/* Write `count` derivatives, the first `done` of which stand there already. */
INLINE void put_der(float *dzdx, vf der, const float *mask, int add, int done, int count)
{
    if (add) {
        vf old = load_left(dzdx, count);
        der += old;
        if (done) memcpy(&der, &old, 4 * done);
    }
    if (mask) der = where(load_left(mask, count) <= 0, (vf){}, der);
    store_left(dzdx, der, count);
}

INLINE void pool_row_backward(const float *dzdy, const void *winners, float *dzdx,
                              const float *mask, int64_t row, const int64_t *n, int kind)
{
    const int64_t channels = n[3], image = row / n[1], v = row % n[1] + n[8];
    const int64_t first = image * n[10] * n[11] * channels;
    const range i = windows_of(v, n[4], n[6], n[10]);
    for (int64_t u = n[9]; u < n[9] + n[2]; u++) {
        const int64_t at = (row * n[2] + u - n[9]) * channels;
        const range j = windows_of(u, n[5], n[7], n[11]);
        if (channels < LANES) {
            vf der = gather(dzdy, winners, first, i, j, v, u, n, kind, channels);
            put_der(dzdx + at, der, mask ? mask + at : NULL, n[13], 0, channels);
        } else
            for (int64_t c = 0; c < channels; c += LANES) {
                int64_t k = least(c, channels - LANES); /* the last ones overlap the others */
                vf der = gather(dzdy, winners, first + k, i, j, v, u, n, kind, LANES);
                put_der(dzdx + at + k, der, mask ? mask + at + k : NULL, n[13], c - k, LANES);
            }
    }
}

/* Every pixel gathers from the windows that contain it, so that it is written once.
   p: dzdy, winners or NULL, dzdx, mask or NULL. */
KERNEL(pool_backward)
{
    const float *dzdy = p[0], *mask = p[3];
    const void *winners = p[1];
    float *dzdx = p[2];
    const int64_t rows = n[0] * n[1];
#pragma omp parallel for schedule(static) if (rows * n[2] * n[3] > PARALLEL_WORTH)
    for (int64_t row = 0; row < rows; row++) {
        if (n[12] == MEAN) pool_row_backward(dzdy, winners, dzdx, mask, row, n, MEAN);
        else if (n[12] == MAXIMUM_BYTES)
            pool_row_backward(dzdy, winners, dzdx, mask, row, n, MAXIMUM_BYTES);
        else pool_row_backward(dzdy, winners, dzdx, mask, row, n, MAXIMUM_PLACES);
    }
}
