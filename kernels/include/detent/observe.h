/* Observers: statistics of a tensor, one set per group, without changing it.
 *
 *   x         [outer, groups, inner] of F32, F16, BF16 or F64
 *   min, max  [groups] float32 (float64 where x is F64): smallest and largest value that counts. A value counts when
 *             it is finite and below half its type's largest number in magnitude, so that attention masks do not widen
 *             a range. Where nothing counted: min = +inf, max = -inf.
 *   ignored   [groups] int64: how many values did not count
 *
 * The order of elements, threads and batches never changes a running minimum, maximum or count. */
#ifndef DETENT_OBSERVE_H
#define DETENT_OBSERVE_H

#include "detent/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* How a new batch joins what min, max and ignored held before. */
typedef int32_t detent_observe_mode;
enum {
    DETENT_OBSERVE_REPLACE = 0,       /* the arrays are outputs only */
    DETENT_OBSERVE_RUNNING = 1,       /* min = min(min, new), max = max(max, new), ignored += new */
    DETENT_OBSERVE_MOVING_AVERAGE = 2 /* min += momentum * (new - min), likewise max; the first batch that counts
                                         replaces +-inf; a batch in which nothing counts leaves them. ignored += new */
};

DETENT_API detent_status detent_observe_min_max_workspace(detent_shape3 shape, size_t *bytes);
DETENT_API detent_status detent_observe_min_max_cpu(const void *x, void *min, void *max, int64_t *ignored,
                                                    detent_dtype dtype, detent_shape3 shape, detent_observe_mode mode,
                                                    double momentum, void *workspace, size_t workspace_bytes,
                                                    detent_parallel_for parallel);
DETENT_API detent_status detent_observe_min_max_workspace_cuda(detent_shape3 shape, size_t *bytes);
DETENT_API detent_status detent_observe_min_max_cuda(const void *x, void *min, void *max, int64_t *ignored,
                                                     detent_dtype dtype, detent_shape3 shape, detent_observe_mode mode,
                                                     double momentum, void *workspace, size_t workspace_bytes,
                                                     detent_stream stream);

/* Moments, from which LSQ's first scales follow (Esser 2020, section 2.1; Bhalgat 2020): x is read once for the
 * extremes and these.
 *
 *   min, max, ignored   as above, running; for a first batch +inf, -inf and 0
 *   moments             [4, groups] double, the number of values that count and the sums of |x|, x and x^2 over them,
 *                       to which those of x are added; for a first batch 0
 *
 * Sums are taken in double, in an order that depends on the shape alone. Statuses as for detent_observe_min_max. */
DETENT_API detent_status detent_observe_moments_workspace(detent_shape3 shape, size_t *bytes);
DETENT_API detent_status detent_observe_moments_cpu(const void *x, void *min, void *max, int64_t *ignored,
                                                    double *moments, detent_dtype dtype, detent_shape3 shape,
                                                    void *workspace, size_t workspace_bytes,
                                                    detent_parallel_for parallel);
DETENT_API detent_status detent_observe_moments_workspace_cuda(detent_shape3 shape, size_t *bytes);
DETENT_API detent_status detent_observe_moments_cuda(const void *x, void *min, void *max, int64_t *ignored,
                                                     double *moments, detent_dtype dtype, detent_shape3 shape,
                                                     void *workspace, size_t workspace_bytes, detent_stream stream);

/* Histograms: how many values of each group fell into each bin.
 *
 * Bins lie on a grid of powers of two around 0. With half = bins / 2 and a width w = 2^e, a value x that counts is in
 * bin
 *
 *     half + trunc(|x| / w)           where x >= 0
 *     half - 1 - trunc(|x| / w)       where x < 0
 *
 * e is the smallest integer from -126 on with max(|min|, |max|) < half * w, where min and max are what the group has
 * seen. It is not stored: it follows from min and max. Where a range grows, e grows, and neighbouring bins of either
 * side are added in pairs: exactly what the values would have been counted as with the wider bins. So the counts are a
 * function of the set of values alone: no order of elements, batches, threads or merges changes one of them. Of the
 * half that the larger end needs, at least bins / 4 are in use.
 *
 *   min, max, ignored   as above, running; for a first batch +inf, -inf and 0
 *   counts              [groups, bins] int64; for a first batch 0
 *   bins                a power of two from 16 to 2048
 *
 * x is read twice: for its extremes, and to count. merge adds what another observer of as many groups holds, whose
 * arrays stay as they are; both sets have the type `real`, F32 or F64. No overlap.
 * DETENT_BAD_ARGUMENT (also: bins), DETENT_BAD_SHAPE, DETENT_BAD_DTYPE, DETENT_WORKSPACE_SMALL: nothing was written. */
enum { DETENT_FEWEST_BINS = 16, DETENT_MOST_BINS = 2048 };

DETENT_API detent_status detent_observe_histogram_workspace(detent_shape3 shape, size_t *bytes);
DETENT_API detent_status detent_observe_histogram_cpu(const void *x, void *min, void *max, int64_t *ignored,
                                                      int64_t *counts, detent_dtype dtype, detent_shape3 shape,
                                                      size_t bins, void *workspace, size_t workspace_bytes,
                                                      detent_parallel_for parallel);
DETENT_API detent_status detent_observe_histogram_merge_cpu(const void *other_min, const void *other_max,
                                                            const int64_t *other_ignored, const int64_t *other_counts,
                                                            void *min, void *max, int64_t *ignored, int64_t *counts,
                                                            detent_dtype real, size_t groups, size_t bins,
                                                            detent_parallel_for parallel);
DETENT_API detent_status detent_observe_histogram_workspace_cuda(detent_shape3 shape, size_t *bytes);
DETENT_API detent_status detent_observe_histogram_cuda(const void *x, void *min, void *max, int64_t *ignored,
                                                       int64_t *counts, detent_dtype dtype, detent_shape3 shape,
                                                       size_t bins, void *workspace, size_t workspace_bytes,
                                                       detent_stream stream);
DETENT_API detent_status detent_observe_histogram_merge_cuda(const void *other_min, const void *other_max,
                                                             const int64_t *other_ignored, const int64_t *other_counts,
                                                             void *min, void *max, int64_t *ignored, int64_t *counts,
                                                             detent_dtype real, size_t groups, size_t bins,
                                                             detent_stream stream);

#ifdef __cplusplus
}
#endif
#endif
