/* Affine fake quantization: round to an integer grid and back, with a straight-through gradient.
 *
 *     r = rint(x / scale)                        true division, halves to even
 *     q = clamp(r + zero_point, qmin, qmax)      Jacob 2018, eqs. 1 and 12; zero_point is added after rounding, so
 *     y = (q - zero_point) * scale               moving the grid never changes which way a half goes
 *
 * NaN stays NaN; +-inf lands on the end of the grid. Gradients, with m = [qmin <= r + zero_point <= qmax]:
 *
 *     grad_x          = m ? g : 0                                                      Bengio 2013, the ste
 *     grad_scale      = sum g * (m ? r - x / scale : clamp(r, qmin - zp, qmax - zp))   Esser 2020, eq. 3
 *     grad_zero_point = sum m ? 0 : -g * scale                                         Bhalgat 2020, eq. 6
 *     grad_min, grad_max by the chain rule through scale and zero_point (detent/encode.h)
 *
 * Where x is NaN grad_x is 0 and the sums are NaN: a NaN in training stays visible.
 *
 * With an activation, x is held to activation->min .. max first, in the same pass, and grad_x is 0 unless x lies
 * strictly between them: ReLU is 0 .. inf, ReLU6 0 .. 6. Every result is that of the two passes, bit for bit, in
 * `dtype` too: the bounds are rounded to it.
 *
 * A residual is added to x before all of that, and the sum rounded to `dtype`: again the bits of passes of their own.
 * Backward takes the sum for x; its grad_x is the gradient of both.
 *
 *   x, y, grad_y, grad_x   [outer, groups, inner] of `dtype` (F32, F16, BF16, F64), contiguous; no two overlap
 *   residual, sum          the same; residual may be x. sum receives x + residual; NULL where nobody needs it
 *   encoding               one per group (detent/base.h), arrays of detent_math_dtype(dtype, grid)
 *   activation             NULL for none; min < max, either may be infinite (checked)
 *   mask                   (n + 7) / 8 bytes or NULL: bit i % 8 of byte i / 8 says whether grad_x is g at element i
 *   parallel               NULL, or how to use several threads (CPU)
 *
 * An empty tensor is DETENT_OK; its sums are 0. DETENT_BAD_ARGUMENT, _BAD_SHAPE, _BAD_GRID, _BAD_DTYPE: nothing was
 * written or queued. CPU and CUDA agree bit for bit on y, mask and grad_x. Sums are taken in a fixed order that depends
 * on the shape alone, so the same input gives the same bits whatever the thread count; between CPU and CUDA they agree
 * within 2^-20 of the sum of the terms' magnitudes. */
#ifndef DETENT_FAKE_QUANTIZE_H
#define DETENT_FAKE_QUANTIZE_H

#include "detent/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct detent_activation {
    double min, max;
} detent_activation;

DETENT_API detent_status detent_fake_quantize_cpu(const void *x, void *y, uint8_t *mask, detent_dtype dtype,
                                                  detent_shape3 shape, const detent_encoding *encoding,
                                                  const detent_activation *activation, detent_parallel_for parallel);
DETENT_API detent_status detent_fake_quantize_cuda(const void *x, void *y, uint8_t *mask, detent_dtype dtype,
                                                   detent_shape3 shape, const detent_encoding *encoding,
                                                   const detent_activation *activation, detent_stream stream);

DETENT_API detent_status detent_fake_quantize_sum_cpu(const void *x, const void *residual, void *sum, void *y,
                                                      uint8_t *mask, detent_dtype dtype, detent_shape3 shape,
                                                      const detent_encoding *encoding,
                                                      const detent_activation *activation,
                                                      detent_parallel_for parallel);
DETENT_API detent_status detent_fake_quantize_sum_cuda(const void *x, const void *residual, void *sum, void *y,
                                                       uint8_t *mask, detent_dtype dtype, detent_shape3 shape,
                                                       const detent_encoding *encoding,
                                                       const detent_activation *activation, detent_stream stream);

/* grad_first and grad_second are [groups] real: the gradients of (scale, zero_point) or of (min, max). grad_second may
 * be NULL where the encoding is (scale, NULL). gradient_scale multiplies both (LSQ's g, Esser 2020, section 2.2).
 * grad_x may be NULL. */
DETENT_API detent_status detent_fake_quantize_bwd_workspace(detent_shape3 shape, size_t *bytes);
DETENT_API detent_status detent_fake_quantize_bwd_cpu(const void *grad_y, const void *x, void *grad_x, void *grad_first,
                                                      void *grad_second, detent_dtype dtype, detent_shape3 shape,
                                                      const detent_encoding *encoding,
                                                      const detent_activation *activation, double gradient_scale,
                                                      void *workspace, size_t workspace_bytes,
                                                      detent_parallel_for parallel);
DETENT_API detent_status detent_fake_quantize_bwd_workspace_cuda(detent_shape3 shape, size_t *bytes);
DETENT_API detent_status detent_fake_quantize_bwd_cuda(const void *grad_y, const void *x, void *grad_x,
                                                       void *grad_first, void *grad_second, detent_dtype dtype,
                                                       detent_shape3 shape, const detent_encoding *encoding,
                                                       const detent_activation *activation, double gradient_scale,
                                                       void *workspace, size_t workspace_bytes, detent_stream stream);

/* The backward of a fixed range: grad_x = bit ? grad_y : 0 over n elements. */
DETENT_API detent_status detent_fake_quantize_mask_bwd_cpu(const void *grad_y, const uint8_t *mask, void *grad_x,
                                                           detent_dtype dtype, size_t n, detent_parallel_for parallel);
DETENT_API detent_status detent_fake_quantize_mask_bwd_cuda(const void *grad_y, const uint8_t *mask, void *grad_x,
                                                            detent_dtype dtype, size_t n, detent_stream stream);

/* Dynamic range: observe x (detent/observe.h), multiply its min and max by clip, make a range of them
 * (detent/encode.h), fake-quantize with it. min, max are [groups] real and receive the range; clip is [clip_count] real
 * with clip_count 1 or groups, or NULL for 1. encoding gives grid, symmetric and centre; its arrays are not read. */
DETENT_API detent_status detent_fake_quantize_dynamic_workspace(detent_shape3 shape, size_t *bytes);
DETENT_API detent_status detent_fake_quantize_dynamic_cpu(const void *x, void *y, uint8_t *mask, void *min, void *max,
                                                          detent_dtype dtype, detent_shape3 shape, const void *clip,
                                                          size_t clip_count, const detent_encoding *encoding,
                                                          void *workspace, size_t workspace_bytes,
                                                          detent_parallel_for parallel);
DETENT_API detent_status detent_fake_quantize_dynamic_workspace_cuda(detent_shape3 shape, size_t *bytes);
DETENT_API detent_status detent_fake_quantize_dynamic_cuda(const void *x, void *y, uint8_t *mask, void *min, void *max,
                                                           detent_dtype dtype, detent_shape3 shape, const void *clip,
                                                           size_t clip_count, const detent_encoding *encoding,
                                                           void *workspace, size_t workspace_bytes,
                                                           detent_stream stream);

#ifdef __cplusplus
}
#endif
#endif
