#include "detent/fake_quantize.h"

#include "../cpu/check.h"
#include "../math/fake_quantize.h"
#include "backward.cuh"
#include "detent/observe.h"
#include "fake_quantize_many.cuh"
#include "many.cuh"
#include "observe.cuh"

namespace detent_cuda
{

template <typename T, typename Real, bool OF_SUM = false> struct FakeQuantize {
    typedef T From;
    typedef T To;
    typedef Real real;
    enum : bool { MASKED = true, ACTIVATED = true, RANDOM = false, SUMMED = OF_SUM, TRAINED = true };
    static __device__ __forceinline__ real value(real x, real scale, real zero_point, real qmin, real qmax)
    {
        return detent_fake_quantize_one(x, scale, zero_point, qmin, qmax);
    }
    static __device__ __forceinline__ int inside(real x, real scale, real zero_point, real qmin, real qmax)
    {
        return detent_fake_quantize_mask_one(x, scale, zero_point, qmin, qmax);
    }
};

struct FakeQuantizeTerms {
    enum : bool { ACTIVATED = true, TRAINED = true };
    template <typename real>
    static __device__ __forceinline__ real grad(real g, real x, real scale, real zero_point, real qmin, real qmax)
    {
        return detent_fake_quantize_bwd_x_one(g, x, scale, zero_point, qmin, qmax);
    }
    template <typename real>
    static __device__ __forceinline__ real first(real g, real x, real scale, real zero_point, real qmin, real qmax)
    {
        return detent_fake_quantize_bwd_scale_one(g, x, scale, zero_point, qmin, qmax);
    }
    template <typename real>
    static __device__ __forceinline__ real second(real g, real x, real scale, real zero_point, real qmin, real qmax)
    {
        return detent_fake_quantize_bwd_zero_point_one(g, x, scale, zero_point, qmin, qmax);
    }
};

/* grad_x = bit ? grad_y : 0, on the bits of one element: nothing is converted, nothing multiplied. */
struct SelectJob {
    const void *grad_y;
    const uint8_t *mask;
    void *grad_x;
    size_t elements;
    bool aligned;
};

template <typename Word>
__device__ __forceinline__ void select_elements(const SelectJob &job, size_t first, size_t step)
{
    constexpr unsigned V = VectorOf<Word, Word>::SIZE;
    const Run all = {0, job.elements};
    const size_t tiles = map_tiles(job.elements, V);
    for (size_t tile = first; tile < tiles; tile += step) {
        Pack<Word, V> grad[MAP_UNROLL];
        unsigned bits[MAP_UNROLL];
#pragma unroll
        for (unsigned turn = 0; turn < MAP_UNROLL; ++turn) {
            const size_t vector = map_vector(tile, threadIdx.x, turn);
            grad[turn] = load<Word, V>((const Word *)job.grad_y, vector, span_of<V>(vector, all), job.aligned);
            bits[turn] = vector * V < job.elements ? (unsigned)job.mask[vector * V / 8] >> (vector * V % 8) : 0;
        }
#pragma unroll
        for (unsigned turn = 0; turn < MAP_UNROLL; ++turn) {
            const size_t vector = map_vector(tile, threadIdx.x, turn);
#pragma unroll
            for (unsigned k = 0; k < V; ++k) grad[turn].at[k] = (bits[turn] >> k) & 1u ? grad[turn].at[k] : (Word)0;
            store<Word, V>((Word *)job.grad_x, vector, span_of<V>(vector, all), job.aligned, grad[turn]);
        }
    }
}

template <typename Word> __global__ void __launch_bounds__(THREADS) select_by_mask(SelectJob job)
{
    select_elements<Word>(job, blockIdx.x, gridDim.x);
}

template <typename Word>
__global__ void __launch_bounds__(THREADS) select_each(const __grid_constant__ Table<SelectJob> table)
{
    each_block(table, [](const SelectJob &job, size_t block) { select_elements<Word>(job, block, job.elements); });
}

template <typename Word> static SelectJob select_job(const void *grad_y, const uint8_t *mask, void *grad_x, size_t n)
{
    constexpr unsigned V = VectorOf<Word, Word>::SIZE;
    return {grad_y, mask, grad_x, n, is_aligned<Word, V>(grad_y) && is_aligned<Word, V>(grad_x)};
}

template <typename Word>
static detent_status run_select(const detent_fake_quantize_mask_bwd_item &item, detent_stream stream)
{
    return launch(&select_by_mask<Word>, select_job<Word>(item.grad_y, item.mask, item.grad_x, item.n),
                  map_tiles(item.n, VectorOf<Word, Word>::SIZE), stream);
}

template <typename Word>
static detent_status select_many(const detent_fake_quantize_mask_bwd_item *items, size_t count, detent_stream stream)
{
    Launches<SelectJob> launches(&select_each<Word>, stream);
    for (size_t i = 0; i < count; ++i)
        launches.add(select_job<Word>(items[i].grad_y, items[i].mask, items[i].grad_x, items[i].n),
                     map_tiles(items[i].n, VectorOf<Word, Word>::SIZE));
    return launches.flush();
}

/* Forward of a per-tensor dynamic range with few partials, in float32: every block joins them itself, which saves a
 * launch between the observer and this kernel. The first block writes the range. */
enum : size_t { MOST_JOINED = FEW_TASKS * TASK }; /* elements */

template <typename Op> struct JoinedJob {
    MapJob<Op> map;
    const Statistics<float> *partials;
    size_t rows;
    RangeOf<float> range;
};

template <typename Op>
__global__ void __launch_bounds__(THREADS, MAP_BLOCKS) map_joined(const __grid_constant__ JoinedJob<Op> job)
{
    __shared__ Affine<float> affine;
    Statistics<float> all = Statistics<float>::none();
    for (size_t row = threadIdx.x; row < job.rows; row += THREADS) all.join(job.partials[row]);
    all = join_team(all, THREADS);
    if (threadIdx.x == 0) {
        float min, max;
        job.range.derive(0, all, &min, &max);
        affine = affine_of_range<float>(min, max, job.range.grid);
        if (blockIdx.x == 0) {
            *job.range.min = min;
            *job.range.max = max;
        }
    }
    __syncthreads();
    map_elements<Op>(job.map, {0, affine}, blockIdx.x, gridDim.x);
}

/* Whether there is a zero point to differentiate by. */
static bool has_second(const detent_encoding &encoding, const void *grad_second)
{
    return encoding.scale != nullptr ? grad_second != nullptr : !encoding.symmetric;
}

struct ForwardCall {
    const void *x, *residual;
    void *sum, *y;
    uint8_t *mask;
    detent_dtype dtype;
    detent_shape3 shape;
    const detent_encoding *encoding;
    const detent_activation *activation;
    detent_stream stream;
};

/* The whole line where there is no activation. */
template <typename real> static Interval<real> interval_of(const detent_activation *activation, detent_dtype dtype)
{
    if (activation == nullptr) return {-(real)HUGE_VAL, (real)HUGE_VAL};
    return {(real)detent_stored(activation->min, dtype), (real)detent_stored(activation->max, dtype)};
}

template <typename T, typename real> static detent_status forward_sum(const ForwardCall &call)
{
    typedef FakeQuantize<T, real, true> Op;
    constexpr unsigned V = VectorOf<T, T>::SIZE;
    MapJob<Op> job = map_job<Op>(call.x, call.y, call.mask, call.shape, encodings_of<real>(*call.encoding),
                                 interval_of<real>(call.activation, call.dtype));
    job.residual = (const T *)call.residual;
    job.sum = (T *)call.sum;
    job.aligned = job.aligned && is_aligned<T, V>(call.residual) && is_aligned<T, V>(call.sum);
    return launch(&map<Op>, job, map_tiles(job.elements, V), call.stream);
}

template <typename T, typename real> static detent_status forward(const ForwardCall &call)
{
    return run_map<FakeQuantize<T, real>>(call.x, call.y, call.mask, call.shape, encodings_of<real>(*call.encoding),
                                          call.stream, interval_of<real>(call.activation, call.dtype));
}

template <typename T>
static detent_status forward_joined(const ForwardCall &call, const void *partials, size_t rows, const Destination &to)
{
    typedef FakeQuantize<T, float> Op;
    const JoinedJob<Op> job = {map_job<Op>(call.x, call.y, call.mask, call.shape, encodings_of<float>(*call.encoding),
                                           interval_of<float>(call.activation, call.dtype)),
                               (const Statistics<float> *)partials, rows, to.range_f32};
    return launch(&map_joined<Op>, job, map_tiles(job.map.elements, VectorOf<T, T>::SIZE), call.stream);
}

template <typename T, typename real>
static detent_status backward(const BackwardCall &call, const detent_activation *activation, detent_dtype dtype)
{
    return run_backward<FakeQuantizeTerms, T, T, real>(call, interval_of<real>(activation, dtype));
}

/* Arithmetic of float32 only: calls in float64 are one launch per item. */
static detent_encoding encoding_of(const detent_fake_quantize_item &item)
{
    return item.encoding;
}
static detent_encoding encoding_of(const detent_fake_quantize_dynamic_item &item)
{
    detent_encoding derived = item.encoding;
    derived.scale = derived.zero_point = nullptr;
    derived.min = item.min;
    derived.max = item.max;
    return derived;
}

template <typename T, typename Item>
static detent_status forward_many(const Item *items, size_t count, detent_stream stream)
{
    typedef FakeQuantize<T, float> Op;
    Launches<MapJob<Op>> launches(&map_many<Op>, stream);
    for (size_t i = 0; i < count; ++i) {
        const MapJob<Op> job = map_job<Op>(items[i].x, items[i].y, items[i].mask, items[i].shape,
                                           encodings_of<float>(encoding_of(items[i])), interval_of<float>(nullptr, 0));
        launches.add(job, map_tiles(job.elements, VectorOf<T, T>::SIZE));
    }
    return launches.flush();
}

template <typename T>
static detent_status backward_many(const detent_fake_quantize_bwd_item *items, size_t count, void *workspace,
                                   detent_stream stream)
{
    typedef Backward<FakeQuantizeTerms, T, T, float> Op;
    size_t offset = 0;
    const auto job_of = [&](size_t i) -> ReduceJob<Op> {
        const detent_fake_quantize_bwd_item &item = items[i];
        if (i == 0) offset = 0;
        void *partials = (char *)workspace + offset;
        size_t bytes = 0;
        (void)sums_workspace(item.shape, &bytes);
        offset += bytes;
        const BackwardCall call = {item.grad_y,
                                   item.x,
                                   item.grad_x,
                                   item.grad_first,
                                   item.grad_second,
                                   item.shape,
                                   &item.encoding,
                                   item.gradient_scale,
                                   has_second(item.encoding, item.grad_second),
                                   partials,
                                   stream};
        return {backward_op<FakeQuantizeTerms, T, T, float>(call, interval_of<float>(nullptr, 0)),
                partition_of(item.shape), (Sums *)partials};
    };
    return run_reduce_many<Op>(count, job_of, stream);
}

/* By arithmetic and data type, in the order of detent_dtype; float64 data always has float64 arithmetic. */
static const struct {
    detent_status (*forward)(const ForwardCall &);
    detent_status (*forward_sum)(const ForwardCall &);
    detent_status (*forward_joined)(const ForwardCall &, const void *, size_t, const Destination &);
    detent_status (*backward)(const BackwardCall &, const detent_activation *, detent_dtype);
} functions[2][4] = {
    {{forward<float, float>, forward_sum<float, float>, forward_joined<float>, backward<float, float>},
     {forward<F16, float>, forward_sum<F16, float>, forward_joined<F16>, backward<F16, float>},
     {forward<BF16, float>, forward_sum<BF16, float>, forward_joined<BF16>, backward<BF16, float>},
     {nullptr, nullptr, nullptr, nullptr}},
    {{forward<float, double>, forward_sum<float, double>, nullptr, backward<float, double>},
     {forward<F16, double>, forward_sum<F16, double>, nullptr, backward<F16, double>},
     {forward<BF16, double>, forward_sum<BF16, double>, nullptr, backward<BF16, double>},
     {forward<double, double>, forward_sum<double, double>, nullptr, backward<double, double>}},
};

static int by_math(detent_dtype dtype, const detent_encoding &encoding)
{
    return detent_math_dtype(dtype, encoding.grid) == DETENT_F64;
}

/* Where the statistics of a dynamic range go. */
static Destination range_of(const void *clip, size_t clip_count, const detent_encoding &encoding, int math, void *min,
                            void *max)
{
    Destination to = {};
    to.mode = math ? TO_RANGE_F64 : TO_RANGE_F32;
    to.range_f32 = {(const float *)clip, clip_count, grid_of<float>(encoding), (float *)min, (float *)max};
    to.range_f64 = {(const double *)clip, clip_count, grid_of<double>(encoding), (double *)min, (double *)max};
    return to;
}

/* By data type, in the order of detent_dtype. */
detent_status run_forward_many(const detent_fake_quantize_item *items, size_t count, detent_dtype dtype,
                               detent_stream stream)
{
    static detent_status (*const by_dtype[])(const detent_fake_quantize_item *, size_t, detent_stream) = {
        forward_many<float>, forward_many<F16>, forward_many<BF16>};
    return by_dtype[dtype](items, count, stream);
}

detent_status run_dynamic_many(const detent_fake_quantize_dynamic_item *items, size_t count, detent_dtype dtype,
                               void *workspace, detent_stream stream)
{
    static detent_status (*const by_dtype[])(const detent_fake_quantize_dynamic_item *, size_t, detent_stream) = {
        forward_many<float>, forward_many<F16>, forward_many<BF16>};
    const Observed observed = {count, items, [](const void *all, size_t i) {
                                   const auto &item = ((const detent_fake_quantize_dynamic_item *)all)[i];
                                   return ObservedItem{
                                       item.x, item.shape,
                                       range_of(item.clip, item.clip_count, item.encoding, 0, item.min, item.max)};
                               }};
    const detent_status status = run_observe_many(observed, dtype, workspace, stream);
    return status == DETENT_OK ? by_dtype[dtype](items, count, stream) : status;
}

detent_status run_backward_many(const detent_fake_quantize_bwd_item *items, size_t count, detent_dtype dtype,
                                void *workspace, detent_stream stream)
{
    static detent_status (*const by_dtype[])(const detent_fake_quantize_bwd_item *, size_t, void *, detent_stream) = {
        backward_many<float>, backward_many<F16>, backward_many<BF16>};
    return by_dtype[dtype](items, count, workspace, stream);
}

detent_status run_select_many(const detent_fake_quantize_mask_bwd_item *items, size_t count, detent_dtype dtype,
                              detent_stream stream)
{
    static detent_status (*const by_dtype[])(const detent_fake_quantize_mask_bwd_item *, size_t, detent_stream) = {
        select_many<uint32_t>, select_many<uint16_t>, select_many<uint16_t>, select_many<uint64_t>};
    return by_dtype[dtype](items, count, stream);
}

} // namespace detent_cuda

using namespace detent_cuda;

static detent_status forward_of(const ForwardCall &call)
{
    size_t elements = 0;
    detent_status status = detent_check_encoding(call.encoding);
    if (status == DETENT_OK) status = detent_check_activation(call.activation);
    if (status == DETENT_OK) status = detent_check_values(call.x, call.y, call.dtype, call.shape, &elements);
    if (status != DETENT_OK || elements == 0) return status;
    const auto &of_type = functions[by_math(call.dtype, *call.encoding)][call.dtype];
    return (call.residual != nullptr ? of_type.forward_sum : of_type.forward)(call);
}

detent_status detent_fake_quantize_cuda(const void *x, void *y, uint8_t *mask, detent_dtype dtype, detent_shape3 shape,
                                        const detent_encoding *encoding, const detent_activation *activation,
                                        detent_stream stream)
{
    return forward_of({x, nullptr, nullptr, y, mask, dtype, shape, encoding, activation, stream});
}

detent_status detent_fake_quantize_sum_cuda(const void *x, const void *residual, void *sum, void *y, uint8_t *mask,
                                            detent_dtype dtype, detent_shape3 shape, const detent_encoding *encoding,
                                            const detent_activation *activation, detent_stream stream)
{
    size_t elements = 0;
    const detent_status status = detent_check_values(x, residual, dtype, shape, &elements);
    if (status != DETENT_OK) return status;
    return forward_of({x, residual, sum, y, mask, dtype, shape, encoding, activation, stream});
}

detent_status detent_fake_quantize_bwd_workspace_cuda(detent_shape3 shape, size_t *bytes)
{
    return sums_workspace(shape, bytes);
}

detent_status detent_fake_quantize_bwd_cuda(const void *grad_y, const void *x, void *grad_x, void *grad_first,
                                            void *grad_second, detent_dtype dtype, detent_shape3 shape,
                                            const detent_encoding *encoding, const detent_activation *activation,
                                            double gradient_scale, void *workspace, size_t workspace_bytes,
                                            detent_stream stream)
{
    size_t elements = 0, needed = 0;
    detent_status status = detent_check_encoding(encoding);
    if (status == DETENT_OK) status = detent_check_activation(activation);
    if (status == DETENT_OK) status = detent_check_values(grad_y, x, dtype, shape, &elements);
    if (status == DETENT_OK) status = sums_workspace(shape, &needed);
    if (status == DETENT_OK)
        status = detent_check_sums(grad_first, grad_second, shape.groups, encoding, workspace, workspace_bytes, needed);
    if (status != DETENT_OK) return status;
    return functions[by_math(dtype, *encoding)][dtype].backward({grad_y, x, grad_x, grad_first, grad_second, shape,
                                                                 encoding, gradient_scale,
                                                                 has_second(*encoding, grad_second), workspace, stream},
                                                                activation, dtype);
}

detent_status detent_fake_quantize_mask_bwd_cuda(const void *grad_y, const uint8_t *mask, void *grad_x,
                                                 detent_dtype dtype, size_t n, detent_stream stream)
{
    size_t elements = 0;
    const detent_status status = detent_check_values(grad_y, grad_x, dtype, {1, 1, n}, &elements);
    if (status != DETENT_OK || n == 0) return status;
    if (mask == nullptr) return DETENT_BAD_ARGUMENT;
    static detent_status (*const by_dtype[])(const detent_fake_quantize_mask_bwd_item &, detent_stream) = {
        run_select<uint32_t>, run_select<uint16_t>, run_select<uint16_t>, run_select<uint64_t>};
    return by_dtype[dtype]({grad_y, mask, grad_x, n}, stream);
}

detent_status detent_fake_quantize_dynamic_workspace_cuda(detent_shape3 shape, size_t *bytes)
{
    return detent_observe_min_max_workspace_cuda(shape, bytes);
}

detent_status detent_fake_quantize_dynamic_cuda(const void *x, void *y, uint8_t *mask, void *min, void *max,
                                                detent_dtype dtype, detent_shape3 shape, const void *clip,
                                                size_t clip_count, const detent_encoding *encoding, void *workspace,
                                                size_t workspace_bytes, detent_stream stream)
{
    size_t elements = 0, needed = 0;
    detent_status status = detent_check_grid(encoding);
    if (status == DETENT_OK) status = detent_check_values(x, y, dtype, shape, &elements);
    if (status == DETENT_OK) status = detent_observe_min_max_workspace_cuda(shape, &needed);
    if (status != DETENT_OK) return status;
    if (shape.groups > 0 && (min == nullptr || max == nullptr)) return DETENT_BAD_ARGUMENT;
    if (clip != nullptr && clip_count != 1 && clip_count != shape.groups) return DETENT_BAD_ARGUMENT;
    status = detent_check_workspace(workspace, workspace_bytes, needed);
    if (status != DETENT_OK) return status;

    const int math = by_math(dtype, *encoding);
    const Destination to = range_of(clip, clip_count, *encoding, math, min, max);
    detent_encoding derived = *encoding;
    derived.scale = derived.zero_point = nullptr;
    derived.min = min;
    derived.max = max;
    const ForwardCall call = {x, nullptr, nullptr, y, mask, dtype, shape, &derived, nullptr, stream};

    const size_t rows = partial_rows(partition_of(shape));
    const bool joined =
        functions[math][dtype].forward_joined != nullptr && shape.groups == 1 && rows > 1 && elements <= MOST_JOINED;
    status = run_observe(x, dtype, shape, to, workspace, !joined, stream);
    if (status != DETENT_OK || elements == 0) return status;
    return joined ? functions[math][dtype].forward_joined(call, workspace, rows, to)
                  : functions[math][dtype].forward(call);
}
