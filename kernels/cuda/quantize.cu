#include "detent/quantize.h"

#include "../cpu/check.h"
#include "../math/quantize.h"
#include "backward.cuh"
#include "map.cuh"

namespace detent_cuda
{

template <typename X, typename Q, typename Real, bool INTEGER> struct Quantize {
    typedef X From;
    typedef Q To;
    typedef Real real;
    enum : bool { MASKED = false, ACTIVATED = false, RANDOM = false, TRAINED = false };
    static __device__ __forceinline__ real value(real x, real scale, real zero_point, real qmin, real qmax)
    {
        const real q = detent_quantize_one(x, scale, zero_point, qmin, qmax);
        return INTEGER ? detent_integer_code_one(q, zero_point, qmin, qmax) : q;
    }
};

template <typename X, typename Q, typename Real> struct Dequantize {
    typedef Q From;
    typedef X To;
    typedef Real real;
    enum : bool { MASKED = false, ACTIVATED = false, RANDOM = false, TRAINED = false };
    static __device__ __forceinline__ real value(real q, real scale, real zero_point, real, real)
    {
        return detent_dequantize_one(q, scale, zero_point);
    }
};

struct QuantizeTerms {
    enum : bool { ACTIVATED = false, TRAINED = false };
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
    enum : bool { ACTIVATED = false, TRAINED = false };
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
    detent_shape3 shape;
    const detent_encoding *encoding;
    detent_stream stream;
};

template <typename X, typename Q, typename real, bool INTEGER> static detent_status quantize(const MapCall &call)
{
    return run_map<Quantize<X, Q, real, INTEGER>>(call.from, call.to, nullptr, call.shape,
                                                  encodings_of<real>(*call.encoding), call.stream);
}
template <typename X, typename Q, typename real> static detent_status dequantize(const MapCall &call)
{
    return run_map<Dequantize<X, Q, real>>(call.from, call.to, nullptr, call.shape, encodings_of<real>(*call.encoding),
                                           call.stream);
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

/* Columns: codes of the type of x, I8, U8, I16, I32, I4, U4. */
static int column_of(detent_dtype q_dtype)
{
    return q_dtype >= DETENT_I8 ? q_dtype - DETENT_I8 + 1 : 0;
}

/* By arithmetic, type of x, type of codes. A grid beyond +-2^23 fits int32, float32 and float64 codes only. */
#define DETENT_BY_CODES(X, REAL)                                                                                       \
    {                                                                                                                  \
        quantize<X, X, REAL, false>, quantize<X, int8_t, REAL, true>, quantize<X, uint8_t, REAL, true>,                \
            quantize<X, int16_t, REAL, true>, quantize<X, int32_t, REAL, true>, quantize<X, I4, REAL, true>,           \
            quantize<X, U4, REAL, true>                                                                                \
    }
#define DETENT_WIDE_CODES(X, OWN)                                                                                      \
    {                                                                                                                  \
        OWN, nullptr, nullptr, nullptr, quantize<X, int32_t, double, true>, nullptr, nullptr                           \
    }
static const MapFunction quantizers[2][4][7] = {
    {DETENT_BY_CODES(float, float), DETENT_BY_CODES(F16, float), DETENT_BY_CODES(BF16, float), {}},
    {DETENT_WIDE_CODES(float, (quantize<float, float, double, false>)), DETENT_WIDE_CODES(F16, nullptr),
     DETENT_WIDE_CODES(BF16, nullptr), DETENT_BY_CODES(double, double)},
};
#undef DETENT_BY_CODES
#undef DETENT_WIDE_CODES

/* Type of x, type of codes; the arithmetic follows from both. */
#define DETENT_BY_CODES(FUNCTION, X, REAL)                                                                             \
    FUNCTION<X, X, REAL>, FUNCTION<X, int8_t, REAL>, FUNCTION<X, uint8_t, REAL>, FUNCTION<X, int16_t, REAL>,           \
        FUNCTION<X, int32_t, double>
#define DETENT_PACKED_TOO(X, REAL)                                                                                     \
    {                                                                                                                  \
        DETENT_BY_CODES(dequantize, X, REAL), dequantize<X, I4, REAL>, dequantize<X, U4, REAL>                         \
    }
static const MapFunction dequantizers[4][7] = {DETENT_PACKED_TOO(float, float), DETENT_PACKED_TOO(F16, float),
                                               DETENT_PACKED_TOO(BF16, float), DETENT_PACKED_TOO(double, double)};
static const BackwardFunction dequantize_backwards[4][5] = {{DETENT_BY_CODES(dequantize_bwd, float, float)},
                                                            {DETENT_BY_CODES(dequantize_bwd, F16, float)},
                                                            {DETENT_BY_CODES(dequantize_bwd, BF16, float)},
                                                            {DETENT_BY_CODES(dequantize_bwd, double, double)}};
#undef DETENT_BY_CODES
#undef DETENT_PACKED_TOO

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
    return quantizers[math][x_dtype][column_of(q_dtype)]({x, q, shape, encoding, stream});
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
    return dequantizers[x_dtype][column_of(q_dtype)]({q, x, shape, encoding, stream});
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
    return dequantize_backwards[x_dtype][column_of(q_dtype)]({grad_x, q, grad_q, grad_scale, grad_zero_point, shape,
                                                              encoding, 1.0, grad_zero_point != nullptr, workspace,
                                                              stream});
}
