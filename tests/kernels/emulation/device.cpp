#include "cuda_runtime.h"

#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <numeric>
#include <random>

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/common_interface_defs.h>
#endif

dim3 threadIdx, blockIdx, blockDim, gridDim;

// --- threads ---------------------------------------------------------------------------------------------------------
namespace emulation
{
namespace
{

// A stack, and where on it to go on. The compiler's own jumps: those of ucontext save the signal mask, a system call.
struct Context {
    void *at[5];
    const void *stack = nullptr;
    size_t bytes = 0;
    void *of_sanitizer = nullptr;
};

enum class State { running, at_shuffle, at_barrier, done };

struct Thread {
    enum : size_t { STACK = 128 * 1024 };

    Context context;
    State state = State::done;
    unsigned shuffles = 0;
    uint64_t brought[2]; // by turns: a lane may be one shuffle ahead of those that have yet to read
    std::unique_ptr<char[]> stack{new char[STACK]};
};

Context scheduler;
std::vector<std::unique_ptr<Thread>> threads;
std::function<void()> work;

[[noreturn]] void fail(const char *what, unsigned thread)
{
    std::fprintf(stderr, "CUDA emulation: block %u, thread %u: %s\n", blockIdx.x, thread, what);
    std::abort();
}

[[gnu::noinline]] void jump(Context &to, const ucontext_t *first)
{
    if (first != nullptr) setcontext(first);
    __builtin_longjmp(to.at, 1);
}

// Goes on at `to`, for the first time at `first`, and comes back when somebody changes to `from`.
[[gnu::noinline]] void change(Context &from, Context &to, const ucontext_t *first = nullptr)
{
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_start_switch_fiber(&from.of_sanitizer, to.stack, to.bytes);
#endif
    if (__builtin_setjmp(from.at) == 0) jump(to, first);
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(from.of_sanitizer, nullptr, nullptr);
#endif
}

void wait(State state)
{
    Thread &mine = *threads[threadIdx.x];
    mine.state = state;
    change(mine.context, scheduler);
}

// One thread of one kernel after another.
void live()
{
#ifdef __SANITIZE_ADDRESS__
    __sanitizer_finish_switch_fiber(nullptr, &scheduler.stack, &scheduler.bytes);
#endif
    for (;;) {
        wait(State::done);
        work();
    }
}

void begin_thread()
{
    threads.push_back(std::make_unique<Thread>());
    Thread &thread = *threads.back();
    ucontext_t first;
    getcontext(&first);
    first.uc_stack.ss_sp = thread.stack.get();
    first.uc_stack.ss_size = Thread::STACK;
    makecontext(&first, live, 0);
    thread.context.stack = thread.stack.get();
    thread.context.bytes = Thread::STACK;
    threadIdx.x = (unsigned)threads.size() - 1;
    change(scheduler, thread.context, &first);
}

// Lets threads go on if all of them wait for the same.
bool release(unsigned first, unsigned last, State state)
{
    const auto waits = [&](const std::unique_ptr<Thread> &thread) { return thread->state == state; };
    if (!std::all_of(&threads[first], &threads[last - 1] + 1, waits)) return false;
    for (unsigned i = first; i < last; ++i) threads[i]->state = State::running;
    return true;
}

void run_block()
{
    static std::mt19937 random(1);
    std::vector<unsigned> order(blockDim.x);
    std::iota(order.begin(), order.end(), 0u);
    for (const unsigned i : order) threads[i]->state = State::running;
    for (bool released = true; released;) {
        std::shuffle(order.begin(), order.end(), random);
        for (const unsigned i : order)
            if (threads[i]->state == State::running) {
                threadIdx.x = i;
                change(scheduler, threads[i]->context);
            }
        released = release(0, blockDim.x, State::at_barrier);
        for (unsigned warp = 0; warp < blockDim.x; warp += WARP)
            released |= release(warp, warp + WARP, State::at_shuffle);
    }
    for (const unsigned i : order)
        if (threads[i]->state == State::at_shuffle) fail("waits in a shuffle that not all of its warp reach", i);
    for (const unsigned i : order)
        if (threads[i]->state == State::at_barrier) fail("waits at a barrier that not all of its block reach", i);
}

void run_grid(dim3 grid, dim3 block, const std::function<void()> &kernel)
{
    while (threads.size() < block.x) begin_thread();
    work = kernel;
    gridDim = grid;
    blockDim = block;
    for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) run_block();
}

cudaError_t last_error = cudaSuccess;
Launches default_stream;

Launches &launches_of(cudaStream_t stream)
{
    return stream == nullptr ? default_stream : *stream;
}

} // namespace

void wait_for_block()
{
    wait(State::at_barrier);
}

const void *exchange(unsigned mask, const void *mine, size_t bytes, unsigned source)
{
    Thread &thread = *threads[threadIdx.x];
    if (mask != 0xffffffffu) fail("shuffles with a part of its warp", threadIdx.x);
    const unsigned turn = thread.shuffles++ % 2;
    std::memcpy(&thread.brought[turn], mine, bytes);
    wait(State::at_shuffle);
    return &threads[threadIdx.x / WARP * WARP + source]->brought[turn];
}

cudaError_t queue(dim3 grid, dim3 block, std::function<void()> kernel, cudaStream_t stream)
{
    const bool fits = grid.x >= 1 && grid.x <= MOST_BLOCKS && block.x >= 1 && block.x <= MOST_THREADS &&
                      block.x % WARP == 0 && grid.y * grid.z * block.y * block.z == 1;
    if (!fits) return last_error = cudaErrorInvalidConfiguration;
    launches_of(stream).push_back([=] { run_grid(grid, block, kernel); });
    return cudaSuccess;
}

} // namespace emulation

// --- the runtime -----------------------------------------------------------------------------------------------------
using namespace emulation;

cudaError_t cudaPeekAtLastError()
{
    return last_error;
}
cudaError_t cudaGetLastError()
{
    return std::exchange(last_error, cudaSuccess);
}
const char *cudaGetErrorString(cudaError_t error)
{
    return error == cudaSuccess ? "no error" : "invalid configuration argument";
}
cudaError_t cudaGetDeviceCount(int *devices)
{
    *devices = 1;
    return cudaSuccess;
}
cudaError_t cudaMalloc(void **memory, size_t bytes)
{
    *memory = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    return cudaSuccess;
}
cudaError_t cudaFree(void *memory)
{
    std::free(memory);
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void *to, const void *from, size_t bytes, cudaMemcpyKind)
{
    std::memcpy(to, from, bytes);
    return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned)
{
    *stream = new Launches;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    for (const auto &launch : std::exchange(launches_of(stream), {})) launch();
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode)
{
    return cudaStreamSynchronize(stream);
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *graph)
{
    *graph = new Launches(std::exchange(launches_of(stream), {}));
    return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t *, size_t *count)
{
    *count = graph->size();
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *run, cudaGraph_t graph, unsigned)
{
    *run = new Launches(*graph);
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t run, cudaStream_t stream)
{
    launches_of(stream).insert(launches_of(stream).end(), run->begin(), run->end());
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    return cudaStreamDestroy(graph);
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t run)
{
    return cudaStreamDestroy(run);
}
