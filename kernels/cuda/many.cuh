/* Several items in one launch: the jobs that the kernels for one item would be given travel as the parameter of one
 * kernel, in a table, and each block finds its item by the number of blocks of those before it. Nothing is copied to
 * the device. Where a parameter does not hold all of them there are several launches. */
#ifndef DETENT_CUDA_MANY_CUH
#define DETENT_CUDA_MANY_CUH

#include "map.cuh"
#include "reduce.cuh"

namespace detent_cuda
{

/* What a kernel's parameters may take: 32764 bytes from CUDA 12.1 on. */
#if defined(CUDART_VERSION) && CUDART_VERSION >= 12010
enum : size_t { PARAMETER_BYTES = 32764 };
#else
enum : size_t { PARAMETER_BYTES = 4096 };
#endif

template <typename Job> struct Table {
    enum : unsigned { MOST = (PARAMETER_BYTES - 4 * sizeof(size_t)) / (sizeof(Job) + sizeof(size_t)) };
    unsigned count;
    size_t first[MOST + 1]; /* block of each item; then the number of blocks */
    Job jobs[MOST];
};

/* Jobs on their way to a kernel; flush() launches what is left. */
template <typename Job> class Launches
{
  public:
    Launches(void (*kernel)(Table<Job>), detent_stream stream) : kernel_(kernel), stream_(stream)
    {
        static_assert(sizeof(Table<Job>) <= PARAMETER_BYTES, "a table is one parameter");
        table_.count = 0;
        table_.first[0] = 0;
    }

    void add(const Job &job, size_t blocks)
    {
        if (blocks == 0) return;
        if (table_.count == Table<Job>::MOST) flush();
        table_.jobs[table_.count] = job;
        table_.first[table_.count + 1] = table_.first[table_.count] + blocks;
        ++table_.count;
    }

    detent_status flush()
    {
        if (table_.count > 0 && status_ == DETENT_OK)
            status_ = launch(kernel_, table_, table_.first[table_.count], stream_);
        table_.count = 0;
        return status_;
    }

  private:
    void (*kernel_)(Table<Job>);
    detent_stream stream_;
    detent_status status_ = DETENT_OK;
    Table<Job> table_;
};

/* body(job, block): each block of each item. */
template <typename Job, typename Body> __device__ __forceinline__ void each_block(const Table<Job> &table, Body body)
{
    for (size_t block = blockIdx.x; block < table.first[table.count]; block += gridDim.x) {
        const unsigned item = item_at(table.first, table.count, block);
        body(table.jobs[item], block - table.first[item]);
    }
}

template <typename Op>
__global__ void __launch_bounds__(THREADS, MAP_BLOCKS) map_many(const __grid_constant__ Table<MapJob<Op>> table)
{
    each_block(table, [](const MapJob<Op> &job, size_t block) {
        map_elements<Op>(job, {SIZE_MAX, {}}, block, job.elements);
    });
}

template <typename Op>
__global__ void __launch_bounds__(THREADS, 2) reduce_many(const __grid_constant__ Table<ReduceJob<Op>> table)
{
    each_block(table, [](const ReduceJob<Op> &job, size_t block) {
        if (job.part.narrow)
            reduce_narrow_tasks(job, block, task_count(job.part));
        else
            reduce_wide_tasks(job, block, task_count(job.part));
    });
}

template <typename Finish, typename Result>
__global__ void __launch_bounds__(THREADS) finish_many(const __grid_constant__ Table<FinishJob<Finish, Result>> table)
{
    each_block(table, [](const FinishJob<Finish, Result> &job, size_t block) { finish_rows(job, block, job.groups); });
}

/* job_of(i) is the ReduceJob of item i. As run_reduce for each of them, in two launches, or one where no group has
 * several rows. */
template <typename Op, typename JobOf>
detent_status run_reduce_many(size_t count, const JobOf &job_of, detent_stream stream)
{
    typedef FinishJob<decltype(Op::finish), typename Op::Result> Join;
    Launches<ReduceJob<Op>> tasks(&reduce_many<Op>, stream);
    for (size_t i = 0; i < count; ++i) {
        const ReduceJob<Op> job = job_of(i);
        tasks.add(job, reduce_blocks(job.part));
    }
    const detent_status status = tasks.flush();
    if (status != DETENT_OK) return status;
    Launches<Join> joins(&finish_many<decltype(Op::finish), typename Op::Result>, stream);
    for (size_t i = 0; i < count; ++i) {
        const ReduceJob<Op> job = job_of(i);
        joins.add({job.op.finish, job.partials, job.part.shape.groups, partial_rows(job.part)},
                  finish_blocks(job.part));
    }
    return joins.flush();
}

} // namespace detent_cuda

#endif
