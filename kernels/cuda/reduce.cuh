/* A result per group: the kernels of gradient sums and of observers, deterministic and without atomics.
 *
 * A reduction Op has
 *     Result                        a plain struct with none(), join(other) and from_lane(delta), a shuffle
 *     Group                         what group(g) reads once for all elements of a group
 *     V, UNROLL                     elements of a vector; vectors or column elements in flight per thread
 *     add_vectors, add_column       take elements into a Result, as walk_wide and walk_narrow hand them out
 *     finish                        a Finish, whose operator()(g, result) writes what the caller wanted */
#ifndef DETENT_CUDA_REDUCE_CUH
#define DETENT_CUDA_REDUCE_CUH

#include "launch.cuh"

namespace detent_cuda
{

template <typename Op> struct ReduceJob {
    Op op;
    Partition part;
    typename Op::Result *partials; /* [groups, rows]; not touched where rows is 1 */
};

template <typename Finish, typename Result> struct FinishJob {
    Finish finish;
    const Result *partials;
    size_t groups, rows;
};

/* The sum over a team, in its first thread. Same tree for the same team, whatever the device. */
template <typename Result> __device__ __forceinline__ Result join_team(Result mine, unsigned team)
{
    __shared__ Result of_warp[THREADS / WARP];
    for (unsigned half = (team < WARP ? team : (unsigned)WARP) / 2; half > 0; half /= 2)
        mine.join(mine.from_lane(half));
    if (team <= WARP) return mine;
    if (threadIdx.x % WARP == 0) of_warp[threadIdx.x / WARP] = mine;
    __syncthreads();
    if (threadIdx.x < WARP) {
        mine = threadIdx.x < THREADS / WARP ? of_warp[threadIdx.x] : Result::none();
        for (unsigned half = THREADS / WARP / 2; half > 0; half /= 2) mine.join(mine.from_lane(half));
    }
    __syncthreads();
    return mine;
}

template <typename Op>
__device__ __forceinline__ void deliver(const ReduceJob<Op> &job, size_t group, size_t row,
                                        const typename Op::Result &result)
{
    const size_t rows = partial_rows(job.part);
    if (rows == 1)
        job.op.finish(group, result);
    else
        job.partials[group * rows + row] = result;
}

template <typename Op> struct AddVectors {
    const Op &op;
    const typename Op::Group group;
    typename Op::Result result;
    __device__ __forceinline__ void operator()(size_t vector, size_t stride, Run run)
    {
        op.add_vectors(result, group, vector, stride, run);
    }
};

template <typename Op> struct AddColumn {
    const Op &op;
    const typename Op::Group group;
    typename Op::Result result;
    __device__ __forceinline__ void operator()(size_t index, size_t stride, unsigned count)
    {
        op.add_column(result, group, index, stride, count);
    }
};

/* A block's share of the tasks: those of blocks first, first + step, ... */
template <typename Op>
__device__ __forceinline__ void reduce_wide_tasks(const ReduceJob<Op> &job, size_t first, size_t step)
{
    const unsigned team = team_of(job.part), teams = THREADS / team;
    const size_t tasks = task_count(job.part);
    for (size_t block = first; block * teams < tasks; block += step) {
        const size_t index = block * teams + threadIdx.x / team;
        const Task task = task_at(job.part, index < tasks ? index : 0);
        AddVectors<Op> add = {job.op, job.op.group(task.group_begin), Op::Result::none()};
        if (index < tasks) walk_wide<Op::V, Op::UNROLL>(job.part, task, threadIdx.x % team, add);
        const typename Op::Result result = join_team(add.result, team);
        if (index < tasks && threadIdx.x % team == 0) deliver(job, task.group_begin, task.row, result);
    }
}

template <typename Op>
__device__ __forceinline__ void reduce_narrow_tasks(const ReduceJob<Op> &job, size_t first, size_t step)
{
    __shared__ typename Op::Result of_thread[THREADS];
    const unsigned lanes = job.part.lanes, inner = (unsigned)job.part.shape.inner;
    const size_t tasks = task_count(job.part);
    for (size_t index = first; index < tasks; index += step) {
        const Task task = task_at(job.part, index);
        const unsigned groups = (unsigned)(task.group_end - task.group_begin);
        const unsigned of_strip = threadIdx.x % lanes / inner;
        AddColumn<Op> add = {job.op, job.op.group(task.group_begin + (of_strip < groups ? of_strip : 0)),
                             Op::Result::none()};
        walk_narrow<Op::UNROLL>(job.part, task, threadIdx.x, add);
        of_thread[threadIdx.x] = add.result;
        __syncthreads();
        for (unsigned half = job.part.row_lanes / 2; half > 0; half /= 2) {
            if (threadIdx.x < half * lanes) of_thread[threadIdx.x].join(of_thread[threadIdx.x + half * lanes]);
            __syncthreads();
        }
        if (threadIdx.x < groups) {
            typename Op::Result result = of_thread[threadIdx.x * inner];
            for (unsigned i = 1; i < inner; ++i) result.join(of_thread[threadIdx.x * inner + i]);
            deliver(job, task.group_begin + threadIdx.x, task.row, result);
        }
        __syncthreads();
    }
}

template <typename Op>
__global__ void __launch_bounds__(THREADS, 2) reduce_wide(const __grid_constant__ ReduceJob<Op> job)
{
    reduce_wide_tasks(job, blockIdx.x, gridDim.x);
}

template <typename Op>
__global__ void __launch_bounds__(THREADS) reduce_narrow(const __grid_constant__ ReduceJob<Op> job)
{
    reduce_narrow_tasks(job, blockIdx.x, gridDim.x);
}

/* Partials of each group: each lane of a team its own in order, then the team's tree. */
template <typename Finish, typename Result>
__device__ __forceinline__ void finish_rows(const FinishJob<Finish, Result> &job, size_t first, size_t step)
{
    const unsigned team = finish_team(job.rows), teams = THREADS / team, lane = threadIdx.x % team;
    for (size_t block = first; block * teams < job.groups; block += step) {
        const size_t group = block * teams + threadIdx.x / team;
        Result result = Result::none();
        if (group < job.groups)
            for (size_t row = lane; row < job.rows; row += team) result.join(job.partials[group * job.rows + row]);
        result = join_team(result, team);
        if (group < job.groups && lane == 0) job.finish(group, result);
    }
}

template <typename Finish, typename Result>
__global__ void __launch_bounds__(THREADS) finish_groups(const __grid_constant__ FinishJob<Finish, Result> job)
{
    finish_rows(job, blockIdx.x, gridDim.x);
}

/* Tasks only: where a group has several rows the caller joins the partials. */
template <typename Op>
detent_status run_tasks(const Op &op, const Partition &part, void *partials, detent_stream stream)
{
    const ReduceJob<Op> job = {op, part, (typename Op::Result *)partials};
    return launch(part.narrow ? &reduce_narrow<Op> : &reduce_wide<Op>, job, reduce_blocks(part), stream);
}

/* One launch where every group has one row, else two; an empty tensor still finishes its groups. */
template <typename Op>
detent_status run_reduce(const Op &op, const Partition &part, void *partials, detent_stream stream)
{
    typedef typename Op::Result Result;
    const size_t rows = partial_rows(part);
    if (part.shape.groups == 0) return DETENT_OK;
    if (rows > 0) {
        const detent_status status = run_tasks(op, part, partials, stream);
        if (status != DETENT_OK || rows == 1) return status;
    }
    const FinishJob<decltype(op.finish), Result> job = {op.finish, (const Result *)partials, part.shape.groups, rows};
    return launch(&finish_groups<decltype(op.finish), Result>, job, finish_blocks(part), stream);
}

/* Bytes of partials with results of result_bytes each; 0 where none are written. */
inline detent_status reduce_workspace(detent_shape3 shape, size_t elements, size_t result_bytes, size_t *bytes)
{
    *bytes = elements > 0 ? partial_count(partition_of(shape)) * result_bytes : 0;
    return DETENT_OK;
}

} // namespace detent_cuda

#endif
