/* One output per input: the kernel of every elementwise family.
 *
 * An operation Op names its types From, To and real, whether it can write a mask, and has
 *     static real value(real x, real scale, real zero_point, real qmin, real qmax)
 * and with a mask inside(), of the same. x is what the job's interval makes of the element, if Op is ACTIVATED. If Op
 * is RANDOM, value() takes the element's u after x. If Op is SUMMED, the element is the sum of two tensors'. */
#ifndef DETENT_CUDA_MAP_CUH
#define DETENT_CUDA_MAP_CUH

#include "../math/philox.h"
#include "encoding.cuh"
#include "launch.cuh"
#include "load_store.cuh"

namespace detent_cuda
{

template <typename Op> struct MapJob {
    typename Memory<const typename Op::From>::Pointer from;
    typename Memory<typename Op::To>::Pointer to;
    uint8_t *mask; /* NULL where none is wanted */
    detent_shape3 shape;
    size_t elements;
    Locator locator;
    Encodings<typename Op::real> encodings;
    Interval<typename Op::real> activation; /* the whole line where there is none */
    bool aligned;
    const int64_t *random;             /* seed and offset, if Op is RANDOM */
    const typename Op::From *residual; /* what is added to `from`, if Op is SUMMED */
    typename Op::From *sum;            /* and where the sum goes; may be NULL */
};

/* The u of element k of a vector of V that begins at `first`; words are kept for the four elements that share them. */
template <unsigned V>
__device__ __forceinline__ float uniform(const int64_t *random, size_t first, unsigned k, detent_random_words &words)
{
    if (k % 4 == 0) words = detent_philox((uint64_t)random[0], (first + k) / 4, (uint64_t)random[1]);
    const bool second_half = V == 2 && first % 4 != 0;
    return detent_uniform_of(second_half ? words.at[(k + 2) % 4] : words.at[k % 4]);
}

/* The encoding of the group at hand; read again only where the group changes. */
template <typename real> struct Held {
    size_t group;
    Affine<real> affine;

    __device__ __forceinline__ void seek(const Encodings<real> &encodings, size_t wanted)
    {
        if (wanted == group) return;
        group = wanted;
        affine = read_group(encodings, wanted);
    }
};

/* bits of one vector each, joined over the 8 / V neighbours that share a byte; the first of them writes it. */
template <unsigned V>
__device__ __forceinline__ void store_mask(uint8_t *mask, size_t vector, unsigned bits, size_t elements)
{
    constexpr unsigned SHARERS = 8 / V;
    const unsigned place = threadIdx.x % SHARERS;
    bits <<= V * place;
#pragma unroll
    for (unsigned apart = 1; apart < SHARERS; apart *= 2) bits |= __shfl_xor_sync(0xffffffffu, bits, apart);
    if (place == 0 && vector * V < elements) mask[vector * V / 8] = (uint8_t)bits;
}

/* A tile's elements become their sums. */
template <typename Op, unsigned V>
__device__ __forceinline__ void add_residual(const MapJob<Op> &job, size_t tile,
                                             Pack<typename Op::From, V> (&from)[MAP_UNROLL])
{
    const Run all = {0, job.elements};
    Pack<typename Op::From, V> residual[MAP_UNROLL];
#pragma unroll
    for (unsigned turn = 0; turn < MAP_UNROLL; ++turn) {
        const size_t vector = map_vector(tile, threadIdx.x, turn);
        residual[turn] = load<typename Op::From, V>(job.residual, vector, span_of<V>(vector, all), job.aligned);
    }
#pragma unroll
    for (unsigned turn = 0; turn < MAP_UNROLL; ++turn) {
#pragma unroll
        for (unsigned k = 0; k < V; ++k) from[turn].at[k] = sum_of(from[turn].at[k], residual[turn].at[k]);
        const size_t vector = map_vector(tile, threadIdx.x, turn);
        if (job.sum != nullptr)
            store<typename Op::From, V>(job.sum, vector, span_of<V>(vector, all), job.aligned, from[turn]);
    }
}

/* Tiles first, first + step, ... */
template <typename Op>
__device__ __forceinline__ void map_elements(const MapJob<Op> &job, Held<typename Op::real> held, size_t first,
                                             size_t step)
{
    typedef typename Op::From From;
    typedef typename Op::To To;
    typedef typename Op::real real;
    constexpr unsigned V = VectorOf<From, To>::SIZE;
    const Run all = {0, job.elements};
    const real qmin = job.encodings.grid.qmin, qmax = job.encodings.grid.qmax;
    const size_t tiles = map_tiles(job.elements, V);
    const unsigned inner = (unsigned)least(job.shape.inner, V);

    for (size_t tile = first; tile < tiles; tile += step) {
        Pack<From, V> from[MAP_UNROLL];
#pragma unroll
        for (unsigned turn = 0; turn < MAP_UNROLL; ++turn) {
            const size_t vector = map_vector(tile, threadIdx.x, turn);
            from[turn] = load<From, V>(job.from, vector, span_of<V>(vector, all), job.aligned);
        }
        if constexpr (Op::SUMMED) add_residual<Op>(job, tile, from);
#pragma unroll
        for (unsigned turn = 0; turn < MAP_UNROLL; ++turn) {
            const size_t vector = map_vector(tile, threadIdx.x, turn);
            const Span span = span_of<V>(vector, all);
            unsigned bits = 0;
            if (span.high > 0) {
                Place place = {0, V};
                if (job.shape.groups > 1) place = place_of(job.locator, vector * V, V);
                held.seek(job.encodings, place.group);
                Pack<To, V> to;
                detent_random_words words;
#pragma unroll
                for (unsigned k = 0; k < V; ++k) {
                    if (k == place.left) {
                        place.group = place.group + 1 == job.shape.groups ? 0 : place.group + 1;
                        place.left += inner;
                        held.seek(job.encodings, place.group);
                    }
                    const real given = Convert<real, From>::load(from[turn].at[k]);
                    const real x = Op::ACTIVATED ? detent_activate_one(given, job.activation) : given;
                    const Affine<real> affine = held.affine;
                    real made;
                    if constexpr (Op::RANDOM)
                        made = Op::value(x, (real)uniform<V>(job.random, vector * V, k, words), affine.scale,
                                         affine.zero_point, qmin, qmax);
                    else
                        made = Op::value(x, affine.scale, affine.zero_point, qmin, qmax);
                    to.at[k] = Convert<real, To>::store(made);
                    if constexpr (Op::MASKED)
                        if ((int)k < span.high)
                            bits |= (unsigned)(Op::inside(x, affine.scale, affine.zero_point, qmin, qmax) &
                                               (!Op::ACTIVATED || detent_activation_passes(given, job.activation)))
                                    << k;
                }
                store<To, V>(job.to, vector, span, job.aligned, to);
            }
            if (Op::MASKED && job.mask != nullptr) store_mask<V>(job.mask, vector, bits, job.elements);
        }
    }
}

/* Blocks of a multiprocessor that keep its memory busy; the registers that this leaves to a thread are more than any
 * kernel takes that reads and writes once. */
enum : unsigned { MAP_BLOCKS = 3 };

template <typename Op> __global__ void __launch_bounds__(THREADS, MAP_BLOCKS) map(MapJob<Op> job)
{
    map_elements<Op>(job, {SIZE_MAX, {}}, blockIdx.x, gridDim.x);
}

template <typename Op>
MapJob<Op> map_job(const void *from, void *to, uint8_t *mask, detent_shape3 shape,
                   const Encodings<typename Op::real> &encodings, const Interval<typename Op::real> &activation,
                   detent_dtype codes = DETENT_I32)
{
    typedef typename Op::From From;
    typedef typename Op::To To;
    constexpr unsigned V = VectorOf<From, To>::SIZE;
    const size_t elements = elements_of(shape);
    if (shape.groups == 1) shape = {1, 1, elements};
    const auto reading = Memory<const From>::at(from, codes);
    const auto writing = Memory<To>::at(to, codes);
    return {reading,   writing,    mask,
            shape,     elements,   locator_of(shape),
            encodings, activation, is_aligned<From, V>(reading) && is_aligned<To, V>(writing),
            nullptr,   nullptr,    nullptr};
}

template <typename Op>
detent_status run_map(const void *from, void *to, uint8_t *mask, detent_shape3 shape,
                      const Encodings<typename Op::real> &encodings, detent_stream stream,
                      const Interval<typename Op::real> &activation = {}, detent_dtype codes = DETENT_I32)
{
    const MapJob<Op> job = map_job<Op>(from, to, mask, shape, encodings, activation, codes);
    return launch(&map<Op>, job, map_tiles(job.elements, VectorOf<typename Op::From, typename Op::To>::SIZE), stream);
}

} // namespace detent_cuda

#endif
