#include "detent/observe.h"

#include "../cpu/check.h"
#include "observe.cuh"
#include "reduce.cuh"

namespace detent_cuda
{

/* The extremes, and the sums of |x|, x and x^2, of what counts. */
template <typename Real> struct Moments {
    Statistics<Real> seen;
    double size, total, square;

    static __device__ __forceinline__ Moments none() { return {Statistics<Real>::none(), 0.0, 0.0, 0.0}; }
    __device__ __forceinline__ void join(const Moments &other)
    {
        seen.join(other.seen);
        size += other.size;
        total += other.total;
        square += other.square;
    }
    __device__ __forceinline__ void take(Real value, Real limit)
    {
        const double term = detent_observe_counts(value, limit) ? (double)value : 0.0;
        seen.take(value, limit);
        size += fabs(term);
        total += term;
        square += term * term;
    }
    __device__ __forceinline__ Moments from_lane(unsigned delta) const
    {
        return {seen.from_lane(delta), __shfl_down_sync(0xffffffffu, size, delta),
                __shfl_down_sync(0xffffffffu, total, delta), __shfl_down_sync(0xffffffffu, square, delta)};
    }
};

template <typename Real> struct FinishMoments {
    typedef Moments<Real> Result;
    Real *min, *max;
    int64_t *ignored;
    double *moments;
    size_t groups;
    double elements; /* of a group */

    __device__ __forceinline__ void operator()(size_t group, const Result &all) const
    {
        moments[group] += elements - (double)all.seen.ignored;
        moments[groups + group] += all.size;
        moments[2 * groups + group] += all.total;
        moments[3 * groups + group] += all.square;
        Statistics<Real> seen = all.seen;
        seen.join({min[group], max[group], ignored[group]});
        min[group] = seen.min;
        max[group] = seen.max;
        ignored[group] = seen.ignored;
    }
};

struct MomentsCall {
    const void *x;
    void *min, *max;
    int64_t *ignored;
    double *moments;
    detent_dtype dtype;
    detent_shape3 shape;
    void *workspace;
    detent_stream stream;
};

template <typename X, typename Real> static detent_status observe_moments(const MomentsCall &call)
{
    typedef Observe<X, Real, FinishMoments<Real>> Op;
    const Op op = {(const X *)call.x,
                   (Real)detent_counting_limit(call.dtype),
                   is_aligned<X, Op::V>(call.x),
                   {(Real *)call.min, (Real *)call.max, call.ignored, call.moments, call.shape.groups,
                    (double)(call.shape.outer * call.shape.inner)}};
    return run_reduce(op, partition_of(call.shape), call.workspace, call.stream);
}

} // namespace detent_cuda

using namespace detent_cuda;

/* Room for double statistics whatever the data type. */
detent_status detent_observe_moments_workspace_cuda(detent_shape3 shape, size_t *bytes)
{
    size_t elements = 0;
    if (bytes == nullptr) return DETENT_BAD_ARGUMENT;
    const detent_status status = detent_check_shape(shape, &elements);
    return status == DETENT_OK ? reduce_workspace(shape, elements, sizeof(Moments<double>), bytes) : status;
}

detent_status detent_observe_moments_cuda(const void *x, void *min, void *max, int64_t *ignored, double *moments,
                                          detent_dtype dtype, detent_shape3 shape, void *workspace,
                                          size_t workspace_bytes, detent_stream stream)
{
    size_t elements = 0, needed = 0;
    detent_status status = detent_check_shape(shape, &elements);
    if (status == DETENT_OK) status = detent_observe_moments_workspace_cuda(shape, &needed);
    if (status != DETENT_OK) return status;
    if (!detent_is_float(dtype)) return DETENT_BAD_DTYPE;
    const bool absent = min == nullptr || max == nullptr || ignored == nullptr || moments == nullptr;
    if ((elements > 0 && x == nullptr) || (shape.groups > 0 && absent)) return DETENT_BAD_ARGUMENT;
    status = detent_check_workspace(workspace, workspace_bytes, needed);
    if (status != DETENT_OK) return status;
    static detent_status (*const by_dtype[])(const MomentsCall &) = {
        observe_moments<float, float>, observe_moments<F16, float>, observe_moments<BF16, float>,
        observe_moments<double, double>}; /* in the order of detent_dtype */
    return by_dtype[dtype]({x, min, max, ignored, moments, dtype, shape, workspace, stream});
}
