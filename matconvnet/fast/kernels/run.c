/* A list of kernel calls, run from one call of Python. */

#include <time.h>

#include "kernel.h"

#ifndef HALF /* it is about no maps */

typedef struct {
    kernel *function;
    void *const *p;
    const int64_t *n;
    const double *s;
} call;

/* Numbers in a vector, by which some workspace is measured. */
VISIBLE const int64_t lanes = LANES;

/* Tells of which source the library was made; see hatch_build.py. */
VISIBLE const int64_t stamp = STAMP;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Run calls[0 ... count - 1]. seconds: where the time of each is added, or NULL. */
VISIBLE void run(const call *calls, int64_t count, double *seconds)
{
    for (int64_t i = 0; i < count; i++) {
        double start = seconds ? now() : 0;
        calls[i].function(calls[i].p, calls[i].n, calls[i].s);
        if (seconds) seconds[i] += now() - start;
    }
}

#endif
