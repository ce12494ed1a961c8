#include "detent/observe.h"

#include <string.h>

#include "../math/histogram.h"
#include "check.h"
#include "walk.h"

/* A group of fewer values has no table of its own: its values go to its counts one by one. */
enum { FEW = 8192 };
/* Values that one table takes; below 2^32. */
enum { MANY = 1 << 16 };
/* Tables side by side, so that a value that comes again at once (a ReLU's zeros) need not wait for its own count. */
enum { TABLES = 4 };
/* The exponent of a group whose bins hold nothing: none is wider. */
enum { EMPTY = 2048 };

static void widen(int64_t *counts, size_t bins, int32_t shift)
{
    int64_t wide[DETENT_MOST_BINS];
    if (shift <= 0) return;
    for (size_t bin = 0; bin < bins; ++bin) wide[bin] = detent_widened_count(counts, bins, shift, bin);
    memcpy(counts, wide, bins * sizeof *counts);
}

#define DETENT_FORMULAS "../cpu/observe_histogram.inl"
#include "../math/for_each_real.h"

/* Of the extremes, then the exponent of each group as it was. */
detent_status detent_observe_histogram_workspace(detent_shape3 shape, size_t *bytes)
{
    const detent_status status = detent_observe_min_max_workspace(shape, bytes);
    if (status == DETENT_OK) *bytes += shape.groups * sizeof(int32_t);
    return status;
}

detent_status detent_observe_histogram_cpu(const void *x, void *min, void *max, int64_t *ignored, int64_t *counts,
                                           detent_dtype dtype, detent_shape3 shape, size_t bins, void *workspace,
                                           size_t workspace_bytes, detent_parallel_for parallel)
{
    size_t extremes = 0;
    detent_status status = detent_observe_min_max_workspace(shape, &extremes);
    if (status == DETENT_OK)
        status = detent_check_histogram(x, min, max, ignored, counts, dtype, shape, bins, workspace, workspace_bytes,
                                        extremes + shape.groups * sizeof(int32_t));
    if (status != DETENT_OK) return status;
    int32_t *before = shape.groups > 0 ? (int32_t *)((char *)workspace + extremes) : NULL;
    if (dtype == DETENT_F64)
        note_exponents_f64(min, max, shape.groups, bins, before);
    else
        note_exponents_f32(min, max, shape.groups, bins, before);
    status = detent_observe_min_max_cpu(x, min, max, ignored, dtype, shape, DETENT_OBSERVE_RUNNING, 0.0, workspace,
                                        extremes, parallel);
    if (status != DETENT_OK) return status;
    if (dtype == DETENT_F64)
        count_f64(x, min, max, counts, dtype, shape, bins, before, parallel);
    else
        count_f32(x, min, max, counts, dtype, shape, bins, before, parallel);
    return DETENT_OK;
}

detent_status detent_observe_histogram_merge_cpu(const void *other_min, const void *other_max,
                                                 const int64_t *other_ignored, const int64_t *other_counts, void *min,
                                                 void *max, int64_t *ignored, int64_t *counts, detent_dtype real,
                                                 size_t groups, size_t bins, detent_parallel_for parallel)
{
    const detent_status status = detent_check_merge(other_min, other_max, other_ignored, other_counts, min, max,
                                                    ignored, counts, real, groups, bins);
    if (status != DETENT_OK) return status;
    if (real == DETENT_F32)
        merge_f32(other_min, other_max, other_ignored, other_counts, min, max, ignored, counts, groups, bins, parallel);
    else
        merge_f64(other_min, other_max, other_ignored, other_counts, min, max, ignored, counts, groups, bins, parallel);
    return DETENT_OK;
}
