/* Backward of an operation with one output per input and two sums per group: grad_x, and the gradients of the encoding.
 *
 * A family's Terms has grad(), first() and second(), each of (g, x, scale, zero_point, qmin, qmax). If it is ACTIVATED,
 * x is what the call's interval makes of the element, and lets grad() through or not. */
#ifndef DETENT_CUDA_BACKWARD_CUH
#define DETENT_CUDA_BACKWARD_CUH

#include "../cpu/check.h"
#include "encoding.cuh"
#include "load_store.cuh"
#include "reduce.cuh"

namespace detent_cuda
{

struct Sums {
    double first, second;

    static __device__ __forceinline__ Sums none() { return {0.0, 0.0}; }
    __device__ __forceinline__ void join(const Sums &other)
    {
        first += other.first;
        second += other.second;
    }
    __device__ __forceinline__ Sums from_lane(unsigned delta) const
    {
        return {__shfl_down_sync(0xffffffffu, first, delta), __shfl_down_sync(0xffffffffu, second, delta)};
    }
};

/* LSQ's factor and, for a range or a trained scale, the chain rule. */
template <typename real> struct FinishSums {
    Encodings<real> encodings;
    real *grad_first, *grad_second;
    double gradient_scale;

    __device__ __forceinline__ void operator()(size_t group, const Sums &sums) const
    {
        double first = sums.first, second = sums.second;
        if (encodings.scale == nullptr)
            detent_range_bwd(first, second, encodings.min[group], encodings.max[group], encodings.grid, &first,
                             &second);
        if (encodings.trained) first *= (double)detent_usable_scale_slope(encodings.scale[group]);
        grad_first[group] = (real)(first * gradient_scale);
        if (grad_second != nullptr) grad_second[group] = (real)(second * gradient_scale);
    }
};

/* Terms are summed as reals over one vector, neighbours first, in double from there on. */
template <unsigned N, typename real> __device__ __forceinline__ double tree_sum(real (&terms)[N])
{
#pragma unroll
    for (unsigned apart = 1; apart < N; apart *= 2)
#pragma unroll
        for (unsigned k = 0; k < N; k += 2 * apart) terms[k] += terms[k + apart];
    return (double)terms[0];
}

template <typename Terms, typename G, typename X, typename Real> struct Backward {
    typedef Real real;
    typedef Sums Result;
    typedef Affine<real> Group;
    enum : unsigned { V = VectorOf<G, X>::SIZE, UNROLL = 2 };

    const G *grad_y;
    typename Memory<const X>::Pointer x;
    G *grad_x; /* NULL where it is not wanted */
    bool with_second, aligned;
    Interval<real> activation; /* the whole line where there is none */
    FinishSums<real> finish;

    __device__ __forceinline__ Group group(size_t g) const { return read_group(finish.encodings, g); }

    __device__ __forceinline__ real activated(real given) const
    {
        return Terms::ACTIVATED ? detent_activate_one(given, activation) : given;
    }
    __device__ __forceinline__ G grad(real g, real given, const Group &affine) const
    {
        const real qmin = finish.encodings.grid.qmin, qmax = finish.encodings.grid.qmax;
        const real made = Terms::grad(g, activated(given), affine.scale, affine.zero_point, qmin, qmax);
        return Convert<real, G>::store(Terms::ACTIVATED ? detent_activation_bwd_one(made, given, activation) : made);
    }

    /* One vector; only the elements of the span are taken, and stored. A whole vector asks for no span. */
    template <bool WHOLE>
    __device__ __forceinline__ void take(Sums &sums, const Group &affine, const Pack<G, V> &g, const Pack<X, V> &at,
                                         size_t vector, Span span) const
    {
        const real qmin = finish.encodings.grid.qmin, qmax = finish.encodings.grid.qmax;
        real first[V], second[V];
        Pack<G, V> grad;
#pragma unroll
        for (int k = 0; k < (int)V; ++k) {
            const real gk = Convert<real, G>::load(g.at[k]), given = Convert<real, X>::load(at.at[k]);
            const real xk = activated(given);
            const bool owned = WHOLE || (k >= span.low && k < span.high);
            grad.at[k] = this->grad(gk, given, affine);
            first[k] = owned ? Terms::first(gk, xk, affine.scale, affine.zero_point, qmin, qmax) : (real)0;
            second[k] =
                owned && with_second ? Terms::second(gk, xk, affine.scale, affine.zero_point, qmin, qmax) : (real)0;
        }
        if (grad_x != nullptr) store<G, V>(grad_x, vector, WHOLE ? Span{0, (int)V} : span, WHOLE || aligned, grad);
        sums.join({tree_sum<V>(first), tree_sum<V>(second)});
    }

    /* Both branches add in the same order, so the alignment of the tensors changes no bit. */
    __device__ __forceinline__ void add_vectors(Sums &sums, const Group &affine, size_t vector, size_t stride,
                                                Run run) const
    {
        if (aligned && run.begin <= vector * V && (vector + (UNROLL - 1) * stride) * V + V <= run.end) {
            const Span whole = {0, (int)V};
            Pack<G, V> g[UNROLL];
            Pack<X, V> at[UNROLL];
#pragma unroll
            for (unsigned turn = 0; turn < UNROLL; ++turn) {
                g[turn] = load<G, V>(grad_y, vector + turn * stride, whole, true);
                at[turn] = load<X, V>(x, vector + turn * stride, whole, true);
            }
#pragma unroll
            for (unsigned turn = 0; turn < UNROLL; ++turn)
                take<true>(sums, affine, g[turn], at[turn], vector + turn * stride, whole);
            return;
        }
#pragma unroll 1
        for (unsigned turn = 0; turn < UNROLL; ++turn, vector += stride) {
            const Span span = span_of<V>(vector, run);
            if (span.high > 0)
                take<false>(sums, affine, load<G, V>(grad_y, vector, span, aligned),
                            load<X, V>(x, vector, span, aligned), vector, span);
        }
    }

    __device__ __forceinline__ void add_column(Sums &sums, const Group &affine, size_t index, size_t stride,
                                               unsigned count) const
    {
        const real qmin = finish.encodings.grid.qmin, qmax = finish.encodings.grid.qmax;
        real first[UNROLL], second[UNROLL];
        G g[UNROLL] = {};
        X at[UNROLL] = {};
#pragma unroll
        for (unsigned turn = 0; turn < UNROLL; ++turn) {
            if (turn >= count) continue;
            g[turn] = grad_y[index + turn * stride];
            at[turn] = element<X>(x, index + turn * stride);
        }
#pragma unroll
        for (unsigned turn = 0; turn < UNROLL; ++turn) {
            const real gk = Convert<real, G>::load(g[turn]), given = Convert<real, X>::load(at[turn]);
            const real xk = activated(given);
            const bool owned = turn < count;
            first[turn] = owned ? Terms::first(gk, xk, affine.scale, affine.zero_point, qmin, qmax) : (real)0;
            second[turn] =
                owned && with_second ? Terms::second(gk, xk, affine.scale, affine.zero_point, qmin, qmax) : (real)0;
            if (owned && grad_x != nullptr) grad_x[index + turn * stride] = grad(gk, given, affine);
        }
        sums.join({tree_sum<UNROLL>(first), tree_sum<UNROLL>(second)});
    }
};

/* What the entry points of every backward hand to the kernels. */
struct BackwardCall {
    const void *grad_y, *x;
    void *grad_x, *grad_first, *grad_second;
    detent_shape3 shape;
    const detent_encoding *encoding;
    double gradient_scale;
    bool with_second; /* there is a zero point to differentiate by */
    void *workspace;
    detent_stream stream;
    detent_dtype codes = DETENT_I32; /* what x holds, if codes */
};

template <typename Terms, typename G, typename X, typename real>
Backward<Terms, G, X, real> backward_op(const BackwardCall &call, const Interval<real> &activation)
{
    typedef Backward<Terms, G, X, real> Op;
    const auto x = Memory<const X>::at(call.x, call.codes);
    const bool aligned = is_aligned<G, Op::V>(call.grad_y) && is_aligned<X, Op::V>(x) &&
                         (call.grad_x == nullptr || is_aligned<G, Op::V>(call.grad_x));
    return {
        (const G *)call.grad_y,
        x,
        (G *)call.grad_x,
        call.with_second,
        aligned,
        activation,
        {encodings_of<real>(*call.encoding), (real *)call.grad_first, (real *)call.grad_second, call.gradient_scale}};
}

template <typename Terms, typename G, typename X, typename real>
detent_status run_backward(const BackwardCall &call, const Interval<real> &activation = {})
{
    return run_reduce(backward_op<Terms, G, X, real>(call, activation), partition_of(call.shape), call.workspace,
                      call.stream);
}

inline detent_status sums_workspace(detent_shape3 shape, size_t *bytes)
{
    size_t elements = 0;
    if (bytes == nullptr) return DETENT_BAD_ARGUMENT;
    const detent_status status = detent_check_shape(shape, &elements);
    return status == DETENT_OK ? reduce_workspace(shape, elements, sizeof(Sums), bytes) : status;
}

} // namespace detent_cuda

#endif
