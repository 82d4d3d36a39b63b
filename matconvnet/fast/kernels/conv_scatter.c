/* The derivative of a convolution with respect to the data in two passes over an image that stays in the
   cache: every pixel of dzdy times all filters, then the sum of what overlaps. */

#include "gemm.h"

#ifndef HALF /* products are written before they are summed: bfloat16 would round them */

/* x: H W C, y: Y X K, with th x tw taps. */
typedef struct {
    int64_t batch, H, W, C, K, Y, X, th, tw, top, left, threads;
} sizes;

/* products (Y X taps C) = dzdy (Y X K) . f (K taps C), of which the last panel begins where it fills a
   vector */
static void multiply(const sizes *s, const float *dzdy, const float *f, float *products)
{
    int64_t pixels = s->Y * s->X, depth = s->th * s->tw * s->C, tiles = (pixels + TILE_ROWS - 1) / TILE_ROWS;
    pieces sum = {1, 0, 1, 0, s->K, NULL};
    for (int64_t panel = 0; panel < depth; panel += PANEL) {
        int64_t columns = least(PANEL, most(LANES, depth - panel)), c = least(panel, depth - columns);
        finish to = {NULL, NULL, NULL, products + c, columns, 0};
        for (int64_t tile = 0; tile < tiles; tile++) {
            int64_t first = first_of(tile, tiles, pixels), rows = first_of(tile + 1, tiles, pixels) - first;
            const float *a[TILE_ROWS];
            int64_t at[TILE_ROWS];
            for (int64_t r = 0; r < rows; r++) a[r] = dzdy + (first + r) * s->K, at[r] = (first + r) * depth;
            tile_rows(rows, a, &sum, f + c, depth, &to, at);
        }
    }
}

/* What the products add up to at pixel (i, j) of x, finished as `f` says. */
INLINE void sum_pixel(const int width, const sizes *s, const float *products, int64_t i, int64_t j,
                      const finish *f)
{
    int64_t depth = s->th * s->tw * s->C, second = second_of(f->columns);
    int64_t first = most(0, j + s->left - s->X + 1), last = least(s->tw - 1, j + s->left);
    vf sum[2] = {};
    for (int64_t u = most(0, i + s->top - s->Y + 1); u < s->th && u <= i + s->top; u++) {
        const float *row = products + (i + s->top - u) * s->X * depth + u * s->tw * s->C;
        for (int64_t v = first; v <= last; v++) {
            const float *from = row + (j + s->left - v) * depth + v * s->C;
            UNROLL for (int w = 0; w < width; w++) sum[w] += load(from + w * second);
        }
    }
    finish_row(width, sum, f, (i * s->W + j) * s->C);
}

/* p  dzdy, f, add, mask (or NULL), dzdx, scratch: for each thread Y X taps C + PANEL
   n  as in `sizes`; th * tw * C >= LANES */
KERNEL(conv_scatter)
{
    const sizes *q = (const void *)n;
    const float *dzdy = p[0], *f = p[1], *add = p[2], *mask = p[3];
    float *dzdx = p[4], *scratch = p[5];
    int64_t pixels = q->Y * q->X, room = pixels * q->th * q->tw * q->C + PANEL, map = q->H * q->W * q->C;
#pragma omp parallel for schedule(static) num_threads(threads_of(q->threads))
    for (int64_t image = 0; image < q->batch; image++) {
        float *products = scratch + omp_get_thread_num() * room;
        multiply(q, dzdy + image * pixels * q->K, f, products);
        for (int64_t c = 0; c < q->C; c += PANEL) {
            int64_t at = image * map + c;
            finish to = {NULL, offset(add, at), offset(mask, at), dzdx + at, least(PANEL, q->C - c), 0};
            for (int64_t i = 0; i < q->H; i++)
                for (int64_t j = 0; j < q->W; j++)
                    if (to.columns > LANES) sum_pixel(2, q, products + c, i, j, &to);
                    else sum_pixel(1, q, products + c, i, j, &to);
        }
    }
}

#endif
