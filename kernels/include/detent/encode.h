/* Encodings: from statistics to a range, from a range to scale and zero_point. All arrays are [n] real.
 *
 * detent_encode_min_max: the range of observed values lo, hi. With N = qmax - qmin, P = qmax - centre,
 * Q = centre - qmin and f = min(2^-23, 0.01 / N):
 *
 *     min = min(lo, 0)    max = max(hi, 0)                        zero is always representable
 *     where (max - min) / N < f                                   a constant or empty tensor
 *         symmetric: max += P * f, min -= Q * f                   else: max += N * f
 *     symmetric: d = max(max / P, -min / Q);  min = -Q * d;  max = P * d
 *         (N = 3 with P = 1, Q = 2, the signed 2-bit grid: d = max(max / 2, -min / 2), else its top would go unused)
 *
 * detent_encode_affine: scale and zero_point of a range, as in detent/base.h; the formula the fake-quantize kernels use
 * inside, for whoever must see the numbers. detent_encode_trained: the same for a scale and zero_point that are
 * trained.
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
DETENT_API detent_status detent_encode_trained_cpu(const void *scale, const void *zero_point, void *usable_scale,
                                                   void *usable_zero_point, detent_dtype real, size_t n,
                                                   const detent_encoding *encoding);
DETENT_API detent_status detent_encode_trained_cuda(const void *scale, const void *zero_point, void *usable_scale,
                                                    void *usable_zero_point, detent_dtype real, size_t n,
                                                    const detent_encoding *encoding, detent_stream stream);

/* Searches: the range that serves a histogram (detent/observe.h) best, one per group.
 *
 * All arithmetic is double; a bin stands for its centre c and weighs its count n. lo and hi are the observed minimum
 * and maximum; [low, high] is their range by detent_encode_min_max, the full range. A candidate is a scale d and a zero
 * point z; of several best ones the widest wins. Where the step of the full range is narrower than a bin, a histogram
 * cannot tell candidates apart: SQNR, MSE and ENTROPY then give the full range, and so does a group that saw nothing.
 *
 * PERCENTILE   the values that `percentile` percent lie below, and above, interpolated inside their bins and never
 *              beyond lo and hi; then detent_encode_min_max. 50 to 100; 100 gives the full range itself.
 *
 * SQNR         least sum n (c' - c)^2 g, c' the fake-quantized c, g = gamma where the code of c is clipped, else 1.
 *              With N = qmax - qmin:
 *                  symmetric: d = D k / (symmetric_deltas - 1), k = 1 .. symmetric_deltas, where D is the larger of
 *                      high / P and -low / Q; P, Q the steps above and below the centre, N / 2 both where they differ
 *                      by one
 *                  else: d = (high - low) / N k / (asymmetric_deltas - 1), k = 1 .. asymmetric_deltas, each with
 *                      min(N + 2, offsets) positions of the range: that of the full range, and evenly spaced ones; then
 *                      cut to the full range where they leave it, which narrows d
 *
 * MSE          the same with gamma = 1 and other candidates: parts of the full range, symmetric: k / 32 of D; else
 *              i / 16 of low and k / 16 of high, all pairs; then a second look around the best with steps eight times
 *              finer.
 *
 * ENTROPY      candidates as MSE with d no narrower than a bin; least Kullback-Leibler divergence of the
 *              clipped histogram (clipped counts join the outermost bin that is kept) from the quantized one (each
 *              step's count spread evenly over its bins that hold any).
 *
 *   lo, hi, min, max   [groups] real, F32 or F64. The range found has its ends on the grid, to rounding
 *   counts             [groups, bins]; bins as in detent/observe.h
 *
 * min, max may be lo, hi. CPU and CUDA agree in every bit, but for ENTROPY, whose sums have another order there: their
 * last bits may decide between equals. DETENT_BAD_GRID, DETENT_BAD_DTYPE, DETENT_BAD_ARGUMENT (also: bins, or a number
 * of the search out of its bounds): nothing was written. */
typedef int32_t detent_search_method;
enum { DETENT_PERCENTILE = 0, DETENT_SQNR = 1, DETENT_MSE = 2, DETENT_ENTROPY = 3 };

typedef struct detent_search {
    detent_search_method method;
    double percentile;                                    /* PERCENTILE: 50 .. 100 */
    double gamma;                                         /* SQNR: finite, >= 0 */
    int32_t asymmetric_deltas, symmetric_deltas, offsets; /* SQNR: 2 .. 1000, offsets 3 .. 1000 */
} detent_search;

DETENT_API detent_status detent_encode_histogram_cpu(const void *lo, const void *hi, const int64_t *counts, void *min,
                                                     void *max, detent_dtype real, size_t groups, size_t bins,
                                                     const detent_search *search, const detent_encoding *encoding,
                                                     detent_parallel_for parallel);
DETENT_API detent_status detent_encode_histogram_cuda(const void *lo, const void *hi, const int64_t *counts, void *min,
                                                      void *max, detent_dtype real, size_t groups, size_t bins,
                                                      const detent_search *search, const detent_encoding *encoding,
                                                      detent_stream stream);

#ifdef __cplusplus
}
#endif
#endif
