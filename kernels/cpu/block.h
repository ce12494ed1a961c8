/* CPU loops work on blocks of a few hundred elements: read as float or double, computed, written back in their own
 * type, all in the first-level cache. float32 and float64 blocks are used in place. */
#ifndef DETENT_CPU_BLOCK_H
#define DETENT_CPU_BLOCK_H

#include "detent/base.h"

enum { DETENT_BLOCK = 512 };

/* One body, compiled for three instruction sets and chosen when the library loads. Sanitizers run before that choice.
 */
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__SANITIZE_ADDRESS__) &&               \
    !defined(DETENT_NO_CLONES)
#define DETENT_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define DETENT_CLONES
#endif

/* Elements at .. at + n of x (any dtype; `at` even for packed codes), as reals: in x itself where the type matches,
 * else in buffer. */
const float *detent_read_f32(const void *x, detent_dtype dtype, size_t at, size_t n, float *buffer);
const double *detent_read_f64(const void *x, detent_dtype dtype, size_t at, size_t n, double *buffer);

/* Where to compute elements at .. of y: in y itself where the type matches, else in buffer; detent_write_* stores the
 * latter and does nothing for the former. */
float *detent_target_f32(void *y, detent_dtype dtype, size_t at, float *buffer);
double *detent_target_f64(void *y, detent_dtype dtype, size_t at, double *buffer);
void detent_write_f32(void *y, detent_dtype dtype, size_t at, size_t n, const float *values);
void detent_write_f64(void *y, detent_dtype dtype, size_t at, size_t n, const double *values);

/* Bytes of 0 or 1 to bits, the first byte lowest, and back. mask has (n + 7) / 8 bytes. */
void detent_pack_bits(const uint8_t *inside, size_t n, uint8_t *mask);
void detent_unpack_bits(const uint8_t *mask, size_t n, uint8_t *inside);

/* Room for a block of any float type. */
typedef union detent_block {
    float f32[DETENT_BLOCK];
    double f64[DETENT_BLOCK];
    uint16_t half[DETENT_BLOCK];
} detent_block;

/* Elements at .. at + n of x + residual, in their own float type: written to their place in sum or, where that is NULL,
 * to room. Returns where they begin. */
const void *detent_add(const void *x, const void *residual, void *sum, detent_dtype dtype, size_t at, size_t n,
                       detent_block *room);

/* parallel, or this thread where there is no callback or nothing to share out. */
static inline void detent_run(detent_parallel_for parallel, size_t count, size_t grain, detent_parallel_body body,
                              void *context)
{
    if (parallel == NULL || count <= grain)
        body(0, (int64_t)count, context);
    else
        parallel(0, (int64_t)count, (int64_t)grain, body, context);
}

static inline size_t detent_min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}
static inline size_t detent_max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}
static inline size_t detent_ceil_div(size_t a, size_t b)
{
    return (a + b - 1) / b;
}

#endif
