#include "detent/quantize.h"

#include <type_traits>

#include "../cpu/check.h"
#include "../math/quantize.h"
#include "backward.cuh"
#include "map.cuh"

namespace detent_cuda
{

/* Q is Code, or the type of X where codes are held as floats. */
template <typename X, typename Q, typename Real> struct Quantize {
    typedef X From;
    typedef Q To;
    typedef Real real;
    enum : bool { MASKED = false, ACTIVATED = false, RANDOM = false, SUMMED = false };
    static __device__ __forceinline__ real value(real x, real scale, real zero_point, real qmin, real qmax)
    {
        const real q = detent_quantize_one(x, scale, zero_point, qmin, qmax);
        if constexpr (std::is_same<Q, Code>::value)
            return detent_integer_code_one(q, zero_point, qmin, qmax);
        else
            return q;
    }
};

template <typename X, typename Q, typename Real> struct Dequantize {
    typedef Q From;
    typedef X To;
    typedef Real real;
    enum : bool { MASKED = false, ACTIVATED = false, RANDOM = false, SUMMED = false };
    static __device__ __forceinline__ real value(real q, real scale, real zero_point, real, real)
    {
        return detent_dequantize_one(q, scale, zero_point);
    }
};

struct QuantizeTerms {
    enum : bool { ACTIVATED = false };
    template <typename real>
    static __device__ __forceinline__ real grad(real g, real x, real scale, real zero_point, real qmin, real qmax)
    {
        return detent_quantize_bwd_x_one(g, x, scale, zero_point, qmin, qmax);
    }
    template <typename real>
    static __device__ __forceinline__ real first(real g, real x, real scale, real zero_point, real qmin, real qmax)
    {
        return detent_quantize_bwd_scale_one(g, x, scale, zero_point, qmin, qmax);
    }
    template <typename real>
    static __device__ __forceinline__ real second(real g, real x, real scale, real zero_point, real qmin, real qmax)
    {
        return detent_quantize_bwd_zero_point_one(g, x, scale, zero_point, qmin, qmax);
    }
};

struct DequantizeTerms {
    enum : bool { ACTIVATED = false };
    template <typename real> static __device__ __forceinline__ real grad(real g, real, real scale, real, real, real)
    {
        return detent_dequantize_bwd_q_one(g, scale);
    }
    template <typename real>
    static __device__ __forceinline__ real first(real g, real q, real, real zero_point, real, real)
    {
        return detent_dequantize_bwd_scale_one(g, q, zero_point);
    }
    template <typename real> static __device__ __forceinline__ real second(real g, real, real scale, real, real, real)
    {
        return detent_dequantize_bwd_zero_point_one(g, scale);
    }
};

struct MapCall {
    const void *from;
    void *to;
    detent_dtype codes;
    detent_shape3 shape;
    const detent_encoding *encoding;
    detent_stream stream;
};

template <typename Op> static detent_status map_codes(const MapCall &call)
{
    return run_map<Op>(call.from, call.to, nullptr, call.shape, encodings_of<typename Op::real>(*call.encoding),
                       call.stream, {}, call.codes);
}
template <typename X, typename real> static detent_status quantize_bwd(const BackwardCall &call)
{
    return run_backward<QuantizeTerms, X, X, real>(call);
}
template <typename X, typename Q, typename real> static detent_status dequantize_bwd(const BackwardCall &call)
{
    return run_backward<DequantizeTerms, X, Q, real>(call);
}

typedef detent_status (*MapFunction)(const MapCall &);
typedef detent_status (*BackwardFunction)(const BackwardCall &);

/* By arithmetic, type of x, and whether codes are integers. A grid beyond +-2^23 fits no half floats. */
static const MapFunction quantizers[2][4][2] = {
    {{map_codes<Quantize<float, float, float>>, map_codes<Quantize<float, Code, float>>},
     {map_codes<Quantize<F16, F16, float>>, map_codes<Quantize<F16, Code, float>>},
     {map_codes<Quantize<BF16, BF16, float>>, map_codes<Quantize<BF16, Code, float>>},
     {nullptr, nullptr}},
    {{map_codes<Quantize<float, float, double>>, map_codes<Quantize<float, Code, double>>},
     {nullptr, map_codes<Quantize<F16, Code, double>>},
     {nullptr, map_codes<Quantize<BF16, Code, double>>},
     {map_codes<Quantize<double, double, double>>, map_codes<Quantize<double, Code, double>>}},
};

/* By type of x; codes of that type, integers, integers of 32 bits, whose arithmetic is float64. */
enum { OWN_CODES, INTEGER_CODES, WIDE_CODES };
static int kind_of(detent_dtype codes)
{
    return codes == DETENT_I32 ? WIDE_CODES : codes >= DETENT_I8 ? INTEGER_CODES : OWN_CODES;
}
static const MapFunction dequantizers[4][3] = {
    {map_codes<Dequantize<float, float, float>>, map_codes<Dequantize<float, Code, float>>,
     map_codes<Dequantize<float, Code, double>>},
    {map_codes<Dequantize<F16, F16, float>>, map_codes<Dequantize<F16, Code, float>>,
     map_codes<Dequantize<F16, Code, double>>},
    {map_codes<Dequantize<BF16, BF16, float>>, map_codes<Dequantize<BF16, Code, float>>,
     map_codes<Dequantize<BF16, Code, double>>},
    {map_codes<Dequantize<double, double, double>>, map_codes<Dequantize<double, Code, double>>,
     map_codes<Dequantize<double, Code, double>>},
};
static const BackwardFunction dequantize_backwards[4][3] = {
    {dequantize_bwd<float, float, float>, dequantize_bwd<float, Code, float>, dequantize_bwd<float, Code, double>},
    {dequantize_bwd<F16, F16, float>, dequantize_bwd<F16, Code, float>, dequantize_bwd<F16, Code, double>},
    {dequantize_bwd<BF16, BF16, float>, dequantize_bwd<BF16, Code, float>, dequantize_bwd<BF16, Code, double>},
    {dequantize_bwd<double, double, double>, dequantize_bwd<double, Code, double>,
     dequantize_bwd<double, Code, double>},
};

static const BackwardFunction quantize_backwards[2][4] = {
    {quantize_bwd<float, float>, quantize_bwd<F16, float>, quantize_bwd<BF16, float>, nullptr},
    {quantize_bwd<float, double>, quantize_bwd<F16, double>, quantize_bwd<BF16, double>, quantize_bwd<double, double>},
};

static detent_status check_sums(const void *grad_scale, const void *grad_zero_point, detent_shape3 shape,
                                const detent_encoding *encoding, const void *workspace, size_t workspace_bytes)
{
    size_t needed = 0;
    const detent_status status = sums_workspace(shape, &needed);
    if (status != DETENT_OK) return status;
    return detent_check_sums(grad_scale, grad_zero_point, shape.groups, encoding, workspace, workspace_bytes, needed);
}

} // namespace detent_cuda

using namespace detent_cuda;

detent_status detent_quantize_cuda(const void *x, void *q, detent_dtype x_dtype, detent_dtype q_dtype,
                                   detent_shape3 shape, const detent_encoding *encoding, detent_stream stream)
{
    size_t elements = 0;
    detent_status status = detent_check_encoding(encoding);
    if (status == DETENT_OK) status = detent_check_code_types(x_dtype, q_dtype);
    if (status == DETENT_OK && !detent_codes_fit(q_dtype, encoding->grid)) status = DETENT_BAD_GRID;
    if (status == DETENT_OK) status = detent_check_arrays(x, q, shape, &elements);
    if (status != DETENT_OK || elements == 0) return status;
    const int math = detent_math_dtype(x_dtype, encoding->grid) == DETENT_F64;
    return quantizers[math][x_dtype][q_dtype >= DETENT_I8]({x, q, q_dtype, shape, encoding, stream});
}

detent_status detent_quantize_bwd_cuda(const void *grad_q, const void *x, void *grad_x, void *grad_scale,
                                       void *grad_zero_point, detent_dtype dtype, detent_shape3 shape,
                                       const detent_encoding *encoding, void *workspace, size_t workspace_bytes,
                                       detent_stream stream)
{
    size_t elements = 0;
    detent_status status = detent_check_encoding(encoding);
    if (status == DETENT_OK) status = detent_check_affine(encoding);
    if (status == DETENT_OK) status = detent_check_code_types(dtype, dtype);
    if (status == DETENT_OK) status = detent_check_arrays(grad_q, x, shape, &elements);
    if (status == DETENT_OK)
        status = check_sums(grad_scale, grad_zero_point, shape, encoding, workspace, workspace_bytes);
    if (status != DETENT_OK) return status;
    const int math = detent_math_dtype(dtype, encoding->grid) == DETENT_F64;
    return quantize_backwards[math][dtype]({grad_q, x, grad_x, grad_scale, grad_zero_point, shape, encoding, 1.0,
                                            grad_zero_point != nullptr, workspace, stream});
}

detent_status detent_dequantize_cuda(const void *q, void *x, detent_dtype q_dtype, detent_dtype x_dtype,
                                     detent_shape3 shape, const detent_encoding *encoding, detent_stream stream)
{
    size_t elements = 0;
    detent_status status = detent_check_affine(encoding);
    if (status == DETENT_OK) status = detent_check_code_types(x_dtype, q_dtype);
    if (status == DETENT_OK) status = detent_check_arrays(q, x, shape, &elements);
    if (status != DETENT_OK || elements == 0) return status;
    return dequantizers[x_dtype][kind_of(q_dtype)]({q, x, q_dtype, shape, encoding, stream});
}

detent_status detent_dequantize_bwd_cuda(const void *grad_x, const void *q, void *grad_q, void *grad_scale,
                                         void *grad_zero_point, detent_dtype q_dtype, detent_dtype x_dtype,
                                         detent_shape3 shape, const detent_encoding *encoding, void *workspace,
                                         size_t workspace_bytes, detent_stream stream)
{
    size_t elements = 0;
    detent_status status = detent_check_affine(encoding);
    if (status == DETENT_OK) status = detent_check_code_types_bwd(x_dtype, q_dtype);
    if (status == DETENT_OK) status = detent_check_arrays(grad_x, q, shape, &elements);
    if (status == DETENT_OK)
        status = check_sums(grad_scale, grad_zero_point, shape, encoding, workspace, workspace_bytes);
    if (status != DETENT_OK) return status;
    return dequantize_backwards[x_dtype][kind_of(q_dtype)]({grad_x, q, grad_q, grad_scale, grad_zero_point, shape,
                                                            encoding, 1.0, grad_zero_point != nullptr, workspace,
                                                            stream, q_dtype});
}
