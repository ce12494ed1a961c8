/* Quantization to integer codes, and back.
 *
 *     quantize     q = clamp(rint(x / scale) + zero_point, qmin, qmax)     the rounding of detent/fake_quantize.h
 *     dequantize   x = (q - zero_point) * scale
 *
 * so that dequantize(quantize(x)) equals fake_quantize(x) bit for bit wherever x is not NaN. NaN has no integer code:
 * integer codes take that of real 0, clamp(zero_point, qmin, qmax); float codes stay NaN.
 *
 *   x          [outer, groups, inner] of F32, F16, BF16 or F64
 *   q          codes: I8, U8, I16, I32, I4, U4, or the type of x (codes held as floats, the form that carries a
 *              gradient); dequantize's backward does not take I4 and U4
 *   encoding   scale/zero_point or min/max; dequantize reads scale and zero_point only and ignores the grid
 *   real       quantize: detent_math_dtype(x, grid). dequantize: F64 where x is F64 or q is I32, else F32
 *
 * DETENT_BAD_GRID also where the codes' type cannot hold the grid exactly. Statuses, overlap, determinism: as
 * detent/fake_quantize.h. Gradients (m as there):
 *
 *     quantize     grad_x = m ? g / scale : 0
 *                  grad_scale = sum m ? -g * x / scale^2 : 0
 *                  grad_zero_point = sum m ? g : 0
 *     dequantize   grad_q = g * scale
 *                  grad_scale = sum g * (q - zero_point)
 *                  grad_zero_point = sum -g * scale
 *
 * quantize's backward takes scale/zero_point only and gives NaN sums where x is NaN. */
#ifndef DETENT_QUANTIZE_H
#define DETENT_QUANTIZE_H

#include "detent/base.h"

#ifdef __cplusplus
extern "C" {
#endif

DETENT_API detent_status detent_quantize_cpu(const void *x, void *q, detent_dtype x_dtype, detent_dtype q_dtype,
                                             detent_shape3 shape, const detent_encoding *encoding,
                                             detent_parallel_for parallel);
DETENT_API detent_status detent_quantize_cuda(const void *x, void *q, detent_dtype x_dtype, detent_dtype q_dtype,
                                              detent_shape3 shape, const detent_encoding *encoding,
                                              detent_stream stream);

DETENT_API detent_status detent_dequantize_cpu(const void *q, void *x, detent_dtype q_dtype, detent_dtype x_dtype,
                                               detent_shape3 shape, const detent_encoding *encoding,
                                               detent_parallel_for parallel);
DETENT_API detent_status detent_dequantize_cuda(const void *q, void *x, detent_dtype q_dtype, detent_dtype x_dtype,
                                                detent_shape3 shape, const detent_encoding *encoding,
                                                detent_stream stream);

/* The arithmetic of dequantize, as above. */
DETENT_API detent_dtype detent_dequantize_math_dtype(detent_dtype q_dtype, detent_dtype x_dtype);

/* Both backward functions need detent_fake_quantize_bwd_workspace(shape) bytes (_cuda: the _cuda form). grad_q has the
 * type of grad_x's data: the codes of a differentiable dequantize are floats. grad_zero_point may be NULL. */
DETENT_API detent_status detent_quantize_bwd_cpu(const void *grad_q, const void *x, void *grad_x, void *grad_scale,
                                                 void *grad_zero_point, detent_dtype dtype, detent_shape3 shape,
                                                 const detent_encoding *encoding, void *workspace,
                                                 size_t workspace_bytes, detent_parallel_for parallel);
DETENT_API detent_status detent_quantize_bwd_cuda(const void *grad_q, const void *x, void *grad_x, void *grad_scale,
                                                  void *grad_zero_point, detent_dtype dtype, detent_shape3 shape,
                                                  const detent_encoding *encoding, void *workspace,
                                                  size_t workspace_bytes, detent_stream stream);

/* grad_x and grad_q are of x_dtype; q of q_dtype. grad_q may be NULL (integer codes carry no gradient). */
DETENT_API detent_status detent_dequantize_bwd_cpu(const void *grad_x, const void *q, void *grad_q, void *grad_scale,
                                                   void *grad_zero_point, detent_dtype q_dtype, detent_dtype x_dtype,
                                                   detent_shape3 shape, const detent_encoding *encoding,
                                                   void *workspace, size_t workspace_bytes,
                                                   detent_parallel_for parallel);
DETENT_API detent_status detent_dequantize_bwd_cuda(const void *grad_x, const void *q, void *grad_q, void *grad_scale,
                                                    void *grad_zero_point, detent_dtype q_dtype, detent_dtype x_dtype,
                                                    detent_shape3 shape, const detent_encoding *encoding,
                                                    void *workspace, size_t workspace_bytes, detent_stream stream);

#ifdef __cplusplus
}
#endif
#endif
