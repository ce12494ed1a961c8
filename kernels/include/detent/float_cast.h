/* Rounding to a float format of fewer bits, and back.
 *
 *     v    = clamp(x / scale, -max, max)                            true division
 *     step = 2^(max(floor(log2 |v|), min_exponent) - mantissa_bits)
 *     y    = rint(v / step) * step * scale                          halves to even
 *
 * Kuzmin 2022, eqs. 2 and 3. Below 2^min_exponent lie the format's subnormals. NaN stays NaN; +-inf and whatever lies
 * beyond max lands on +-max. The gradient is straight through (Bengio 2013): mask holds m = [|x / scale| <= max], and
 * detent_fake_quantize_mask_bwd_* is the backward.
 *
 *   x, y      [outer, groups, inner] of `dtype` (F32, F16, BF16, F64), contiguous, no overlap
 *   scale     [groups], float64 for float64 data and else float32; finite and > 0 (promised)
 *   mask      (n + 7) / 8 bytes or NULL: bit i % 8 of byte i / 8 is m of element i
 *   parallel  NULL, or how to use several threads (CPU)
 *
 * Arithmetic is float32, float64 for float64 data. An empty tensor is DETENT_OK. DETENT_BAD_ARGUMENT, _BAD_SHAPE,
 * _BAD_DTYPE: nothing was written or queued. CPU and CUDA agree bit for bit. */
#ifndef DETENT_FLOAT_CAST_H
#define DETENT_FLOAT_CAST_H

#include "detent/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The numbers of a format: 0 <= mantissa_bits <= 23, -149 <= min_exponent - mantissa_bits, min_exponent <= 127, and
 * max, the largest finite one, positive and finite in float32. e4m3fn: 3, -6, 448. bfloat16: 7, -126, 0x1.fep127. */
typedef struct detent_float_format {
    int32_t mantissa_bits, min_exponent;
    double max;
} detent_float_format;

DETENT_API detent_status detent_float_cast_cpu(const void *x, void *y, uint8_t *mask, detent_dtype dtype,
                                               detent_shape3 shape, const void *scale, detent_float_format format,
                                               detent_parallel_for parallel);
DETENT_API detent_status detent_float_cast_cuda(const void *x, void *y, uint8_t *mask, detent_dtype dtype,
                                                detent_shape3 shape, const void *scale, detent_float_format format,
                                                detent_stream stream);

#ifdef __cplusplus
}
#endif
#endif
