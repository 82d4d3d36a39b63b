/* What all kernels share: how they are called, and vectors.

   A kernel is a function of three arrays, so that a whole step of training is one list of calls
   (run.c) and Python needs no declaration for each:

       p  addresses of tensors (float32 unless a comment says else), NULL for an absent one
       n  whole numbers: sizes, strides, flags
       s  scalars

   The comment above a kernel names what stands in p, n and s, in order. Maps lie in memory as
   N H W C, filters as K FH FW FC: "channels-last" everywhere. Nothing allocates: workspace is
   handed over in p. Kernels use the threads of the OpenMP runtime that torch has loaded. */

#ifndef MATCONVNET_KERNEL_H
#define MATCONVNET_KERNEL_H

#include <stdint.h>
#include <string.h>

typedef void kernel(void *const *p, const int64_t *n, const double *s);

#ifdef _WIN32
#define KERNEL(name) __declspec(dllexport) void name(void *const *p, const int64_t *n, const double *s)
#else
#define KERNEL(name) __attribute__((visibility("default"))) void name(void *const *p, const int64_t *n, const double *s)
#endif

/* Vectors of the widest registers that the file is compiled for. */
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef float vf_any __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

static inline vf load(const float *a) { return *(const vf_any *)a; }
static inline void store(float *a, vf v) { *(vf_any *)a = v; }
static inline vf all(float a) { return a - (vf){}; }

/* The first `count` < LANES elements; the others are 0, and are not written. */
static inline vf load_some(const float *a, int64_t count)
{
    vf v = {};
    memcpy(&v, a, 4 * count);
    return v;
}
static inline void store_some(float *a, vf v, int64_t count) { memcpy(a, &v, 4 * count); }

/* The first of the `left` elements that a row still has: all of a vector, or some. */
static inline vf load_left(const float *a, int64_t left)
{
    return left >= LANES ? load(a) : load_some(a, left);
}
static inline void store_left(float *a, vf v, int64_t left)
{
    if (left >= LANES) store(a, v);
    else store_some(a, v, left);
}

static inline vf where(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }
static inline vf larger(vf a, vf b) { return where(a > b, a, b); }

static inline float sum_lanes(vf v)
{
    float total = 0;
    for (int i = 0; i < LANES; i++) total += v[i];
    return total;
}

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

#define PARALLEL_WORTH (1 << 14) /* elements below which one thread is faster than several */

#endif
