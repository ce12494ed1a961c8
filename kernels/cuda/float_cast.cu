#include "detent/float_cast.h"

#include "../cpu/check.h"
#include "../math/float_cast.h"
#include "map.cuh"

namespace detent_cuda
{

template <typename T, typename Real> struct FloatCast {
    typedef T From;
    typedef T To;
    typedef Real real;
    enum : bool { MASKED = true, ACTIVATED = false, RANDOM = false, SUMMED = false };
    static __device__ __forceinline__ real value(real x, real scale, real ulp, real smallest, real max)
    {
        return detent_float_cast_one(x, scale, ulp, smallest, max);
    }
    static __device__ __forceinline__ int inside(real x, real scale, real ulp, real smallest, real max)
    {
        return detent_float_cast_mask_one(x, scale, ulp, smallest, max);
    }
};

struct FloatCastCall {
    const void *x;
    void *y;
    uint8_t *mask;
    detent_shape3 shape;
    const void *scale;
    detent_float_format format;
    detent_stream stream;
};

template <typename T, typename real> static detent_status float_cast(const FloatCastCall &call)
{
    Encodings<real> encodings = {};
    encodings.scale = (const real *)call.scale;
    encodings.grid.qmin = (real)ldexp(1.0, call.format.min_exponent);
    encodings.grid.qmax = (real)call.format.max;
    encodings.absent = (real)ldexp(1.0, -call.format.mantissa_bits);
    return run_map<FloatCast<T, real>>(call.x, call.y, call.mask, call.shape, encodings, call.stream);
}

} // namespace detent_cuda

using namespace detent_cuda;

detent_status detent_float_cast_cuda(const void *x, void *y, uint8_t *mask, detent_dtype dtype, detent_shape3 shape,
                                     const void *scale, detent_float_format format, detent_stream stream)
{
    size_t elements = 0;
    detent_status status = detent_check_format(format);
    if (status == DETENT_OK) status = detent_check_values(x, y, dtype, shape, &elements);
    if (status == DETENT_OK && elements > 0 && scale == nullptr) status = DETENT_BAD_ARGUMENT;
    if (status != DETENT_OK || elements == 0) return status;
    static detent_status (*const by_dtype[])(const FloatCastCall &) = {
        float_cast<float, float>, float_cast<F16, float>, float_cast<BF16, float>, float_cast<double, double>};
    return by_dtype[dtype]({x, y, mask, shape, scale, format, stream});
}
