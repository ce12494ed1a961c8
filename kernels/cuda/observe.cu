#include "detent/observe.h"

#include "../cpu/check.h"
#include "observe.cuh"
#include "many.cuh"

namespace detent_cuda
{

template <typename Real> struct FinishStatistics {
    typedef Statistics<Real> Result;
    Destination to;

    __device__ __forceinline__ void operator()(size_t group, Statistics<Real> all) const
    {
        if (to.mode == TO_RANGE_F32) {
            to.range_f32.derive(group, all, to.range_f32.min + group, to.range_f32.max + group);
            return;
        }
        if (to.mode == TO_RANGE_F64) {
            to.range_f64.derive(group, all, to.range_f64.min + group, to.range_f64.max + group);
            return;
        }
        Real *min = (Real *)to.min + group, *max = (Real *)to.max + group;
        if (to.mode == DETENT_OBSERVE_RUNNING) all.join({*min, *max, to.ignored[group]});
        if (to.mode == DETENT_OBSERVE_MOVING_AVERAGE) {
            all.min = detent_moving_average(*min, all.min, (Real)to.momentum);
            all.max = detent_moving_average(*max, all.max, (Real)to.momentum);
            all.ignored += to.ignored[group];
        }
        *min = all.min;
        *max = all.max;
        to.ignored[group] = all.ignored;
    }
};

template <typename X, typename Real>
static detent_status observe(const void *x, double limit, const Partition &part, const Destination &to, void *partials,
                             bool join_rows, detent_stream stream)
{
    typedef Observe<X, Real, FinishStatistics<Real>> Op;
    const Op op = {(const X *)x, (Real)limit, is_aligned<X, Op::V>(x), {to}};
    if (join_rows || partial_rows(part) <= 1) return run_reduce(op, part, partials, stream);
    return run_tasks(op, part, partials, stream);
}

detent_status run_observe(const void *x, detent_dtype dtype, detent_shape3 shape, const Destination &destination,
                          void *partials, bool join_rows, detent_stream stream)
{
    typedef detent_status (*Function)(const void *, double, const Partition &, const Destination &, void *, bool,
                                      detent_stream);
    static const Function table[] = {observe<float, float>, observe<F16, float>, observe<BF16, float>,
                                     observe<double, double>}; /* in the order of detent_dtype */
    return table[dtype](x, detent_counting_limit(dtype), partition_of(shape), destination, partials, join_rows, stream);
}

template <typename X>
static detent_status observe_many(const Observed &observed, double limit, void *partials, detent_stream stream)
{
    typedef Observe<X, float, FinishStatistics<float>> Op;
    size_t offset = 0;
    const auto job_of = [&](size_t i) -> ReduceJob<Op> {
        const ObservedItem item = observed.item(observed.items, i);
        if (i == 0) offset = 0;
        void *mine = (char *)partials + offset;
        size_t bytes = 0;
        (void)detent_observe_min_max_workspace_cuda(item.shape, &bytes);
        offset += bytes;
        return {{(const X *)item.x, (float)limit, is_aligned<X, Op::V>(item.x), {item.to}},
                partition_of(item.shape),
                (Statistics<float> *)mine};
    };
    return run_reduce_many<Op>(observed.count, job_of, stream);
}

detent_status run_observe_many(const Observed &observed, detent_dtype dtype, void *partials, detent_stream stream)
{
    static detent_status (*const by_dtype[])(const Observed &, double, void *, detent_stream) = {
        observe_many<float>, observe_many<F16>, observe_many<BF16>};
    return by_dtype[dtype](observed, detent_counting_limit(dtype), partials, stream);
}

} // namespace detent_cuda

using namespace detent_cuda;

/* Room for double statistics whatever the data type. */
detent_status detent_observe_min_max_workspace_cuda(detent_shape3 shape, size_t *bytes)
{
    size_t elements = 0;
    if (bytes == nullptr) return DETENT_BAD_ARGUMENT;
    const detent_status status = detent_check_shape(shape, &elements);
    return status == DETENT_OK ? reduce_workspace(shape, elements, sizeof(Statistics<double>), bytes) : status;
}

detent_status detent_observe_min_max_cuda(const void *x, void *min, void *max, int64_t *ignored, detent_dtype dtype,
                                          detent_shape3 shape, detent_observe_mode mode, double momentum,
                                          void *workspace, size_t workspace_bytes, detent_stream stream)
{
    size_t elements = 0, needed = 0;
    detent_status status = detent_check_shape(shape, &elements);
    if (status == DETENT_OK) status = detent_observe_min_max_workspace_cuda(shape, &needed);
    if (status != DETENT_OK) return status;
    if (!detent_is_float(dtype)) return DETENT_BAD_DTYPE;
    if (mode < DETENT_OBSERVE_REPLACE || mode > DETENT_OBSERVE_MOVING_AVERAGE) return DETENT_BAD_ARGUMENT;
    if ((elements > 0 && x == nullptr) ||
        (shape.groups > 0 && (min == nullptr || max == nullptr || ignored == nullptr)))
        return DETENT_BAD_ARGUMENT;
    status = detent_check_workspace(workspace, workspace_bytes, needed);
    if (status != DETENT_OK) return status;
    const Destination to = {mode, min, max, ignored, momentum, {}, {}};
    return run_observe(x, dtype, shape, to, workspace, true, stream);
}
