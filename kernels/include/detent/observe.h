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

#ifdef __cplusplus
}
#endif
#endif
