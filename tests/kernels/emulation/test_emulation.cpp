// That the emulated device notices what a real one would punish.
#include <gtest/gtest.h>

#include <set>

namespace
{

constexpr unsigned THREADS = 64;

struct Job {
    int *out;
    bool with_barrier;
};

// Each thread reads what its neighbour wrote.
void hand_round(Job job)
{
    __shared__ int held[THREADS];
    held[threadIdx.x] = (int)threadIdx.x;
    if (job.with_barrier) __syncthreads();
    job.out[threadIdx.x] = held[(threadIdx.x + 1) % THREADS];
    if (job.with_barrier) __syncthreads();
    held[threadIdx.x] = -1;
}

void diverge_at_a_barrier(Job)
{
    if (threadIdx.x != 5) __syncthreads();
}

void diverge_in_a_shuffle(Job job)
{
    if (threadIdx.x != 5) job.out[threadIdx.x] = __shfl_xor_sync(0xffffffffu, 1, 1);
}

void shuffle_in_every_direction(Job job)
{
    const int lane = (int)threadIdx.x;
    job.out[lane] = 10000 * __shfl_down_sync(0xffffffffu, lane, 4) + 100 * __shfl_up_sync(0xffffffffu, lane, 1) +
                    __shfl_xor_sync(0xffffffffu, lane, 3);
}

void launch(void (*kernel)(Job), const Job &job, unsigned blocks = 1)
{
    void *arguments[] = {(void *)&job};
    ASSERT_EQ(cudaLaunchKernel(kernel, blocks, THREADS, arguments, 0, nullptr), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(nullptr), cudaSuccess);
}

bool handed_round(bool with_barrier)
{
    int out[THREADS];
    launch(hand_round, {out, with_barrier});
    for (unsigned i = 0; i < THREADS; ++i)
        if (out[i] != (int)((i + 1) % THREADS)) return false;
    return true;
}

} // namespace

TEST(Emulation, a_missing_barrier_shows)
{
    EXPECT_TRUE(handed_round(true));
    EXPECT_FALSE(handed_round(false));
}

TEST(Emulation, a_barrier_or_a_shuffle_that_some_threads_miss_is_reported)
{
    int out[THREADS];
    EXPECT_DEATH(launch(diverge_at_a_barrier, {out, false}), "waits at a barrier that not all of its block reach");
    EXPECT_DEATH(launch(diverge_in_a_shuffle, {out, false}), "waits in a shuffle that not all of its warp reach");
}

TEST(Emulation, lanes_get_what_the_language_says)
{
    int out[THREADS];
    launch(shuffle_in_every_direction, {out, false});
    for (int i = 0; i < (int)THREADS; ++i) {
        const int lane = i % 32, warp = i - lane;
        const int down = lane + 4 < 32 ? i + 4 : i, up = lane >= 1 ? i - 1 : i;
        EXPECT_EQ(out[i], 10000 * down + 100 * up + warp + (lane ^ 3)) << i;
    }
}

TEST(Emulation, an_empty_grid_is_an_error_and_runs_nothing)
{
    int out[THREADS];
    Job job = {out, false};
    void *arguments[] = {&job};
    EXPECT_NE(cudaLaunchKernel(diverge_at_a_barrier, 0, THREADS, arguments, 0, nullptr), cudaSuccess);
    EXPECT_NE(cudaPeekAtLastError(), cudaSuccess);
    EXPECT_NE(cudaGetLastError(), cudaSuccess);
    EXPECT_EQ(cudaPeekAtLastError(), cudaSuccess);
}
