/* How the CUDA kernels go through a tensor [outer, groups, inner]: which thread owns which elements. Plain C++ without
 * CUDA, so that host tests can prove that every element has one owner.
 *
 * map     flat vectors of V elements, V * sizeof(element) = 16 bytes; any vector may cross groups
 * reduce  tasks of whole or part groups, each leaving one partial result per group at a place that depends on the shape
 *         alone; partials are joined in order afterwards, so the same input gives the same bits on every device
 * many    the blocks of several items, one item after the other */
#ifndef DETENT_CUDA_GEOMETRY_H
#define DETENT_CUDA_GEOMETRY_H

#include <stddef.h>
#include <stdint.h>

#include "detent/base.h"

#ifdef __CUDACC__
#define DETENT_GEOMETRY __host__ __device__ __forceinline__
#define DETENT_WALK __device__ __forceinline__ /* calls back into kernel code */
#else
#define DETENT_GEOMETRY inline
#define DETENT_WALK inline
#endif

namespace detent_cuda
{

enum : unsigned { THREADS = 256, WARP = 32 };

DETENT_GEOMETRY size_t ceil_div(size_t a, size_t b)
{
    return (a + b - 1) / b;
}
DETENT_GEOMETRY size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}
DETENT_GEOMETRY size_t most(size_t a, size_t b)
{
    return a > b ? a : b;
}
DETENT_GEOMETRY size_t elements_of(detent_shape3 shape)
{
    return shape.outer * shape.groups * shape.inner;
}

/* Largest power of two that is <= n, for n >= 1. */
DETENT_GEOMETRY unsigned power_below(size_t n)
{
    unsigned power = 1;
    while (power <= n / 2 && power < (1u << 30)) power *= 2;
    return power;
}

/* Consecutive flat indices. */
struct Run {
    size_t begin, end;
};

/* --- division by a number known at launch --------------------------------------------------------------------------
 * Granlund and Montgomery 1994, figure 4.1, for dividends below 2^32; longer ones take the slow division. */
struct Divider {
    size_t divisor;
    uint32_t magic, shift;
    int32_t quick;
};

inline Divider divider_of(size_t divisor, size_t dividends)
{
    Divider by = {divisor, 0, 0, 0};
    if (divisor == 0 || divisor > UINT32_MAX || dividends > UINT32_MAX) return by;
    while (by.shift < 32 && (UINT64_C(1) << by.shift) < divisor) ++by.shift;
    by.magic = (uint32_t)((((UINT64_C(1) << by.shift) - divisor) << 32) / divisor + 1);
    by.quick = 1;
    return by;
}

DETENT_GEOMETRY size_t divide(size_t dividend, Divider by)
{
    if (!by.quick) return dividend / by.divisor;
    const uint64_t high = ((uint64_t)(uint32_t)dividend * by.magic) >> 32;
    return (size_t)((high + dividend) >> by.shift);
}

/* --- map -------------------------------------------------------------------------------------------------------------
 * A tile is UNROLL * THREADS vectors. Neighbouring threads own neighbouring vectors, so 8 / V neighbours share a byte
 * of a bit mask and never straddle a warp. */
enum : unsigned { MAP_UNROLL = 2 };

DETENT_GEOMETRY size_t map_tiles(size_t elements, unsigned vector)
{
    return ceil_div(elements, (size_t)vector * MAP_UNROLL * THREADS);
}
DETENT_GEOMETRY size_t map_vector(size_t tile, unsigned thread, unsigned turn)
{
    return (tile * MAP_UNROLL + turn) * THREADS + thread;
}

/* Where an element stands: its group, and how many elements from it on (at most `limit`) share that group. */
struct Place {
    size_t group;
    unsigned left;
};

struct Locator {
    Divider by_inner, by_groups;
};

inline Locator locator_of(detent_shape3 shape)
{
    const size_t elements = elements_of(shape);
    return {divider_of(shape.inner, elements), divider_of(shape.groups, elements)};
}

DETENT_GEOMETRY Place place_of(const Locator &locator, size_t index, unsigned limit)
{
    const size_t row = divide(index, locator.by_inner);
    const size_t left = (row + 1) * locator.by_inner.divisor - index;
    return {row - divide(row, locator.by_groups) * locator.by_groups.divisor, left < limit ? (unsigned)left : limit};
}

/* --- reduce ----------------------------------------------------------------------------------------------------------
 * wide    a task is one group's elements outer_step x inner_step. A team of lanes x row_lanes threads (at most a warp,
 *         or the block) owns it: lanes along inner in vectors, row_lanes along outer.
 * narrow  short groups with many outer rows. A task is a strip of group_step whole groups, so group_step * inner
 *         neighbouring columns, times outer_step. The block owns it: lanes along columns, row_lanes along outer.
 *
 * Every group has rows = outer_count * inner_count partials, [groups, rows]. */
struct Partition {
    detent_shape3 shape;
    size_t outer_step, group_step, inner_step;
    size_t outer_count, group_count, inner_count;
    unsigned lanes, row_lanes;
    int32_t narrow;
};

/* Elements of a task: doubled until a tensor has at most MOST_TASKS of them, halved until it has FEW_TASKS, two
 * for each of 132 multiprocessors, or two vectors are left for a thread. */
enum : size_t {
    TASK = 8192,
    LEAST_TASK = 2048,
    MOST_TASKS = 4096,
    FEW_TASKS = 264,
    WARP_TASK = 1024, /* up to here one warp or less owns a task */
    PER_LANE = 8,     /* elements along inner worth a lane: two float32 vectors, one float16 vector */
    NARROW_INNER = 32,
    NARROW_OUTER = 8,
};

/* Even shares of `extent`, each at most about `wanted`, a multiple of `quantum`. */
inline size_t even_step(size_t extent, size_t wanted, size_t quantum)
{
    const size_t shares = ceil_div(extent, most(wanted, 1));
    return least(extent, ceil_div(ceil_div(extent, shares), quantum) * quantum);
}

/* Columns of a strip: the power of two that leaves the fewest lanes idle, the larger of equals. */
inline unsigned strip_lanes(size_t groups, size_t inner)
{
    const size_t columns = groups * inner;
    if (columns <= WARP) return columns <= 1 ? 1 : 2 * power_below(columns - 1);
    unsigned best = THREADS;
    size_t fewest = SIZE_MAX;
    for (unsigned lanes = THREADS; lanes >= WARP; lanes /= 2) {
        const size_t reserved = ceil_div(groups, lanes / inner) * lanes;
        if (reserved < fewest) {
            fewest = reserved;
            best = lanes;
        }
    }
    return best;
}

inline Partition partition_of(detent_shape3 shape)
{
    Partition part = {};
    const size_t elements = elements_of(shape);
    if (elements == 0) {
        part.shape = shape;
        return part;
    }
    if (shape.groups == 1) shape = {1, 1, elements};
    part.shape = shape;

    size_t task = TASK;
    while (elements / task > MOST_TASKS) task *= 2;
    while (elements / task < FEW_TASKS && task > LEAST_TASK) task /= 2;

    part.narrow = shape.groups > 1 && shape.inner < NARROW_INNER && shape.outer >= NARROW_OUTER;
    if (part.narrow) {
        part.lanes = strip_lanes(shape.groups, shape.inner);
        part.row_lanes = THREADS / part.lanes;
        part.group_step = least(shape.groups, part.lanes / shape.inner);
        part.inner_step = shape.inner;
        part.outer_step = even_step(shape.outer, task / (part.group_step * shape.inner), 1);
    } else {
        part.group_step = 1;
        part.inner_step = even_step(shape.inner, task, 8);
        part.outer_step = even_step(shape.outer, task / part.inner_step, 1);
        const size_t owned = part.outer_step * part.inner_step;
        const unsigned team =
            owned > WARP_TASK ? (unsigned)THREADS : (unsigned)least(WARP, power_below(most(1, owned / PER_LANE)));
        const unsigned along_inner = (unsigned)least(team, power_below(most(1, part.inner_step / PER_LANE)));
        part.row_lanes = (unsigned)least(team / along_inner, power_below(part.outer_step));
        part.lanes = team / part.row_lanes;
    }
    part.outer_count = ceil_div(shape.outer, part.outer_step);
    part.group_count = ceil_div(shape.groups, part.group_step);
    part.inner_count = ceil_div(shape.inner, part.inner_step);
    return part;
}

DETENT_GEOMETRY size_t partial_rows(const Partition &part)
{
    return part.outer_count * part.inner_count;
}
DETENT_GEOMETRY size_t task_count(const Partition &part)
{
    return part.outer_count * part.group_count * part.inner_count;
}
DETENT_GEOMETRY unsigned team_of(const Partition &part)
{
    return part.lanes * part.row_lanes;
}
DETENT_GEOMETRY unsigned tasks_per_block(const Partition &part)
{
    return THREADS / team_of(part);
}
/* Partials are written only where a group has several. */
inline size_t partial_count(const Partition &part)
{
    return partial_rows(part) > 1 ? partial_rows(part) * part.shape.groups : 0;
}

/* Blocks of the launch that sums tasks, none for an empty tensor. */
inline size_t reduce_blocks(const Partition &part)
{
    if (partial_rows(part) == 0) return 0;
    return part.narrow ? task_count(part) : ceil_div(task_count(part), tasks_per_block(part));
}

struct Task {
    size_t outer_begin, outer_end, group_begin, group_end, inner_begin, inner_end;
    size_t row; /* of the partials of its groups */
};

DETENT_GEOMETRY Task task_at(const Partition &part, size_t index)
{
    size_t group = index, row = 0;
    if (partial_rows(part) > 1) {
        row = index / part.group_count;
        group = index - row * part.group_count;
    }
    const size_t outer = part.inner_count > 1 ? row / part.inner_count : row;
    const size_t inner = row - outer * part.inner_count;
    return {outer * part.outer_step,
            least(part.shape.outer, (outer + 1) * part.outer_step),
            group * part.group_step,
            least(part.shape.groups, (group + 1) * part.group_step),
            inner * part.inner_step,
            least(part.shape.inner, (inner + 1) * part.inner_step),
            row};
}

/* Threads that join the partials of one group. */
DETENT_GEOMETRY unsigned finish_team(size_t rows)
{
    return rows >= 2 * THREADS ? (unsigned)THREADS : (unsigned)least(WARP, power_below(most(rows, 1)));
}

/* Blocks of the launch that joins partials, none where every group has one; an empty tensor still finishes its groups.
 */
inline size_t finish_blocks(const Partition &part)
{
    const size_t rows = partial_rows(part);
    return rows == 1 ? 0 : ceil_div(part.shape.groups, THREADS / finish_team(rows));
}

/* body(vector, stride, run): vectors vector, vector + stride, ... (`unroll` of them) as far as they meet the run. A
 * vector may reach over an end of the run; its elements there belong to others. */
template <unsigned V, unsigned UNROLL, typename Body>
DETENT_WALK void walk_wide(const Partition &part, const Task &task, unsigned thread, Body &body)
{
    const unsigned lane = thread % part.lanes;
    for (size_t outer = task.outer_begin + thread / part.lanes; outer < task.outer_end; outer += part.row_lanes) {
        const size_t row = (outer * part.shape.groups + task.group_begin) * part.shape.inner;
        const Run run = {row + task.inner_begin, row + task.inner_end};
        for (size_t vector = run.begin / V + lane; vector * V < run.end; vector += (size_t)UNROLL * part.lanes)
            body(vector, part.lanes, run);
    }
}

/* body(index, stride, count): elements index, index + stride, ..., all of one column; count is at most UNROLL. */
template <unsigned UNROLL, typename Body>
DETENT_WALK void walk_narrow(const Partition &part, const Task &task, unsigned thread, Body &body)
{
    const size_t columns = part.shape.groups * part.shape.inner;
    const size_t column = thread % part.lanes;
    if (column >= (task.group_end - task.group_begin) * part.shape.inner) return;
    for (size_t outer = task.outer_begin + thread / part.lanes; outer < task.outer_end;
         outer += (size_t)UNROLL * part.row_lanes) {
        const size_t rows = ceil_div(task.outer_end - outer, part.row_lanes);
        body(outer * columns + task.group_begin * part.shape.inner + column, part.row_lanes * columns,
             (unsigned)least(UNROLL, rows));
    }
}

/* --- many ------------------------------------------------------------------------------------------------------------
 * One launch over several items. first[i] is the first block of item i, first[count] the number of all; the item of a
 * block, which is none of those without blocks. */
DETENT_GEOMETRY unsigned item_at(const size_t *first, unsigned count, size_t block)
{
    unsigned low = 0, high = count;
    while (high - low > 1) {
        const unsigned middle = (low + high) / 2;
        if (first[middle] <= block)
            low = middle;
        else
            high = middle;
    }
    return low;
}

} // namespace detent_cuda

#endif
