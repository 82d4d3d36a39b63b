/* Convolution without a matrix of patches: tiles of a product that read the map where it lies, or,
   where windows leave the map, a padded copy of a block of rows that stays in the cache. */

#include "gemm.h"

/* r[i][j] and r[j][i] change places. */
INLINE void transpose(vf r[LANES])
{
    UNROLL for (int h = LANES / 2; h > 0; h /= 2) {
        vi low, high;
        for (int l = 0; l < LANES; l++) low[l] = l & h ? l - h + LANES : l;
        for (int l = 0; l < LANES; l++) high[l] = l & h ? l + LANES : l + h;
        _Pragma("GCC unroll 16") for (int i = 0; i < LANES; i++) {
            if (i & h) continue;
            vf a = r[i], b = r[i + h];
            r[i] = __builtin_shuffle(a, b, low);
            r[i + h] = __builtin_shuffle(a, b, high);
        }
    }
}

/* Filters in panels: for every group and PANEL columns a row of packed_row(columns) pairs for every
   (i, j, pair of d) of the depth.

   p  filters, panels
   n  as in `packing`; the number of (group, column, i, j, d) stands at first + the sum of steps */
typedef struct {
    int64_t groups, columns, outer, inner, depth;
    int64_t first, group_step, column_step, outer_step, inner_step, depth_step;
} packing;

/* The first `count` numbers of a[0], a[step], ... */
INLINE vf gather(const float *a, int64_t step, int64_t count)
{
    if (step == 1 && count == LANES) return load(a);
    vf v = {};
    for (int l = 0; l < count; l++) v[l] = a[l * step];
    return v;
}

static void pack_panel(const packing *s, const float *f, int64_t columns, pair *panel)
{
    int64_t wide = packed_row(columns);
    for (int64_t i = 0; i < s->outer; i++)
        for (int64_t j = 0; j < s->inner; j++, panel += pairs_of(s->depth) * wide) {
            const float *from = f + i * s->outer_step + j * s->inner_step;
            for (int64_t v = 0, last = wide - LANES; v <= last; v += v < last ? least(LANES, last - v) : 1) {
                int64_t count = least(LANES, columns - v), d = 0;
                const float *a = from + v * s->column_step;
                pair *to = panel + v;
                if (s->depth_step == 1)
                    for (; d + LANES <= s->depth; d += LANES) {
                        vf r[LANES];
                        for (int l = 0; l < LANES; l++)
                            r[l] = l < count ? load(a + l * s->column_step + d) : all(0);
                        transpose(r);
                        for (int l = 0; l < LANES; l += PAIR, to += wide)
                            store_pairs(to, paired(r[l], r[l + PAIR - 1]));
                    }
                for (; d < s->depth; d += PAIR, to += wide) {
                    const float *first = a + d * s->depth_step, *second = first + (PAIR - 1) * s->depth_step;
                    vf zero = {}, numbers = gather(first, s->column_step, count);
                    int64_t is_whole = d + PAIR <= s->depth;
                    store_pairs(to, paired(numbers, is_whole ? gather(second, s->column_step, count) : zero));
                }
            }
        }
}

/* Pairs in the panels of one group before column `k` (a multiple of PANEL); depth: in pairs. */
static int64_t packed_before(int64_t k, int64_t depth) { return k * depth; }

static int64_t packed_group(int64_t columns, int64_t depth)
{
    int64_t whole = columns / PANEL * PANEL, rest = columns - whole;
    return depth * (whole + (rest ? packed_row(rest) : 0));
}

KERNEL(conv_pack)
{
    const packing *q = (const void *)n;
    const float *f = p[0];
    pair *packed = p[1];
    int64_t depth = q->outer * q->inner * pairs_of(q->depth), panels = (q->columns + PANEL - 1) / PANEL;
    int64_t work = q->groups * q->columns * depth;
#pragma omp parallel for schedule(static) if (work > PARALLEL_WORTH)
    for (int64_t t = 0; t < q->groups * panels; t++) {
        int64_t g = t / panels, k = t % panels * PANEL;
        pack_panel(q, f + q->first + g * q->group_step + k * q->column_step,
                   least(PANEL, q->columns - k),
                   packed + g * packed_group(q->columns, depth) + packed_before(k, depth));
    }
}

/* Windows over a map: the one of output pixel (i, j) begins at input pixel (i * sy + oy, j * sx + ox)
   and has th x tw taps, dy and dx pixels apart. Pixels outside the map are 0. */
typedef struct {
    int64_t batch, height, width, channels;
    int64_t groups, depth, columns; /* input and output channels of one group */
    int64_t rows, cols;             /* output pixels of one image */
    int64_t sy, sx, oy, ox, th, tw, dy, dx;
    int64_t copied;         /* windows leave the map, or its strides are unkind to the cache */
    int64_t joined;         /* taps of a row lie contiguously, and are read so */
    int64_t pixel;          /* numbers from pixel to pixel in the copy */
    int64_t images, lines;  /* output of a block: that many rows of that many images */
    int64_t scratch;        /* numbers (of a map) that a thread needs */
    int64_t threads;
} windows;

/* A block of output pixels, and where its windows are read: `x` is the first number of the first. */
typedef struct {
    int64_t image, images, row, rows;
    const num *x;
    int64_t image_step, row_step, pixel_step; /* of the input */
} block;

static int64_t blocks_of(const windows *s)
{
    return (s->batch + s->images - 1) / s->images * ((s->rows + s->lines - 1) / s->lines);
}

static int64_t copied_rows(const windows *s, int64_t rows)
{
    return (rows - 1) * s->sy + (s->th - 1) * s->dy + 1;
}

static int64_t copied_cols(const windows *s)
{
    return (s->cols - 1) * s->sx + (s->tw - 1) * s->dx + 1;
}

static void copy_block(const windows *s, const num *x, const block *b, num *out)
{
    int64_t C = s->channels, rows = copied_rows(s, b->rows), cols = copied_cols(s), pixel = s->pixel;
    int64_t left = least(cols, most(0, -s->ox)), right = most(left, least(cols, s->width - s->ox));
    int64_t size = sizeof(num);
    for (int64_t m = 0; m < b->images; m++)
        for (int64_t r = 0; r < rows; r++, out += cols * pixel) {
            int64_t i = b->row * s->sy + s->oy + r;
            if (i < 0 || i >= s->height || left == right) {
                memset(out, 0, size * cols * pixel);
                continue;
            }
            const num *from = x + (((b->image + m) * s->height + i) * s->width + s->ox + left) * C;
            memset(out, 0, size * left * pixel);
            if (pixel == C)
                memcpy(out + left * C, from, size * (right - left) * C);
            else
                for (int64_t j = left; j < right; j++, from += C) memcpy(out + j * pixel, from, size * C);
            memset(out + right * pixel, 0, size * (cols - right) * pixel);
        }
}

static block block_at(const windows *s, const num *x, int64_t index, num *scratch)
{
    int64_t parts = (s->rows + s->lines - 1) / s->lines;
    block b = {index / parts * s->images, 0, index % parts * s->lines};
    b.images = least(s->images, s->batch - b.image);
    b.rows = least(s->lines, s->rows - b.row);
    if (s->copied) {
        b.pixel_step = s->pixel;
        b.row_step = copied_cols(s) * s->pixel;
        b.image_step = copied_rows(s, b.rows) * b.row_step;
        copy_block(s, x, &b, scratch);
        b.x = scratch;
    } else {
        b.pixel_step = s->channels;
        b.row_step = s->width * s->channels;
        b.image_step = s->height * b.row_step;
        b.x = x + b.image * b.image_step + (b.row * s->sy + s->oy) * b.row_step + s->ox * s->channels;
    }
    return b;
}

/* What a window reads of one group. */
static pieces window_pieces(const windows *s, const block *b)
{
    if (s->joined)
        return (pieces){s->th, s->dy * b->row_step, 1, 0, s->tw * s->depth};
    return (pieces){s->th, s->dy * b->row_step, s->tw, s->dx * b->pixel_step, s->depth};
}

/* Products of windows and packed filters.

   p  x, packed filters, bias, add, mask, out, scratch; NULL for an absent one. add and mask lie as out
   n  as in `windows`; then out_first, out_image, out_row, out_pixel (steps of the output), relu */
typedef struct {
    windows w;
    int64_t first, image_step, row_step, pixel_step, relu;
} sweep;

/* Of the windows that begin in row `top`, the taps from first_tap to last_tap - 1 lie in the map. */
static int64_t first_tap(const windows *w, int64_t top)
{
    return least(w->th, top < 0 ? (-top + w->dy - 1) / w->dy : 0);
}

static int64_t last_tap(const windows *w, int64_t top)
{
    return least(w->th, top < w->height ? (w->height - top + w->dy - 1) / w->dy : 0);
}

static void sweep_block(const sweep *s, void *const *p, const block *b)
{
    const windows *w = &s->w;
    const float *bias = p[2];
    const num *add = p[3], *mask = p[4];
    num *out = p[5];
    const pair *panel = p[1];
    pieces all_taps = window_pieces(w, b);
    int64_t row_depth = all_taps.inner * pairs_of(all_taps.length), pixels = b->images * b->rows * w->cols;
    int64_t by_row = w->copied && 2 * w->cols >= TILE_ROWS, across = (w->cols + TILE_ROWS - 1) / TILE_ROWS;
    int64_t tiles = by_row ? b->images * b->rows * across : (pixels + TILE_ROWS - 1) / TILE_ROWS;
    int64_t streamed = !w->copied && w->groups * w->th * w->tw * w->sx * w->sy == 1;
    for (int64_t g = 0; g < w->groups; g++)
        for (int64_t c = 0; c < w->columns; c += PANEL) {
            int64_t count = least(PANEL, w->columns - c), wide = packed_row(count);
            int64_t k = g * w->columns + c, base = s->first + k;
            finish f = {offset(bias, k), offset(add, base), offset(mask, base), out + base, count, s->relu};
            int64_t m = 0, i = 0, j = 0, done = 0;
            for (int64_t tile = 0; tile < tiles; tile++) {
                const num *a[TILE_ROWS];
                int64_t at[TILE_ROWS], rows, skipped = 0;
                pieces d = all_taps;
                if (by_row) {
                    int64_t top = (b->row + i) * w->sy + w->oy;
                    int64_t place = tile % across;
                    rows = first_of(place + 1, across, w->cols) - first_of(place, across, w->cols);
                    skipped = first_tap(w, top);
                    d.outer = most(0, last_tap(w, top) - skipped);
                } else
                    rows = least(TILE_ROWS, pixels - done);
                const num *x = b->x + skipped * w->dy * b->row_step + g * w->depth;
                for (int64_t r = 0; r < rows; r++) {
                    a[r] = x + m * b->image_step + i * w->sy * b->row_step + j * w->sx * b->pixel_step;
                    at[r] = (b->image + m) * s->image_step + (b->row + i) * s->row_step + j * s->pixel_step;
                    if (++j == w->cols) {
                        j = 0;
                        if (++i == b->rows) i = 0, m++;
                    }
                }
                done += rows;
                if (streamed && c == 0 && done < pixels) d.ahead = a[rows - 1] + w->channels;
                tile_rows(rows, a, &d, panel + skipped * row_depth * wide, wide, &f, at);
            }
            panel += w->th * row_depth * wide;
        }
}

KERNEL(conv_sweep)
{
    const sweep *q = (const void *)n;
    const num *x = p[0];
    num *scratch = p[6];
    int64_t blocks = blocks_of(&q->w);
#pragma omp parallel for schedule(static) num_threads(threads_of(q->w.threads)) if (blocks > 1)
    for (int64_t i = 0; i < blocks; i++) {
        block b = block_at(&q->w, x, i, scratch + omp_get_thread_num() * q->w.scratch);
        sweep_block(q, p, &b);
    }
}

/* Derivatives of filters and biases.

   p  x, dzdy, df, db or NULL, scratch
   n  as in `windows`; then
      patches  pairs from pixel to pixel of a copy with all taps of a window in a row, and with pairs of
               neighbouring pixels; 0: no copy, only if a float is a pair
      splits   parts of the pixels that are summed apart; each has threads / splits threads */
typedef struct {
    windows w;
    int64_t patches, splits;
} filters;

/* Pairs of numbers of two rows, or of one if `second` is NULL. */
INLINE void copy_pairs(const num *first, const num *second, int64_t count, pair *out)
{
    if (PAIR == 1) memcpy(out, first, sizeof(num) * count);
    else if (count < LANES)
        for (int64_t i = 0; i < count; i++) out[i] = single_pair(first[i], second ? second[i] : (num){0});
    else
        for (int64_t i = 0; i < count; i += LANES) {
            int64_t at = least(i, count - LANES);
            store_pairs(out + at, load_paired(first + at, offset(second, at)));
        }
}

/* Copy all numbers under the windows of a block, `pitch` pairs apart. */
static void copy_patches(const windows *s, const block *b, int64_t pitch, pair *out)
{
    pieces d = window_pieces(s, b);
    int64_t pixels = b->images * b->rows * s->cols, length = s->joined ? d.length : s->channels;
    int64_t m = 0, i = 0, j = 0;
    for (int64_t done = 0; done < pixels; out += pitch) {
        const num *window[PAIR] = {};
        for (int64_t l = 0; l < PAIR && done < pixels; l++, done++) {
            window[l] = b->x + m * b->image_step + i * s->sy * b->row_step + j * s->sx * b->pixel_step;
            if (++j == s->cols) {
                j = 0;
                if (++i == b->rows) i = 0, m++;
            }
        }
        pair *to = out;
        for (int64_t u = 0; u < d.outer; u++)
            for (int64_t v = 0; v < d.inner; v++, to += length) {
                int64_t at = u * d.outer_step + v * d.inner_step;
                copy_pairs(window[0] + at, offset(window[PAIR - 1], at), length, to);
            }
    }
}

#define DERS_PITCH 16  /* pairs from pixel to pixel where dzdy of a tile's rows is copied */
#define DERS_PANELS 16 /* products that make this copy worth while */

/* Copy `rows` numbers of every pixel. `end`: of dzdy, whose pixels are K apart. */
static void copy_ders(const num *dzdy, const num *end, int64_t K, int64_t pixels, int64_t rows, pair *out)
{
    for (int64_t i = 0; i < pixels; i += PAIR, out += DERS_PITCH) {
        const num *first = dzdy + i * K, *second = PAIR > 1 && i + 1 < pixels ? first + K : NULL;
        if (end - (second ? second : first) >= LANES) store_pairs(out, load_paired(first, second));
        else copy_pairs(first, second, rows, out);
    }
}

/* Add what a block gives to the derivatives: `part` of `parts` of the columns. ders: scratch. */
static void filters_block(const windows *w, const block *b, pieces d, int64_t pixels, const num *dzdy, float *df,
                          int64_t part, int64_t parts, int64_t add, pair *ders)
{
    int64_t K = w->groups * w->columns, depth = w->th * w->tw * w->depth;
    int64_t wide = (d.length + PANEL - 1) / PANEL, panels = d.outer * d.inner * wide;
    int64_t tiles = (w->columns + TILE_ROWS - 1) / TILE_ROWS, total = w->groups * panels;
    loop t[3] = {{b->images, w->rows * w->cols * K, b->image_step},
                 {b->rows, w->cols * K, w->sy * b->row_step},
                 {w->cols, K, w->sx * b->pixel_step}};
    int64_t first = first_of(part, parts, total), last = first_of(part + 1, parts, total);
    int64_t together = PAIR > 1 || (w->groups == 1 && last - first >= DERS_PANELS);
    if (together) {
        t[0].x = b->rows * w->cols * DERS_PITCH;
        t[1].x = w->cols * DERS_PITCH;
        t[2].x = DERS_PITCH;
    }
    int64_t in_rows = w->copied && t[1].y != w->cols * t[2].y;
    if (!in_rows && t[1].y == w->cols * t[2].y) t[2].count *= t[1].count, t[1].count = 1;
    const num *end = dzdy + pixels * K;
    for (int64_t tile = 0; tile < tiles; tile++) {
        int64_t k = first_of(tile, tiles, w->columns), rows = first_of(tile + 1, tiles, w->columns) - k;
        for (int64_t i = first; i < last; i++) {
            int64_t g = i / panels, piece = i % panels / wide, c = i % wide * PANEL;
            int64_t from = piece / d.inner * d.outer_step + piece % d.inner * d.inner_step;
            int64_t row = g * w->columns + k, tap = w->oy + piece / d.inner * w->dy, top = 0;
            if (together && (i == first || i % panels == 0)) copy_ders(dzdy + row, end, K, pixels, rows, ders);
            loop inside[3] = {t[0], t[1], t[2]};
            if (in_rows) {
                while (top < b->rows && (b->row + top) * w->sy + tap < 0) top++;
                while (inside[1].count > top && (b->row + inside[1].count - 1) * w->sy + tap >= w->height)
                    inside[1].count--;
                inside[1].count -= top;
            }
            const pair *x = together ? ders : (const void *)(dzdy + row), *y = (const void *)b->x;
            tile_columns(rows, x + top * t[1].x, y + top * t[1].y + g * w->depth + from + c, inside,
                         df + row * depth + piece * d.length + c, depth, least(PANEL, d.length - c), add);
        }
    }
}

static void biases_block(int64_t K, int64_t pixels, const num *dzdy, float *db, int64_t part, int64_t parts,
                         int64_t add)
{
    int64_t vectors = (K + LANES - 1) / LANES;
    for (int64_t v = first_of(part, parts, vectors); v < first_of(part + 1, parts, vectors); v++) {
        int64_t k = v * LANES, count = least(LANES, K - k);
        vf sum = add ? load_some(db + k, count) : all(0);
        for (int64_t i = 0; i < pixels; i++)
            sum += count == LANES ? load(dzdy + i * K + k) : load_some(dzdy + i * K + k, count);
        store_some(db + k, sum, count);
    }
}

KERNEL(conv_filters)
{
    const filters *q = (const void *)n;
    const windows *w = &q->w;
    const num *x = p[0], *dzdy = p[1];
    float *df = p[2], *db = p[3];
    num *scratch = p[4];
    int64_t K = w->groups * w->columns, size = K * w->th * w->tw * w->depth, blocks = blocks_of(w);
    int64_t parts = w->threads / q->splits, partial = size + K;
    float *partials = (void *)(scratch + w->threads * w->scratch);
#pragma omp parallel for schedule(static) num_threads(threads_of(w->threads)) if (w->threads > 1)
    for (int64_t task = 0; task < q->splits * parts; task++) {
        int64_t split = task / parts, part = task % parts;
        int64_t first = first_of(split, q->splits, blocks), last = first_of(split + 1, q->splits, blocks);
        num *own = scratch + task * w->scratch;
        float *sums = partials + (split - 1) * partial;
        float *to = split ? sums : df, *to_db = split ? sums + size : db;
        for (int64_t i = first; i < last; i++) {
            block b = block_at(w, x, i, own);
            int64_t pixels = b.images * b.rows * w->cols;
            pieces d = window_pieces(w, &b);
            windows of = *w;
            pair *patches = (pair *)(own + w->scratch) - pairs_of(pixels) * q->patches - PANEL;
            pair *ders = patches - pairs_of(pixels) * DERS_PITCH;
            const num *der = dzdy + (b.image * w->rows + b.row) * w->cols * K;
            if (q->patches) { /* a map of one row, each pixel with what was under a window */
                copy_patches(w, &b, q->patches, patches);
                int64_t taps = w->th * w->tw;
                d = w->groups == 1 ? (pieces){1, 0, 1, 0, taps * w->depth}
                                   : (pieces){1, 0, taps, w->channels, w->depth};
                of.rows = of.sy = of.sx = 1, of.copied = 0;
                of.cols = pairs_of(pixels);
                b.x = (const void *)patches;
                b.pixel_step = q->patches;
                b.images = b.rows = 1;
            }
            filters_block(&of, &b, d, pixels, der, to, part, parts, i > first, ders);
            if (db) biases_block(K, pixels, der, to_db, part, parts, i > first);
        }
    }
    for (int64_t split = 1; split < q->splits; split++) {
        const float *sums = partials + (split - 1) * partial;
#pragma omp parallel for schedule(static) num_threads(threads_of(w->threads)) if (size > PARALLEL_WORTH)
        for (int64_t i = 0; i < size; i++) df[i] += sums[i];
        for (int64_t k = 0; db && k < K; k++) db[k] += sums[size + k];
    }
}
