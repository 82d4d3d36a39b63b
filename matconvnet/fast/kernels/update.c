/* Steps of a solver over all parameters at once.

   Every kernel here takes a table of tensors: p holds a few addresses for each, n their number and
   then where each starts in the row of all their elements, the last number being that of all
   elements; s holds some scalars for all and then some for each. The arrays of one tensor are
   alike in memory: dense, in any order. */

#include "kernel.h"

/* A step over `count` elements of the arrays `a` of one tensor, with the scalars for `all` and those
   of its `own`; returns whether they are as wanted. */
typedef int step(float *const *a, int64_t count, const double *all, const double *own);

#define MOST_ARRAYS 3

/* Run `f` over a table of tensors with `arrays` addresses each; returns whether all are as wanted.
   Elements are split evenly over the threads, whatever tensor they belong to. */
static int run_table(step *f, int arrays, void *const *p, const int64_t *n, const double *s,
                     int for_all, int for_each)
{
    int64_t tensors = n[0], total = n[1 + tensors], size = PARALLEL_WORTH;
    int64_t parts = (total + size - 1) / size;
    const int64_t *starts = n + 1;
    int good = 1;
#pragma omp parallel for schedule(static) reduction(&& : good) if (parts > 1)
    for (int64_t part = 0; part < parts; part++) {
        int64_t from = part * size, to = least(total, from + size);
        int64_t i = 0, above = tensors; /* `from` lies in one of the tensors i ... above - 1 */
        while (above - i > 1) {
            int64_t middle = (i + above) / 2;
            if (starts[middle] <= from) i = middle;
            else above = middle;
        }
        for (; i < tensors && starts[i] < to; i++) {
            int64_t first = most(from, starts[i]), count = least(to, starts[i + 1]) - first;
            float *a[MOST_ARRAYS];
            for (int j = 0; j < arrays; j++) a[j] = (float *)p[arrays * i + j] + first - starts[i];
            good = f(a, count, s, s + for_all + for_each * i) && good;
        }
    }
    return good;
}

static int step_sgd(float *const *a, int64_t count, const double *all, const double *own)
{
    float *restrict w = a[0], *restrict v = a[1];
    const float *restrict der = a[2];
    const float momentum = all[0], size = all[2], rate = own[0], decay = own[1];
    if (rate == 0 && decay == 0) return 1;
    if (all[1] != 0)
        for (int64_t i = 0; i < count; i++) {
            float g = der[i] / size + decay * w[i];
            v[i] = momentum * v[i] - g;
            w[i] += rate * (momentum * v[i] - g);
        }
    else
        for (int64_t i = 0; i < count; i++) {
            v[i] = momentum * v[i] - (der[i] / size + decay * w[i]);
            w[i] += rate * v[i];
        }
    return 1;
}

/* A flag that forbids a step where it is 0; NULL allows it. */
static int allowed(const int64_t *flag) { return !flag || *flag; }

/* p: value, velocity, derivative of each; a flag (int64) that is 0 where nothing may be done, or NULL.
   s: momentum, whether Nesterov's (0 or 1), size of the batch; rate, decay of each, of which both
   are 0 where a parameter stays as it is. */
KERNEL(update_sgd)
{
    if (allowed(p[3 * n[0]])) run_table(step_sgd, 3, p, n, s, 3, 2);
}

static int step_average(float *const *a, int64_t count, const double *all, const double *own)
{
    float *restrict w = a[0];
    const float *restrict der = a[1];
    const float kept = own[0], share = own[1] / all[0];
    for (int64_t i = 0; i < count; i++) w[i] = kept * w[i] + share * der[i];
    return 1;
}

/* p: value, derivative of each; a flag as of update_sgd. s: size of the batch; share of the value
   that stays, share of the derivative, of each. */
KERNEL(update_average)
{
    if (allowed(p[2 * n[0]])) run_table(step_average, 2, p, n, s, 1, 2);
}

static int step_finite(float *const *a, int64_t count, const double *all, const double *own)
{
    const int32_t *bits = (const int32_t *)a[0];
    const int32_t infinite = 0x7f800000;
    int32_t bad = 0;
    for (int64_t i = 0; i < count; i++) bad |= (bits[i] & infinite) == infinite;
    return !bad;
}

/* Clear a flag where a number is not finite; else leave it. p: derivative of each, and behind them
   the flag (int64). */
KERNEL(update_finite)
{
    if (!run_table(step_finite, 1, p, n, s, 0, 0)) *(int64_t *)p[n[0]] = 0;
}
