/* Rounding to a block format and back: elements of few bits, and a scale that the elements of a block share.
 *
 *     A    = the largest finite |x| of the block
 *     X    = clamp(2^(floor(log2 A) - emax), 2^-127, 2^127)                          tensor_scale NULL: OCP MX
 * v1.0, 6.3 X    = max(round(A / max / tensor_scale), 2^-9) * tensor_scale                 else: NVFP4's two levels,
 * where round() is to float8 e4m3: steps of Kuzmin 2022, at most 448 v    = clamp(x / X, -max, max) step =
 * 2^(max(floor(log2 |v|), min_exponent) - mantissa_bits) y    = rint(v / step) * step * X halves to even
 *
 * emax = floor(log2 max) of the element format (detent/float_cast.h). MX's int8 is the format 6, 0, 127 / 64: steps of
 * 2^-6. NaN stays NaN and alone, infinities land on the end of their block's range, and neither counts for A; a block
 * of zeros stays one. The gradient is straight through (Bengio 2013): mask holds m = [|x / X| < 2^(emax + 1)], so that
 * what MX's power of two leaves beyond max still moves (Rouhani 2023), and what NVFP4's largest scale does not reach
 * does not. detent_fake_quantize_mask_bwd_* is the backward.
 *
 *   x, y          [outer, groups, inner] of `dtype` (F32, F16, BF16, F64), contiguous, no overlap
 *   block_size    >= 1: elements of the middle dimension that share a scale; the last block of a row may be shorter
 *   tensor_scale  NULL, or one float64 for float64 data and else float32; finite and > 0 (promised)
 *   mask          (n + 7) / 8 bytes or NULL: bit i % 8 of byte i / 8 is m of element i
 *   parallel      NULL, or how to use several threads (CPU)
 *
 * Arithmetic is float32, float64 for float64 data. An empty tensor is DETENT_OK. DETENT_BAD_ARGUMENT, _BAD_SHAPE,
 * _BAD_DTYPE, _WORKSPACE_SMALL: nothing was written or queued. CPU and CUDA agree bit for bit. */
#ifndef DETENT_BLOCK_CAST_H
#define DETENT_BLOCK_CAST_H

#include "detent/float_cast.h"

#ifdef __cplusplus
extern "C" {
#endif

DETENT_API detent_status detent_block_cast_cpu(const void *x, void *y, uint8_t *mask, detent_dtype dtype,
                                               detent_shape3 shape, size_t block_size, detent_float_format format,
                                               const void *tensor_scale, detent_parallel_for parallel);

/* Blocks of a power of two in contiguous memory (inner 1, groups a multiple of block_size) take one launch and no
 * workspace; others find their scales in a launch before. */
DETENT_API detent_status detent_block_cast_workspace_cuda(detent_dtype dtype, detent_shape3 shape, size_t block_size,
                                                          size_t *bytes);
DETENT_API detent_status detent_block_cast_cuda(const void *x, void *y, uint8_t *mask, detent_dtype dtype,
                                                detent_shape3 shape, size_t block_size, detent_float_format format,
                                                const void *tensor_scale, void *workspace, size_t workspace_bytes,
                                                detent_stream stream);

#ifdef __cplusplus
}
#endif
#endif
