/* Fake quantization with stochastic rounding: up or down at random, so that the expectation is x wherever the grid
 * reaches.
 *
 *     r = floor(x / scale + u)                           Gupta 2015
 *     y = (clamp(r + zero_point, qmin, qmax) - zero_point) * scale
 *
 * The sum is exact, but that the fraction of a ratio in (-2^-25, 0) may round to 1.
 * u in [0, 1) is a multiple of 2^-24 that belongs to element i of the tensor: with Philox 4x32-10 (Salmon 2011) of
 * key `seed` and counter i / 4 + 2^64 offset, word i % 4, its upper 24 bits. So neither threads nor the device can
 * change a bit, and another offset gives other numbers. An x on the grid stays what it is; NaN stays NaN, +-inf lands
 * on the end of the grid. The gradient is that of rounding to nearest: detent_fake_quantize_bwd_*.
 *
 *   x, y      [outer, groups, inner] of `dtype` (F32, F16, BF16, F64), contiguous, no overlap
 *   encoding  as in detent/fake_quantize.h
 *   random    two numbers, seed and offset; in device memory (CUDA), read when the work runs, so that a captured graph
 *             can advance them
 *   parallel  NULL, or how to use several threads (CPU)
 *
 * Statuses as detent/fake_quantize.h. */
#ifndef DETENT_STOCHASTIC_H
#define DETENT_STOCHASTIC_H

#include "detent/base.h"

#ifdef __cplusplus
extern "C" {
#endif

DETENT_API detent_status detent_fake_quantize_stochastic_cpu(const void *x, void *y, detent_dtype dtype,
                                                             detent_shape3 shape, const detent_encoding *encoding,
                                                             const int64_t *random, detent_parallel_for parallel);
DETENT_API detent_status detent_fake_quantize_stochastic_cuda(const void *x, void *y, detent_dtype dtype,
                                                              detent_shape3 shape, const detent_encoding *encoding,
                                                              const int64_t *random, detent_stream stream);

#ifdef __cplusplus
}
#endif
#endif
