#include "detent/block_cast.h"

#include "../cpu/check.h"
#include "../math/block_cast.h"
#include "map.cuh"

namespace detent_cuda
{

template <typename real> struct BlockTypes;
template <> struct BlockTypes<float> {
    typedef detent_elements_f32 elements;
    typedef detent_bits_f32 bits;
};
template <> struct BlockTypes<double> {
    typedef detent_elements_f64 elements;
    typedef detent_bits_f64 bits;
};

template <typename T, typename Real> struct BlockJob {
    typedef Real real;
    const T *x;
    T *y;
    uint8_t *mask; /* NULL where none is wanted */
    detent_shape3 shape;
    size_t elements_count, block, blocks;
    typename BlockTypes<Real>::elements elements;
    const Real *tensor_scale;
    Real *scales; /* [outer, blocks, inner], where a launch before found them */
    Divider by_inner, by_length, by_block;
    bool aligned;
};

template <typename real, typename bits>
__device__ __forceinline__ real scale_of(bits largest, const typename BlockTypes<real>::elements &elements,
                                         const real *tensor_scale)
{
    const real most = detent_magnitude_of(largest);
    return tensor_scale == nullptr ? detent_mx_scale(most, elements)
                                   : detent_two_level_scale(most, elements, *tensor_scale);
}

template <typename real>
__device__ __forceinline__ real cast_one(real x, real scale, const typename BlockTypes<real>::elements &elements)
{
    return detent_float_cast_one(x, scale, elements.ulp, elements.smallest, elements.max);
}

/* Blocks of a power of two, V to a warp's vectors, that begin where vectors do: neighbouring threads own one together.
 */
template <typename T, typename real> __global__ void __launch_bounds__(THREADS) cast_blocks(BlockJob<T, real> job)
{
    typedef typename BlockTypes<real>::bits Bits;
    constexpr unsigned V = VectorOf<T, T>::SIZE;
    const Run all = {0, job.elements_count};
    const size_t tiles = map_tiles(job.elements_count, V);
    const unsigned team = (unsigned)job.block / V;
    for (size_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        Pack<T, V> at[MAP_UNROLL];
#pragma unroll
        for (unsigned turn = 0; turn < MAP_UNROLL; ++turn) {
            const size_t vector = map_vector(tile, threadIdx.x, turn);
            at[turn] = load<T, V>(job.x, vector, span_of<V>(vector, all), job.aligned);
        }
#pragma unroll
        for (unsigned turn = 0; turn < MAP_UNROLL; ++turn) {
            const size_t vector = map_vector(tile, threadIdx.x, turn);
            const Span span = span_of<V>(vector, all);
            Bits largest = 0;
#pragma unroll
            for (unsigned k = 0; k < V; ++k) {
                const Bits bits = detent_finite_magnitude(Convert<real, T>::load(at[turn].at[k]));
                largest = bits > largest ? bits : largest;
            }
            for (unsigned apart = 1; apart < team; apart *= 2) {
                const Bits other = __shfl_xor_sync(0xffffffffu, largest, apart);
                largest = other > largest ? other : largest;
            }
            const real scale = scale_of<real>(largest, job.elements, job.tensor_scale);
            unsigned inside = 0;
            Pack<T, V> made;
#pragma unroll
            for (unsigned k = 0; k < V; ++k) {
                const real x = Convert<real, T>::load(at[turn].at[k]);
                made.at[k] = Convert<real, T>::store(cast_one(x, scale, job.elements));
                if ((int)k < span.high) inside |= (unsigned)detent_block_cast_mask_one(x, scale, job.elements) << k;
            }
            store<T, V>(job.y, vector, span, job.aligned, made);
            if (job.mask != nullptr) store_mask<V>(job.mask, vector, inside, job.elements_count);
        }
    }
}

/* The scale of one block a thread, for blocks that lie any other way. */
template <typename T, typename real> __global__ void __launch_bounds__(THREADS) scale_blocks(BlockJob<T, real> job)
{
    typedef typename BlockTypes<real>::bits Bits;
    const size_t inner = job.shape.inner, count = job.shape.outer * job.blocks * inner;
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < count; i += (size_t)gridDim.x * THREADS) {
        const size_t strip = i / inner, outer = strip / job.blocks, first = strip % job.blocks * job.block;
        const size_t last = least(job.shape.groups, first + job.block);
        Bits largest = 0;
        for (size_t row = first; row < last; ++row) {
            const T value = job.x[(outer * job.shape.groups + row) * inner + i % inner];
            const Bits bits = detent_finite_magnitude(Convert<real, T>::load(value));
            largest = bits > largest ? bits : largest;
        }
        job.scales[i] = scale_of<real>(largest, job.elements, job.tensor_scale);
    }
}

template <typename T, typename real> __global__ void __launch_bounds__(THREADS) cast_by_scales(BlockJob<T, real> job)
{
    constexpr unsigned V = VectorOf<T, T>::SIZE;
    const Run all = {0, job.elements_count};
    const size_t vectors = ceil_div(job.elements_count, V), tiles = ceil_div(vectors, THREADS);
    for (size_t tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
        const size_t vector = tile * THREADS + threadIdx.x;
        const Span span = span_of<V>(vector, all);
        Pack<T, V> at = load<T, V>(job.x, vector, span, job.aligned);
        unsigned inside = 0;
#pragma unroll
        for (unsigned k = 0; k < V; ++k) {
            if ((int)k >= span.high) continue;
            const size_t index = vector * V + k, rows = divide(index, job.by_inner);
            const size_t outer = divide(rows, job.by_length), row = rows - outer * job.shape.groups;
            const size_t block = outer * job.blocks + divide(row, job.by_block);
            const real scale = job.scales[block * job.shape.inner + index - rows * job.shape.inner];
            const real x = Convert<real, T>::load(at.at[k]);
            at.at[k] = Convert<real, T>::store(cast_one(x, scale, job.elements));
            inside |= (unsigned)detent_block_cast_mask_one(x, scale, job.elements) << k;
        }
        store<T, V>(job.y, vector, span, job.aligned, at);
        if (job.mask != nullptr) store_mask<V>(job.mask, vector, inside, job.elements_count);
    }
}

struct BlockCastCall {
    const void *x;
    void *y;
    uint8_t *mask;
    detent_shape3 shape;
    size_t block;
    detent_float_format format;
    const void *tensor_scale;
    void *workspace;
    detent_stream stream;
};

/* Whether neighbouring threads can own a block together. */
static bool lies_in_vectors(unsigned vector, detent_shape3 shape, size_t block)
{
    return shape.inner == 1 && shape.groups % block == 0 && (block & (block - 1)) == 0 && block >= vector &&
           block <= (size_t)WARP * vector;
}

template <typename T, typename real> static detent_status block_cast(const BlockCastCall &call)
{
    constexpr unsigned V = VectorOf<T, T>::SIZE;
    const size_t elements = elements_of(call.shape), block = least(call.block, call.shape.groups);
    BlockJob<T, real> job = {(const T *)call.x,
                             (T *)call.y,
                             call.mask,
                             call.shape,
                             elements,
                             block,
                             ceil_div(call.shape.groups, block),
                             {(real)ldexp(1.0, -call.format.mantissa_bits), (real)ldexp(1.0, call.format.min_exponent),
                              (real)call.format.max, (real)ldexp(1.0, ilogb(call.format.max) + 1)},
                             (const real *)call.tensor_scale,
                             (real *)call.workspace,
                             divider_of(call.shape.inner, elements),
                             divider_of(call.shape.groups, elements),
                             divider_of(block, elements),
                             is_aligned<T, V>(call.x) && is_aligned<T, V>(call.y)};
    if (lies_in_vectors(V, call.shape, block))
        return launch(&cast_blocks<T, real>, job, map_tiles(elements, V), call.stream);
    const size_t scales = call.shape.outer * job.blocks * call.shape.inner;
    const detent_status status = launch(&scale_blocks<T, real>, job, ceil_div(scales, THREADS), call.stream);
    if (status != DETENT_OK) return status;
    return launch(&cast_by_scales<T, real>, job, ceil_div(elements, (size_t)V * THREADS), call.stream);
}

} // namespace detent_cuda

using namespace detent_cuda;

detent_status detent_block_cast_workspace_cuda(detent_dtype dtype, detent_shape3 shape, size_t block_size,
                                               size_t *bytes)
{
    size_t elements = 0;
    if (bytes == nullptr || block_size == 0) return DETENT_BAD_ARGUMENT;
    if (!detent_is_float(dtype)) return DETENT_BAD_DTYPE;
    const detent_status status = detent_check_shape(shape, &elements);
    if (status != DETENT_OK) return status;
    static const struct {
        size_t element, real;
    } sizes[] = {{4, 4}, {2, 4}, {2, 4}, {8, 8}}; /* in the order of detent_dtype */
    const size_t block = least(block_size, most(shape.groups, 1));
    *bytes = elements == 0 || lies_in_vectors((unsigned)(16 / sizes[dtype].element), shape, block)
                 ? 0
                 : shape.outer * ceil_div(shape.groups, block) * shape.inner * sizes[dtype].real;
    return DETENT_OK;
}

detent_status detent_block_cast_cuda(const void *x, void *y, uint8_t *mask, detent_dtype dtype, detent_shape3 shape,
                                     size_t block_size, detent_float_format format, const void *tensor_scale,
                                     void *workspace, size_t workspace_bytes, detent_stream stream)
{
    size_t elements = 0, needed = 0;
    detent_status status = detent_check_block_cast(x, y, dtype, shape, block_size, format, &elements);
    if (status == DETENT_OK) status = detent_block_cast_workspace_cuda(dtype, shape, block_size, &needed);
    if (status != DETENT_OK || elements == 0) return status;
    status = detent_check_workspace(workspace, workspace_bytes, needed);
    if (status != DETENT_OK) return status;
    static detent_status (*const by_dtype[])(const BlockCastCall &) = {
        block_cast<float, float>, block_cast<F16, float>, block_cast<BF16, float>, block_cast<double, double>};
    return by_dtype[dtype]({x, y, mask, shape, block_size, format, tensor_scale, workspace, stream});
}
