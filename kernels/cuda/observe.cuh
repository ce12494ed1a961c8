/* Statistics per group, for the observers and for a dynamic range. */
#ifndef DETENT_CUDA_OBSERVE_CUH
#define DETENT_CUDA_OBSERVE_CUH

#include "../math/observe.h"
#include "encoding.cuh"
#include "load_store.cuh"

namespace detent_cuda
{

template <typename Real> struct Statistics {
    Real min, max;
    int64_t ignored;

    static __device__ __forceinline__ Statistics none() { return {(Real)INFINITY, -(Real)INFINITY, 0}; }
    __device__ __forceinline__ void join(const Statistics &other)
    {
        min = detent_smaller(min, other.min);
        max = detent_larger(max, other.max);
        ignored += other.ignored;
    }
    __device__ __forceinline__ void take(Real value, Real limit)
    {
        const bool counts = detent_observe_counts(value, limit);
        min = detent_smaller(min, counts ? value : (Real)INFINITY);
        max = detent_larger(max, counts ? value : -(Real)INFINITY);
        ignored += !counts;
    }
    __device__ __forceinline__ Statistics from_lane(unsigned delta) const
    {
        return {__shfl_down_sync(0xffffffffu, min, delta), __shfl_down_sync(0xffffffffu, max, delta),
                __shfl_down_sync(0xffffffffu, ignored, delta)};
    }
};

/* Statistics of elements X as Finish wants them. */
template <typename X, typename Real, typename Finish> struct Observe {
    typedef typename Finish::Result Result;
    struct Group {
    };
    enum : unsigned { V = VectorOf<X, X>::SIZE, UNROLL = 4 };

    const X *x;
    Real limit;
    bool aligned;
    Finish finish;

    __device__ __forceinline__ Group group(size_t) const { return {}; }

    __device__ __forceinline__ void add_vectors(Result &into, Group, size_t vector, size_t stride, Run run) const
    {
        Pack<X, V> at[UNROLL];
#pragma unroll
        for (unsigned turn = 0; turn < UNROLL; ++turn)
            at[turn] = load<X, V>(x, vector + turn * stride, span_of<V>(vector + turn * stride, run), aligned);
#pragma unroll
        for (unsigned turn = 0; turn < UNROLL; ++turn) {
            const Span span = span_of<V>(vector + turn * stride, run);
#pragma unroll
            for (int k = 0; k < (int)V; ++k)
                if (k >= span.low && k < span.high) into.take(Convert<Real, X>::load(at[turn].at[k]), limit);
        }
    }

    __device__ __forceinline__ void add_column(Result &into, Group, size_t index, size_t stride, unsigned count) const
    {
        X at[UNROLL] = {};
#pragma unroll
        for (unsigned turn = 0; turn < UNROLL; ++turn)
            if (turn < count) at[turn] = x[index + turn * stride];
#pragma unroll
        for (unsigned turn = 0; turn < UNROLL; ++turn)
            if (turn < count) into.take(Convert<Real, X>::load(at[turn]), limit);
    }
};

/* The range that one group's statistics give, times clip (NULL means 1); real is the arithmetic of the encoding. */
template <typename real> struct RangeOf {
    const real *clip;
    size_t clip_count;
    Grid<real> grid;
    real *min, *max;

    template <typename observed>
    __device__ __forceinline__ void derive(size_t group, const Statistics<observed> &all, real *low, real *high) const
    {
        const real factor = clip == nullptr ? (real)1 : clip[clip_count == 1 ? 0 : group];
        detent_range_of_observed(detent_clip_observed((real)all.min, factor),
                                 detent_clip_observed((real)all.max, factor), grid, low, high);
    }
};

/* What becomes of the statistics: they join an observer's arrays, or they make a range. */
enum : int32_t { TO_RANGE_F32 = -1, TO_RANGE_F64 = -2 }; /* beside the detent_observe_mode values */

struct Destination {
    int32_t mode;
    void *min, *max; /* of an observer */
    int64_t *ignored;
    double momentum;
    RangeOf<float> range_f32;
    RangeOf<double> range_f64;
};

/* Queues the tasks; with join_rows also the launch that joins several partials of a group. Partials are
 * Statistics<double> for float64 data, else Statistics<float>, [groups, rows]. */
detent_status run_observe(const void *x, detent_dtype dtype, detent_shape3 shape, const Destination &destination,
                          void *partials, bool join_rows, detent_stream stream);

struct ObservedItem {
    const void *x;
    detent_shape3 shape;
    Destination to;
};

/* Several tensors; item(items, i) is one of them. */
struct Observed {
    size_t count;
    const void *items;
    ObservedItem (*item)(const void *items, size_t i);
};

/* run_observe with join_rows for several tensors of float32, float16 or bfloat16; partials of one after the other, with
 * room for doubles (detent_observe_min_max_workspace_cuda). */
detent_status run_observe_many(const Observed &observed, detent_dtype dtype, void *partials, detent_stream stream);

} // namespace detent_cuda

#endif
