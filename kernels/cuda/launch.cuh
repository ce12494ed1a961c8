/* Launching: one dimension of blocks, the caller's stream, errors left in place for the caller to name. */
#ifndef DETENT_CUDA_LAUNCH_CUH
#define DETENT_CUDA_LAUNCH_CUH

#include <cuda_runtime.h>

#include "geometry.h"

namespace detent_cuda
{

/* Kernels loop over what is beyond the largest grid. */
inline unsigned blocks_for(size_t tiles)
{
    return (unsigned)least(tiles, 0x7fffffff);
}

inline detent_status launched()
{
    return cudaPeekAtLastError() == cudaSuccess ? DETENT_OK : DETENT_LAUNCH_FAILED;
}

template <typename Job> detent_status launch(void (*kernel)(Job), const Job &job, size_t tiles, detent_stream stream)
{
    void *arguments[] = {(void *)&job};
    (void)cudaLaunchKernel(kernel, blocks_for(tiles), THREADS, arguments, 0, (cudaStream_t)stream);
    return launched();
}

} // namespace detent_cuda

#endif
