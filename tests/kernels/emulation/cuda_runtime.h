// A CUDA device on the CPU: as much of the language and of the runtime as kernels/cuda and its tests use. In place of
// CUDA's header of this name it makes .cu files plain C++, whose kernels run for real, so that the tests of a device
// have one everywhere.
//
// Blocks run one after the other. The threads of a block are fibers that run from barrier to barrier, or shuffle, in a
// new random order every time: what one thread leaves for another without a barrier between them comes too late in some
// order. A barrier or a shuffle that not all of its threads reach ends the program, with the reason.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <type_traits>
#include <utility>
#include <vector>

#define __global__
#define __host__
#define __device__
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(...)
#define __shared__ static /* blocks run one at a time */

struct dim3 {
    unsigned x, y = 1, z = 1;
    dim3(unsigned along = 1) : x(along) {}
};
extern dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation
{

// Launches in order. A stream runs its own when somebody waits for it, not before; a graph is what one was given.
typedef std::vector<std::function<void()>> Launches;

enum : unsigned { WARP = 32, MOST_THREADS = 1024, MOST_BLOCKS = 0x7fffffff };

void wait_for_block();
// The `bytes` that lane `source` of this warp brought to the same shuffle.
const void *exchange(unsigned mask, const void *mine, size_t bytes, unsigned source);

template <typename T> T from_lane(unsigned mask, T value, unsigned source)
{
    static_assert(std::is_arithmetic_v<T> && sizeof(T) <= 8);
    std::memcpy(&value, exchange(mask, &value, sizeof value, source < WARP ? source : threadIdx.x % WARP),
                sizeof value);
    return value;
}

} // namespace emulation

// --- what kernels call ----------------------------------------------------------------------------------------------
inline void __syncthreads()
{
    emulation::wait_for_block();
}
template <typename T> T __shfl_down_sync(unsigned mask, T value, unsigned delta)
{
    return emulation::from_lane(mask, value, threadIdx.x % emulation::WARP + delta);
}
template <typename T> T __shfl_up_sync(unsigned mask, T value, unsigned delta)
{
    return emulation::from_lane(mask, value, threadIdx.x % emulation::WARP - delta);
}
template <typename T> T __shfl_xor_sync(unsigned mask, T value, unsigned lanes)
{
    return emulation::from_lane(mask, value, (threadIdx.x % emulation::WARP) ^ lanes);
}
template <typename T> T atomicAdd(T *at, T value)
{
    const T before = *at;
    *at = (T)(before + value);
    return before;
}

// --- the runtime ----------------------------------------------------------------------------------------------------
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2 };
enum cudaStreamCaptureMode { cudaStreamCaptureModeGlobal };
enum : unsigned { cudaStreamNonBlocking = 1 };
typedef emulation::Launches *cudaStream_t, *cudaGraph_t, *cudaGraphExec_t;
typedef void *cudaGraphNode_t;

cudaError_t cudaPeekAtLastError();
cudaError_t cudaGetLastError();
const char *cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDeviceCount(int *devices);
cudaError_t cudaMalloc(void **memory, size_t bytes);
cudaError_t cudaFree(void *memory);
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode);
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph);
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *nodes, size_t *count);
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *run, cudaGraph_t graph, unsigned flags);
cudaError_t cudaGraphLaunch(cudaGraphExec_t run, cudaStream_t stream);
cudaError_t cudaGraphDestroy(cudaGraph_t graph);
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t run);

namespace emulation
{
cudaError_t queue(dim3 grid, dim3 block, std::function<void()> kernel, cudaStream_t stream);
}

template <typename Job>
cudaError_t cudaLaunchKernel(void (*kernel)(Job), dim3 grid, dim3 block, void **arguments, size_t, cudaStream_t stream)
{
    static_assert(sizeof(Job) <= 4096 && std::is_trivially_copyable_v<Job>, "what a kernel is given");
    return emulation::queue(
        grid, block, [kernel, job = *(const Job *)arguments[0]] { kernel(job); }, stream);
}
