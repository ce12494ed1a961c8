#include "detent/observe.h"

#include "../cpu/check.h"
#include "../math/histogram.h"
#include "launch.cuh"
#include "load_store.cuh"

namespace detent_cuda
{

template <typename Real> struct HistogramJob {
    const void *x;
    detent_shape3 shape;
    const Real *min, *max; /* with this batch */
    int64_t *counts;
    size_t bins;
    int32_t *before; /* exponents without it */
    Real limit;
    size_t pieces; /* that a group is divided into */
};

template <typename Real> struct MergeJob {
    const Real *other_min, *other_max;
    const int64_t *other_ignored, *other_counts;
    Real *min, *max;
    int64_t *ignored, *counts;
    size_t groups, bins;
};

/* Groups of fewer values are counted in memory, larger ones a piece at a time in shared memory first. */
enum : unsigned { FEW = 4096, PIECE = 1u << 16 };

template <typename Real>
__global__ void __launch_bounds__(THREADS) note_exponents(const __grid_constant__ HistogramJob<Real> job)
{
    for (size_t group = (size_t)blockIdx.x * THREADS + threadIdx.x; group < job.shape.groups;
         group += (size_t)gridDim.x * THREADS)
        job.before[group] = detent_histogram_exponent(job.min[group], job.max[group], job.bins);
}

/* A block's counts, after the width doubled `shift` times, plus those of `added` (NULL: none). */
__device__ __forceinline__ void widen(int64_t *counts, size_t bins, int32_t shift, const int64_t *added,
                                      int32_t added_shift)
{
    __shared__ int64_t wide[DETENT_MOST_BINS];
#pragma unroll 1
    for (size_t bin = threadIdx.x; bin < bins; bin += THREADS) {
        wide[bin] = detent_widened_count(counts, bins, shift, bin);
        if (added != nullptr) wide[bin] += detent_widened_count(added, bins, added_shift, bin);
    }
    __syncthreads();
    for (size_t bin = threadIdx.x; bin < bins; bin += THREADS) counts[bin] = wide[bin];
}

template <typename Real>
__global__ void __launch_bounds__(THREADS) widen_groups(const __grid_constant__ HistogramJob<Real> job)
{
    for (size_t group = blockIdx.x; group < job.shape.groups; group += gridDim.x) {
        const int32_t shift = detent_histogram_exponent(job.min[group], job.max[group], job.bins) - job.before[group];
        if (shift > 0) widen(job.counts + group * job.bins, job.bins, shift, nullptr, 0);
    }
}

template <typename Real> __device__ __forceinline__ Real inverse_width(const HistogramJob<Real> &job, size_t group)
{
    return (Real)ldexp(1.0, -detent_histogram_exponent(job.min[group], job.max[group], job.bins));
}

/* Sums of integers: in whatever order they arrive, the counts are the same. */
__device__ __forceinline__ void add_count(int64_t *at, unsigned long long count)
{
    atomicAdd((unsigned long long *)at, count);
}

/* Small groups: each value goes to its count in memory. */
template <typename X, typename Real>
__global__ void __launch_bounds__(THREADS) count_values(const __grid_constant__ HistogramJob<Real> job)
{
    const size_t elements = elements_of(job.shape);
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < elements; i += (size_t)gridDim.x * THREADS) {
        const size_t group = i / job.shape.inner % job.shape.groups;
        const Real x = Convert<Real, X>::load(((const X *)job.x)[i]);
        const int32_t bin = detent_bin_of(x, job.limit, inverse_width(job, group), (int32_t)(job.bins / 2));
        if (bin < (int32_t)job.bins) add_count(&job.counts[group * job.bins + (size_t)bin], 1);
    }
}

/* Large groups: each block a piece of one, counted in shared memory. */
template <typename X, typename Real>
__global__ void __launch_bounds__(THREADS) count_pieces(const __grid_constant__ HistogramJob<Real> job)
{
    __shared__ unsigned table[DETENT_MOST_BINS + 1];
    const size_t elements = job.shape.outer * job.shape.inner, piece = ceil_div(elements, job.pieces);
    for (size_t index = blockIdx.x; index < job.shape.groups * job.pieces; index += gridDim.x) {
        const size_t group = index / job.pieces, begin = index % job.pieces * piece;
        const size_t end = least(elements, begin + piece);
        const Real inverse = inverse_width(job, group);
        for (size_t bin = threadIdx.x; bin <= job.bins; bin += THREADS) table[bin] = 0;
        __syncthreads();
        for (size_t at = begin; at < end;) {
            const size_t outer = at / job.shape.inner, inner = at % job.shape.inner;
            const size_t run = least(job.shape.inner - inner, end - at);
            const X *x = (const X *)job.x + (outer * job.shape.groups + group) * job.shape.inner + inner;
            for (size_t i = threadIdx.x; i < run; i += THREADS)
                atomicAdd(
                    &table[detent_bin_of(Convert<Real, X>::load(x[i]), job.limit, inverse, (int32_t)(job.bins / 2))],
                    1u);
            at += run;
        }
        __syncthreads();
        for (size_t bin = threadIdx.x; bin < job.bins; bin += THREADS)
            if (table[bin] != 0) add_count(&job.counts[group * job.bins + bin], table[bin]);
        __syncthreads();
    }
}

template <typename Real>
__global__ void __launch_bounds__(THREADS) merge_groups(const __grid_constant__ MergeJob<Real> job)
{
    for (size_t group = blockIdx.x; group < job.groups; group += gridDim.x) {
        const int32_t mine = detent_histogram_exponent(job.min[group], job.max[group], job.bins);
        const int32_t other = detent_histogram_exponent(job.other_min[group], job.other_max[group], job.bins);
        const int32_t both = mine > other ? mine : other;
        widen(job.counts + group * job.bins, job.bins, both - mine, job.other_counts + group * job.bins, both - other);
        if (threadIdx.x == 0) { /* all have read the extremes before the barrier in widen */
            job.min[group] = detent_smaller(job.min[group], job.other_min[group]);
            job.max[group] = detent_larger(job.max[group], job.other_max[group]);
            job.ignored[group] += job.other_ignored[group];
        }
    }
}

template <typename X, typename Real>
static detent_status observe_histogram(const void *x, void *min, void *max, int64_t *ignored, int64_t *counts,
                                       detent_dtype dtype, detent_shape3 shape, size_t bins, void *workspace,
                                       size_t extremes, detent_stream stream)
{
    const size_t elements = shape.outer * shape.inner;
    const HistogramJob<Real> job = {x,
                                    shape,
                                    (const Real *)min,
                                    (const Real *)max,
                                    counts,
                                    bins,
                                    (int32_t *)((char *)workspace + extremes),
                                    (Real)detent_counting_limit(dtype),
                                    most(1, ceil_div(elements, PIECE))};
    if (shape.groups == 0 || elements == 0) return DETENT_OK;
    detent_status status = launch(&note_exponents<Real>, job, ceil_div(shape.groups, THREADS), stream);
    if (status == DETENT_OK)
        status = detent_observe_min_max_cuda(x, min, max, ignored, dtype, shape, DETENT_OBSERVE_RUNNING, 0.0, workspace,
                                             extremes, stream);
    if (status == DETENT_OK) status = launch(&widen_groups<Real>, job, shape.groups, stream);
    if (status != DETENT_OK) return status;
    if (elements < FEW || shape.inner < WARP)
        return launch(&count_values<X, Real>, job, ceil_div(elements_of(shape), THREADS), stream);
    return launch(&count_pieces<X, Real>, job, shape.groups * job.pieces, stream);
}

template <typename Real>
static detent_status merge(const void *other_min, const void *other_max, const int64_t *other_ignored,
                           const int64_t *other_counts, void *min, void *max, int64_t *ignored, int64_t *counts,
                           size_t groups, size_t bins, detent_stream stream)
{
    const MergeJob<Real> job = {(const Real *)other_min,
                                (const Real *)other_max,
                                other_ignored,
                                other_counts,
                                (Real *)min,
                                (Real *)max,
                                ignored,
                                counts,
                                groups,
                                bins};
    return launch(&merge_groups<Real>, job, groups, stream);
}

} // namespace detent_cuda

using namespace detent_cuda;

/* Of the extremes, then the exponent of each group as it was. */
detent_status detent_observe_histogram_workspace_cuda(detent_shape3 shape, size_t *bytes)
{
    const detent_status status = detent_observe_min_max_workspace_cuda(shape, bytes);
    if (status == DETENT_OK) *bytes += shape.groups * sizeof(int32_t);
    return status;
}

detent_status detent_observe_histogram_cuda(const void *x, void *min, void *max, int64_t *ignored, int64_t *counts,
                                            detent_dtype dtype, detent_shape3 shape, size_t bins, void *workspace,
                                            size_t workspace_bytes, detent_stream stream)
{
    typedef detent_status (*Function)(const void *, void *, void *, int64_t *, int64_t *, detent_dtype, detent_shape3,
                                      size_t, void *, size_t, detent_stream);
    static const Function table[] = {observe_histogram<float, float>, observe_histogram<F16, float>,
                                     observe_histogram<BF16, float>,
                                     observe_histogram<double, double>}; /* in the order of detent_dtype */
    size_t extremes = 0;
    detent_status status = detent_observe_min_max_workspace_cuda(shape, &extremes);
    if (status == DETENT_OK)
        status = detent_check_histogram(x, min, max, ignored, counts, dtype, shape, bins, workspace, workspace_bytes,
                                        extremes + shape.groups * sizeof(int32_t));
    if (status != DETENT_OK) return status;
    return table[dtype](x, min, max, ignored, counts, dtype, shape, bins, workspace, extremes, stream);
}

detent_status detent_observe_histogram_merge_cuda(const void *other_min, const void *other_max,
                                                  const int64_t *other_ignored, const int64_t *other_counts, void *min,
                                                  void *max, int64_t *ignored, int64_t *counts, detent_dtype real,
                                                  size_t groups, size_t bins, detent_stream stream)
{
    const detent_status status = detent_check_merge(other_min, other_max, other_ignored, other_counts, min, max,
                                                    ignored, counts, real, groups, bins);
    if (status != DETENT_OK || groups == 0) return status;
    return (real == DETENT_F32 ? merge<float> : merge<double>)(other_min, other_max, other_ignored, other_counts, min,
                                                               max, ignored, counts, groups, bins, stream);
}
