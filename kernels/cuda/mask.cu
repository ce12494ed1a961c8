#include "detent/mask.h"

#include "../math/mask.h"
#include "launch.cuh"

namespace detent_cuda
{

struct MaskJob {
    const uint8_t *from;
    uint8_t *to;
    size_t n;
    bool aligned; /* the bytes of 0 or 1, to eight */
};

/* A thread owns the eight elements of a byte. */
__global__ void __launch_bounds__(THREADS) pack_mask(MaskJob job)
{
    const size_t bytes = ceil_div(job.n, 8);
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < bytes; i += (size_t)gridDim.x * THREADS) {
        uint64_t eight = 0;
        if (job.aligned && 8 * i + 8 <= job.n)
            eight = reinterpret_cast<const uint64_t *>(job.from)[i];
        else
            for (unsigned k = 0; k < 8; ++k)
                if (8 * i + k < job.n) eight |= (uint64_t)job.from[8 * i + k] << (8 * k);
        job.to[i] = detent_pack_eight(eight);
    }
}

__global__ void __launch_bounds__(THREADS) unpack_mask(MaskJob job)
{
    const size_t bytes = ceil_div(job.n, 8);
    for (size_t i = (size_t)blockIdx.x * THREADS + threadIdx.x; i < bytes; i += (size_t)gridDim.x * THREADS) {
        const uint64_t eight = detent_unpack_eight(job.from[i]);
        if (job.aligned && 8 * i + 8 <= job.n)
            reinterpret_cast<uint64_t *>(job.to)[i] = eight;
        else
            for (unsigned k = 0; k < 8; ++k)
                if (8 * i + k < job.n) job.to[8 * i + k] = (uint8_t)(eight >> (8 * k));
    }
}

static detent_status run(void (*kernel)(MaskJob), const uint8_t *from, uint8_t *to, size_t n, const uint8_t *wide,
                         detent_stream stream)
{
    if (n == 0) return DETENT_OK;
    if (from == nullptr || to == nullptr) return DETENT_BAD_ARGUMENT;
    const MaskJob job = {from, to, n, (uintptr_t)wide % 8 == 0};
    return launch(kernel, job, ceil_div(n, 8 * THREADS), stream);
}

} // namespace detent_cuda

using namespace detent_cuda;

detent_status detent_pack_mask_cuda(const uint8_t *inside, uint8_t *mask, size_t n, detent_stream stream)
{
    return run(pack_mask, inside, mask, n, inside, stream);
}

detent_status detent_unpack_mask_cuda(const uint8_t *mask, uint8_t *inside, size_t n, detent_stream stream)
{
    return run(unpack_mask, mask, inside, n, inside, stream);
}
