/* Softmax, and losses of classes: each pixel has a row of scores, one for each class.

   There is a label (int64) for every `pixels` rows that follow one another: 1, or those of an image.
   Rows whose label is negative are ignored; one that is beyond the classes makes the loss NaN. */

#include <math.h>

#include "kernel.h"
#include "vmath.h"

#define MOST_PARTS 64

/* Rows are split into parts, however many threads there are, so that sums do not depend on them. */
static int64_t parts_of(int64_t rows, int64_t classes)
{
    return most(1, least(MOST_PARTS, rows * classes / (PARALLEL_WORTH / 4)));
}

/* The numbers of a vector that `count` numbers reach: -1, else 0. */
static inline vi among(int64_t count)
{
    vi lane;
    for (int i = 0; i < LANES; i++) lane[i] = i;
    return lane < (vi){} + (int32_t)least(count, LANES);
}

static float largest(const num *x, int64_t classes)
{
    vf best = all(-INFINITY);
    for (int64_t d = 0; d < classes; d += LANES) {
        int64_t count = classes - d;
        vf v = load_left(x + d, count);
        best = larger(best, count >= LANES ? v : where(among(count), v, best));
    }
    float found = best[0];
    for (int i = 1; i < LANES; i++) found = best[i] > found ? best[i] : found;
    return found;
}

/* The sum of e^(x - max). */
static float sum_of_powers(const num *x, float max, int64_t classes)
{
    vf sum = {};
    for (int64_t d = 0; d < classes; d += LANES) {
        int64_t count = classes - d;
        vf power = vexp(load_left(x + d, count) - max);
        sum += count >= LANES ? power : where(among(count), power, (vf){});
    }
    return sum_lanes(sum);
}

#define FEW 64 /* classes up to which LANES rows are worked on together, one in each lane */

/* Powers e^(x - max), max and sum of `rows` <= LANES rows of few classes, one in each lane; the others
   hold anything. */
static void powers_of_rows(const num *x, int64_t rows, int64_t classes, vf *power, vf *max, vf *sum)
{
    for (int64_t row = 0; row < LANES; row++) {
        const num *in = x + least(row, rows - 1) * classes;
        for (int64_t d = 0; d < classes; d++) ((float *)power)[d * LANES + row] = value(in[d]);
    }
    *max = power[0];
    for (int64_t d = 1; d < classes; d++) *max = larger(*max, power[d]);
    *sum = (vf){};
    for (int64_t d = 0; d < classes; d++) *sum += power[d] = vexp(power[d] - *max);
}

/* The terms of some rows of a loss, added up. n: as in its kernel. */
typedef double terms(const num *x, const int64_t *labels, const int64_t *n, int64_t start, int64_t end);

/* p: x, labels, y (one number), to be written. n: rows, classes, pixels, and what `f` wants. */
static void sum_terms(terms *f, void *const *p, const int64_t *n)
{
    const int64_t rows = n[0], parts = parts_of(rows, n[1]);
    double sums[MOST_PARTS] = {}, total = 0;
#pragma omp parallel for schedule(static) if (parts > 1)
    for (int64_t part = 0; part < parts; part++)
        sums[part] = f(p[0], p[1], n, rows * part / parts, rows * (part + 1) / parts);
    for (int64_t part = 0; part < parts; part++) total += sums[part];
    *(float *)p[2] = total;
}

/* What a row counts, of a term that holds for a label among the classes. */
static double counted(double term, int64_t label, int64_t classes)
{
    return label < 0 ? 0 : label < classes ? term : NAN;
}

static double terms_softmaxlog(const num *x, const int64_t *labels, const int64_t *n,
                               int64_t start, int64_t end)
{
    const int64_t classes = n[1], step = classes <= FEW ? LANES : 1;
    double total = 0;
    for (int64_t row = start; row < end; row += step) {
        int64_t rows = least(step, end - row);
        vf power[FEW], max, sum, logs;
        if (classes <= FEW) powers_of_rows(x + row * classes, rows, classes, power, &max, &sum);
        else {
            max = all(largest(x + row * classes, classes));
            sum = all(sum_of_powers(x + row * classes, max[0], classes));
        }
        logs = vlog(sum);
        for (int64_t r = 0; r < rows; r++) {
            int64_t label = labels[(row + r) / n[2]], inside = most(0, least(label, classes - 1));
            double score = value(x[(row + r) * classes + inside]);
            total += counted(logs[r] + (max[r] - score), label, classes);
        }
    }
    return total;
}

/* y = sum over rows of log(sum over d of e^x_d) - x_label.

   p: x, labels, y (one number), to be written. n: rows, classes, pixels. */
KERNEL(loss_softmaxlog) { sum_terms(terms_softmaxlog, p, n); }

/* The terms of a loss that counts mistakes; option: see the kernels. */
typedef int mistake(const num *x, int64_t label, int64_t classes, int64_t option);

static inline __attribute__((always_inline)) double mistakes(
    mistake *f, const num *x, const int64_t *labels, const int64_t *n, int64_t start, int64_t end,
    int64_t option)
{
    const int64_t classes = n[1];
    double total = 0;
    for (int64_t row = start; row < end; row++) {
        int64_t label = labels[row / n[2]], inside = most(0, least(label, classes - 1));
        total += counted(f(x + row * classes, inside, classes, option), label, classes);
    }
    return total;
}

/* The first among equal best is taken; NaN is better than any number. */
static int is_not_best(const num *x, int64_t label, int64_t classes, int64_t option)
{
    float score = value(x[label]);
    int better = 0;
    if (score != score)
        for (int64_t d = 0; d < label; d++) better |= value(x[d]) != value(x[d]);
    else {
        for (int64_t d = 0; d < label; d++) better |= !(value(x[d]) < score);
        for (int64_t d = label + 1; d < classes; d++) better |= !(value(x[d]) <= score);
    }
    return better;
}

static double terms_classerror(const num *x, const int64_t *labels, const int64_t *n,
                               int64_t start, int64_t end)
{
    return mistakes(is_not_best, x, labels, n, start, end, 0);
}

/* How many labels are not the best class. p, n: as loss_softmaxlog. */
KERNEL(loss_classerror) { sum_terms(terms_classerror, p, n); }

/* Equal scores are ranked by class; the label's own score counts as one that is behind. */
static int is_not_among_best(const num *x, int64_t label, int64_t classes, int64_t option)
{
    float score = value(x[label]);
    int32_t behind = 0;
    for (int64_t d = 0; d < label; d++) behind += value(x[d]) < score;
    for (int64_t d = label; d < classes; d++) behind += value(x[d]) <= score;
    return behind <= classes - option;
}

static double terms_topkerror(const num *x, const int64_t *labels, const int64_t *n,
                              int64_t start, int64_t end)
{
    return mistakes(is_not_among_best, x, labels, n, start, end, n[3]);
}

/* How many labels are not among the best k classes. p: as loss_softmaxlog. n: rows, classes, pixels,
   k. */
KERNEL(loss_topkerror) { sum_terms(terms_topkerror, p, n); }

/* y = scale * (softmax(x) - [d = label]) of some rows, at most LANES if there are few classes, else
   one. labels: of these rows; one that is not among the classes is that of no class. */
static void softmax_rows(const num *x, int64_t rows, int64_t classes, float scale,
                         const int64_t *labels, num *y)
{
    vf power[FEW], max, sum;
    num shares[FEW * LANES];
    if (classes > FEW) {
        float most_power = largest(x, classes);
        float factor = scale / sum_of_powers(x, most_power, classes);
        for (int64_t d = 0; d < classes; d += LANES) {
            int64_t left = classes - d, own = labels[0] - d;
            vf share = vexp(load_left(x + d, left) - most_power) * factor;
            if (0 <= own && own < LANES) share[own] -= scale;
            store_left(y + d, share, left);
        }
        return;
    }
    powers_of_rows(x, rows, classes, power, &max, &sum);
    vf factor = scale / sum;
    for (int64_t d = 0; d < classes; d++) power[d] *= factor;
    for (int64_t row = 0; row < rows; row++)
        if (0 <= labels[row] && labels[row] < classes) ((float *)power)[labels[row] * LANES + row] -= scale;
    for (int64_t d = 0; d < classes; d++) store(shares + d * LANES, power[d]);
    for (int64_t row = 0; row < rows; row++)
        for (int64_t d = 0; d < classes; d++) y[row * classes + d] = shares[d * LANES + row];
}

/* dzdx = dzdy * (softmax(x) - [d = label]).

   p: x, labels, dzdy (one number), dzdx, to be written. n: rows, classes, pixels. */
KERNEL(loss_softmaxlog_backward)
{
    const num *x = p[0];
    const float dzdy = *(float *)p[2];
    const int64_t *labels = p[1], rows = n[0], classes = n[1], step = classes <= FEW ? LANES : 1;
    num *dzdx = p[3];
#pragma omp parallel for schedule(static) if (rows * classes > PARALLEL_WORTH / 4)
    for (int64_t row = 0; row < rows; row += step) {
        int64_t some = least(step, rows - row), own[LANES];
        for (int64_t r = 0; r < some; r++) own[r] = labels[(row + r) / n[2]];
        num *der = dzdx + row * classes;
        softmax_rows(x + row * classes, some, classes, dzdy, own, der);
        for (int64_t r = 0; r < some; r++, der += classes) {
            if (own[r] < 0) memset(der, 0, sizeof(num) * classes);
            else if (own[r] >= classes) store_some(der, all(NAN), 1);
        }
    }
}

/* y = softmax(x). p: x; y, to be written. n: rows, classes. */
KERNEL(softmax)
{
    const num *x = p[0];
    num *y = p[1];
    const int64_t rows = n[0], classes = n[1], step = classes <= FEW ? LANES : 1;
    int64_t none[LANES];
    for (int i = 0; i < LANES; i++) none[i] = -1;
#pragma omp parallel for schedule(static) if (rows * classes > PARALLEL_WORTH / 4)
    for (int64_t row = 0; row < rows; row += step)
        softmax_rows(x + row * classes, least(step, rows - row), classes, 1, none, y + row * classes);
}

/* dzdx = y * (dzdy - sum), of a vector or the first `left` of one. */
static inline void turn(const num *y, const num *dzdy, float sum, num *dzdx, int64_t left)
{
    store_left(dzdx, load_left(y, left) * (load_left(dzdy, left) - sum), left);
}

/* dzdx = y * (dzdy - sum over d of dzdy_d * y_d).

   p: y; dzdy; dzdx, to be written. n: rows, classes. */
KERNEL(softmax_backward)
{
    const num *y = p[0], *dzdy = p[1];
    num *dzdx = p[2];
    const int64_t rows = n[0], classes = n[1];
#pragma omp parallel for schedule(static) if (rows * classes > PARALLEL_WORTH)
    for (int64_t row = 0; row < rows; row++) {
        const num *values = y + row * classes, *ders = dzdy + row * classes;
        num *to = dzdx + row * classes;
        vf product = {};
        for (int64_t d = 0; d < classes; d += LANES)
            product += load_left(values + d, classes - d) * load_left(ders + d, classes - d);
        float sum = sum_lanes(product);
        int64_t d = 0;
        for (; d + LANES <= classes; d += LANES) turn(values + d, ders + d, sum, to + d, LANES);
        for (; d < classes; d++) turn(values + d, ders + d, sum, to + d, 1);
    }
}
