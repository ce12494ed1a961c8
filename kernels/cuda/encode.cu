#include "detent/encode.h"

#include "../cpu/check.h"
#include "encoding.cuh"
#include "launch.cuh"

namespace detent_cuda
{

template <typename real> struct EncodeJob {
    const real *from_first, *from_second;
    real *to_first, *to_second;
    size_t n;
    Grid<real> grid;
};

template <typename real> __global__ void __launch_bounds__(THREADS) encode_min_max(EncodeJob<real> job)
{
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < job.n; i += (size_t)gridDim.x * THREADS) {
        real min, max;
        detent_range_of_observed(job.from_first[i], job.from_second[i], job.grid, &min, &max);
        job.to_first[i] = min;
        job.to_second[i] = max;
    }
}

template <typename real> __global__ void __launch_bounds__(THREADS) encode_affine(EncodeJob<real> job)
{
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < job.n; i += (size_t)gridDim.x * THREADS) {
        const Affine<real> affine = affine_of_range(job.from_first[i], job.from_second[i], job.grid);
        job.to_first[i] = affine.scale;
        job.to_second[i] = affine.zero_point;
    }
}

template <typename real> __global__ void __launch_bounds__(THREADS) encode_trained(EncodeJob<real> job)
{
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < job.n; i += (size_t)gridDim.x * THREADS) {
        const real scale = job.from_first[i], zero_point = job.from_second[i];
        job.to_first[i] = detent_usable_scale(scale, job.grid);
        job.to_second[i] = detent_clamp(zero_point, job.grid.qmin, job.grid.qmax);
    }
}

template <typename real>
static detent_status run(void (*kernel)(EncodeJob<real>), const void *a, const void *b, void *c, void *d, size_t n,
                         const detent_encoding *encoding, detent_stream stream)
{
    const EncodeJob<real> job = {(const real *)a, (const real *)b, (real *)c, (real *)d, n, grid_of<real>(*encoding)};
    return launch(kernel, job, ceil_div(n, THREADS), stream);
}

static detent_status check(const void *a, const void *b, const void *c, const void *d, detent_dtype real, size_t n,
                           const detent_encoding *encoding)
{
    const detent_status status = detent_check_grid(encoding);
    if (status != DETENT_OK) return status;
    if (real != DETENT_F32 && real != DETENT_F64) return DETENT_BAD_DTYPE;
    return n > 0 && (a == nullptr || b == nullptr || c == nullptr || d == nullptr) ? DETENT_BAD_ARGUMENT : DETENT_OK;
}

} // namespace detent_cuda

using namespace detent_cuda;

detent_status detent_encode_min_max_cuda(const void *lo, const void *hi, void *min, void *max, detent_dtype real,
                                         size_t n, const detent_encoding *encoding, detent_stream stream)
{
    const detent_status status = check(lo, hi, min, max, real, n, encoding);
    if (status != DETENT_OK || n == 0) return status;
    return real == DETENT_F32 ? run<float>(encode_min_max<float>, lo, hi, min, max, n, encoding, stream)
                              : run<double>(encode_min_max<double>, lo, hi, min, max, n, encoding, stream);
}

detent_status detent_encode_affine_cuda(const void *min, const void *max, void *scale, void *zero_point,
                                        detent_dtype real, size_t n, const detent_encoding *encoding,
                                        detent_stream stream)
{
    const detent_status status = check(min, max, scale, zero_point, real, n, encoding);
    if (status != DETENT_OK || n == 0) return status;
    return real == DETENT_F32 ? run<float>(encode_affine<float>, min, max, scale, zero_point, n, encoding, stream)
                              : run<double>(encode_affine<double>, min, max, scale, zero_point, n, encoding, stream);
}

detent_status detent_encode_trained_cuda(const void *scale, const void *zero_point, void *usable_scale,
                                         void *usable_zero_point, detent_dtype real, size_t n,
                                         const detent_encoding *encoding, detent_stream stream)
{
    const detent_status status = check(scale, zero_point, usable_scale, usable_zero_point, real, n, encoding);
    if (status != DETENT_OK || n == 0) return status;
    return real == DETENT_F32 ? run<float>(encode_trained<float>, scale, zero_point, usable_scale, usable_zero_point, n,
                                           encoding, stream)
                              : run<double>(encode_trained<double>, scale, zero_point, usable_scale, usable_zero_point,
                                            n, encoding, stream);
}
