/* Encodings: from statistics to a range, from a range to scale and zero_point. All arrays are [n] real.
 *
 * detent_encode_min_max: the range of observed values lo, hi. With N = qmax - qmin, P = qmax - centre,
 * Q = centre - qmin and f = min(2^-23, 0.01 / N):
 *
 *     min = min(lo, 0)    max = max(hi, 0)                        zero is always representable
 *     where (max - min) / N < f                                   a constant or empty tensor
 *         symmetric: max += P * f, min -= Q * f                   else: max += N * f
 *     symmetric: d = max(max / P, -min / Q);  min = -Q * d;  max = P * d
 *         (N = 3 with P = 1, Q = 2, the signed 2-bit grid: d = max(max / 2, -min / 2), else its top would waste a
 * level)
 *
 * detent_encode_affine: scale and zero_point of a range, as in detent/base.h; the formula the fake-quantize kernels use
 * inside, for whoever must see the numbers.
 *
 * In-place use is allowed. DETENT_BAD_GRID, DETENT_BAD_ARGUMENT: nothing was written. */
#ifndef DETENT_ENCODE_H
#define DETENT_ENCODE_H

#include "detent/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* real: DETENT_F32 or DETENT_F64, the type of the four arrays. encoding: grid, symmetric, centre. */
DETENT_API detent_status detent_encode_min_max_cpu(const void *lo, const void *hi, void *min, void *max,
                                                   detent_dtype real, size_t n, const detent_encoding *encoding);
DETENT_API detent_status detent_encode_min_max_cuda(const void *lo, const void *hi, void *min, void *max,
                                                    detent_dtype real, size_t n, const detent_encoding *encoding,
                                                    detent_stream stream);
DETENT_API detent_status detent_encode_affine_cpu(const void *min, const void *max, void *scale, void *zero_point,
                                                  detent_dtype real, size_t n, const detent_encoding *encoding);
DETENT_API detent_status detent_encode_affine_cuda(const void *min, const void *max, void *scale, void *zero_point,
                                                   detent_dtype real, size_t n, const detent_encoding *encoding,
                                                   detent_stream stream);

#ifdef __cplusplus
}
#endif
#endif
