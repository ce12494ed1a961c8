#include "detent/stochastic.h"

#include "../cpu/check.h"
#include "../math/stochastic.h"
#include "map.cuh"

namespace detent_cuda
{

template <typename T, typename Real> struct Stochastic {
    typedef T From;
    typedef T To;
    typedef Real real;
    enum : bool { MASKED = false, ACTIVATED = false, RANDOM = true, SUMMED = false };
    static __device__ __forceinline__ real value(real x, real u, real scale, real zero_point, real qmin, real qmax)
    {
        return detent_fake_quantize_stochastic_one(x, u, scale, zero_point, qmin, qmax);
    }
};

struct StochasticCall {
    const void *x;
    void *y;
    detent_shape3 shape;
    const detent_encoding *encoding;
    const int64_t *random;
    detent_stream stream;
};

template <typename T, typename real> static detent_status fake_quantize_stochastic(const StochasticCall &call)
{
    typedef Stochastic<T, real> Op;
    MapJob<Op> job = map_job<Op>(call.x, call.y, nullptr, call.shape, encodings_of<real>(*call.encoding), {});
    job.random = call.random;
    return launch(&map<Op>, job, map_tiles(job.elements, VectorOf<T, T>::SIZE), call.stream);
}

} // namespace detent_cuda

using namespace detent_cuda;

detent_status detent_fake_quantize_stochastic_cuda(const void *x, void *y, detent_dtype dtype, detent_shape3 shape,
                                                   const detent_encoding *encoding, const int64_t *random,
                                                   detent_stream stream)
{
    size_t elements = 0;
    detent_status status = detent_check_encoding(encoding);
    if (status == DETENT_OK) status = detent_check_values(x, y, dtype, shape, &elements);
    if (status == DETENT_OK && elements > 0 && random == nullptr) status = DETENT_BAD_ARGUMENT;
    if (status != DETENT_OK || elements == 0) return status;
    /* By arithmetic and data type. */
    static detent_status (*const functions[2][4])(const StochasticCall &) = {
        {fake_quantize_stochastic<float, float>, fake_quantize_stochastic<F16, float>,
         fake_quantize_stochastic<BF16, float>, nullptr},
        {fake_quantize_stochastic<float, double>, fake_quantize_stochastic<F16, double>,
         fake_quantize_stochastic<BF16, double>, fake_quantize_stochastic<double, double>},
    };
    const int math = detent_math_dtype(dtype, encoding->grid) == DETENT_F64;
    return functions[math][dtype]({x, y, shape, encoding, random, stream});
}
