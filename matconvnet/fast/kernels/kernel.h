/* What all kernels share: how they are called, and vectors.

   A kernel is a function of three arrays, so that a whole step of training is one list of calls
   (run.c) and Python needs no declaration for each:

       p  addresses of tensors (float32 unless a comment says else), NULL for an absent one
       n  whole numbers: sizes, strides, flags
       s  scalars

   The comment above a kernel names what stands in p, n and s, in order. Maps lie in memory as
   N H W C, filters as K FH FW FC: "channels-last" everywhere. Nothing allocates: workspace is
   handed over in p. Kernels use the threads of the OpenMP runtime that torch has loaded.

   Every file is compiled twice. The numbers of maps, and of their derivatives, are of type `num`:
   float, and the second time, with HALF, bfloat16; the kernels are then called x_bf16. Parameters
   and their derivatives are floats in both, and so is what is computed in registers. */

#ifndef MATCONVNET_KERNEL_H
#define MATCONVNET_KERNEL_H

#include <stdint.h>
#include <string.h>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

typedef void kernel(void *const *p, const int64_t *n, const double *s);

#define VISIBLE __attribute__((visibility("default")))
#ifdef HALF
#define KERNEL(name) VISIBLE void name##_bf16(void *const *p, const int64_t *n, const double *s)
#else
#define KERNEL(name) VISIBLE void name(void *const *p, const int64_t *n, const double *s)
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

typedef struct {
    uint16_t bits; /* the upper half of a float */
} bf16;

#ifdef HALF
typedef bf16 num;
#else
typedef float num;
#endif

typedef uint16_t vs __attribute__((vector_size(2 * LANES)));

static inline vf all(float a) { return a - (vf){}; }
static inline vf where(vi mask, vf a, vf b) { return (vf)(((vi)a & mask) | ((vi)b & ~mask)); }
static inline vf larger(vf a, vf b) { return where(a > b, a, b); }

static inline vf widened(vs v)
{
#ifdef __AVX512BF16__ /* GCC 12 makes four instructions of the line below */
    return (vf)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)v), 16);
#else
    return (vf)(__builtin_convertvector(v, vi) << 16);
#endif
}

/* Rounded to the nearest, to even if two are; a NaN stays one. */
static inline vs narrowed(vf v)
{
#ifdef __AVX512BF16__
    return (vs)_mm512_cvtneps_pbh((__m512)v);
#else
    vi bits = (vi)v, up = bits + 0x7fff + ((bits >> 16) & 1);
    vi nan = v != v;
    return __builtin_convertvector(((nan & (bits | 0x400000)) | (~nan & up)) >> 16, vs);
#endif
}

/* Read and write vectors of floats, or of numbers of maps, by the type of the address.

   load, store            LANES elements
   load_some, store_some  the first `count` < LANES; the others are 0, and are not written
   load_left, store_left  the first of the `left` that a row still has: all of a vector, or some
   value                  a single one */

static inline vf load_floats(const float *a) { return *(const vf_any *)a; }
static inline void store_floats(float *a, vf v) { *(vf_any *)a = v; }
static inline vf load_some_floats(const float *a, int64_t count)
{
    vf v = {};
    memcpy(&v, a, 4 * count);
    return v;
}
static inline void store_some_floats(float *a, vf v, int64_t count) { memcpy(a, &v, 4 * count); }
static inline float float_value(float a) { return a; }

static inline vf load_halves(const bf16 *a)
{
    vs v;
    memcpy(&v, a, sizeof v);
    return widened(v);
}
static inline void store_halves(bf16 *a, vf v)
{
    vs narrow = narrowed(v);
    memcpy(a, &narrow, sizeof narrow);
}
static inline vf load_some_halves(const bf16 *a, int64_t count)
{
    vs v = {};
    memcpy(&v, a, 2 * count);
    return widened(v);
}
static inline void store_some_halves(bf16 *a, vf v, int64_t count)
{
    vs narrow = narrowed(v);
    memcpy(a, &narrow, 2 * count);
}
static inline float half_value(bf16 a)
{
    uint32_t bits = (uint32_t)a.bits << 16;
    float wide;
    memcpy(&wide, &bits, 4);
    return wide;
}

#define BY_TYPE(a, floats, halves) \
    _Generic((a), float *: floats, const float *: floats, bf16 *: halves, const bf16 *: halves)
#define load(a) BY_TYPE(a, load_floats, load_halves)(a)
#define store(a, v) BY_TYPE(a, store_floats, store_halves)(a, v)
#define load_some(a, count) BY_TYPE(a, load_some_floats, load_some_halves)(a, count)
#define store_some(a, v, count) BY_TYPE(a, store_some_floats, store_some_halves)(a, v, count)
#define load_left(a, left) ((left) >= LANES ? load(a) : load_some(a, left))
#define store_left(a, v, left)               \
    do {                                     \
        if ((left) >= LANES) store(a, v);    \
        else store_some(a, v, left);         \
    } while (0)
#define value(a) BY_TYPE(&(a), float_value, half_value)(a)

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
