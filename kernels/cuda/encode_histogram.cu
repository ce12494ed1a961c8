#include "detent/encode.h"

#include "../cpu/check.h"
#include "../math/search.h"
#include "launch.cuh"

namespace detent_cuda
{

template <typename Real> struct SearchJob {
    const Real *lo, *hi;
    const int64_t *counts;
    Real *min, *max;
    size_t groups, bins;
    detent_search search;
    detent_real_grid_f64 grid;
};

struct Best {
    double cost;
    size_t index;

    /* The first of the best. */
    __device__ __forceinline__ void join(const Best &other)
    {
        if (other.cost < cost || (other.cost == cost && other.index < index)) *this = other;
    }
};

struct FilledRoom {
    double below[DETENT_SEARCH_ROOM + 1], weighed_below[DETENT_SEARCH_ROOM + 1];
    int32_t bin[DETENT_SEARCH_ROOM];
};

/* What each thread has, added up over the threads before it; the total to all. */
template <typename T> __device__ __forceinline__ T sum_before(T mine, T *total)
{
    __shared__ T of_warp[THREADS / WARP];
    T sum = mine, before = 0;
    for (unsigned apart = 1; apart < WARP; apart *= 2) {
        const T other = __shfl_up_sync(0xffffffffu, sum, apart);
        if (threadIdx.x % WARP >= apart) sum += other;
    }
    if (threadIdx.x % WARP == WARP - 1) of_warp[threadIdx.x / WARP] = sum;
    sum = __shfl_up_sync(0xffffffffu, sum, 1);
    __syncthreads();
    *total = 0;
    for (unsigned warp = 0; warp < THREADS / WARP; ++warp) {
        if (warp < threadIdx.x / WARP) before += of_warp[warp];
        *total += of_warp[warp];
    }
    __syncthreads();
    return threadIdx.x % WARP == 0 ? before : before + sum;
}

/* The bins that hold anything, in order. */
__device__ __forceinline__ detent_filled_bins fill(const int64_t *counts, size_t bins, double width, FilledRoom &room)
{
    const size_t share = ceil_div(bins, THREADS), first = threadIdx.x * share, end = least(first + share, bins);
    unsigned mine = 0, n = 0;
    double held = 0, total = 0;
    for (size_t bin = first; bin < end; ++bin) {
        mine += counts[bin] > 0;
        held += (double)counts[bin];
    }
    unsigned at = sum_before(mine, &n);
    double below = sum_before(held, &total);
    for (size_t bin = first; bin < end; ++bin)
        if (counts[bin] > 0) {
            room.bin[at] = (int32_t)bin;
            room.below[at++] = below;
            below += (double)counts[bin];
        }
    __syncthreads();
    if (threadIdx.x <= DETENT_SEARCH_LANES) {
        room.below[n + threadIdx.x] = total;
        if (n > 0 && threadIdx.x < DETENT_SEARCH_LANES) room.bin[n + threadIdx.x] = room.bin[n - 1];
    }
    __syncthreads();
    return {room.bin, room.below, room.weighed_below, n, bins, width};
}

__device__ __forceinline__ void weigh(const detent_filled_bins &filled, FilledRoom &room)
{
    const size_t share = ceil_div(filled.n, THREADS), first = least(threadIdx.x * share, filled.n);
    const size_t end = least(first + share, filled.n);
    double mine = 0, total = 0;
    for (size_t i = first; i < end; ++i) mine += detent_bin_weighed(&filled, i);
    double below = sum_before(mine, &total);
    for (size_t i = first; i < end; ++i) {
        room.weighed_below[i] = below;
        below += detent_bin_weighed(&filled, i);
    }
    if (threadIdx.x == 0) room.weighed_below[filled.n] = total;
    __syncthreads();
}

__device__ __forceinline__ Best best_of_block(Best mine)
{
    __shared__ Best of_warp[THREADS / WARP];
    for (unsigned half = WARP / 2; half > 0; half /= 2)
        mine.join({__shfl_xor_sync(0xffffffffu, mine.cost, half), __shfl_xor_sync(0xffffffffu, mine.index, half)});
    if (threadIdx.x % WARP == 0) of_warp[threadIdx.x / WARP] = mine;
    __syncthreads();
    for (unsigned warp = 0; warp < THREADS / WARP; ++warp) mine.join(of_warp[warp]);
    __syncthreads();
    return mine;
}

/* All threads try candidates; all come back with the chosen one. */
__device__ __forceinline__ detent_candidate search_group(const detent_search_plan &plan,
                                                         const detent_filled_bins &filled)
{
    detent_candidate chosen = detent_candidate_of_range(&plan, plan.low, plan.high);
    double cost = (double)INFINITY;
    size_t before = 0;
    for (int look = 0; look < detent_search_looks(&plan); ++look) {
        const size_t candidates = detent_search_count(&plan, look);
        Best mine = {(double)INFINITY, SIZE_MAX};
        for (size_t index = threadIdx.x; index < candidates; index += THREADS) {
            const detent_candidate candidate = detent_search_candidate(&plan, look, index, before);
            mine.join({detent_search_cost(&plan, &filled, candidate, mine.cost), index});
        }
        const Best best = best_of_block(mine);
        if (best.cost < cost) {
            cost = best.cost;
            chosen = detent_search_candidate(&plan, look, best.index, before);
            before = best.index;
        }
    }
    return chosen;
}

template <typename Real>
__global__ void __launch_bounds__(THREADS) search_groups(const __grid_constant__ SearchJob<Real> job)
{
    __shared__ FilledRoom room;
    const bool percentile = job.search.method == DETENT_PERCENTILE;
    for (size_t group = blockIdx.x; group < job.groups; group += gridDim.x) {
        double lo = job.lo[group], hi = job.hi[group], min = 0, max = 0;
        const detent_filled_bins filled = fill(job.counts + group * job.bins, job.bins,
                                               ldexp(1.0, detent_histogram_exponent(lo, hi, job.bins)), room);
        if (job.search.method == DETENT_ENTROPY) weigh(filled, room);
        if (percentile) detent_percentile_range(&filled, job.search.percentile, &lo, &hi);
        const detent_search_plan plan = detent_plan_search(job.search, job.grid, lo, hi);
        min = plan.low;
        max = plan.high;
        if (!percentile && !detent_search_is_idle(&plan, &filled))
            detent_range_of_candidate(&plan, search_group(plan, filled), &min, &max);
        __syncthreads(); /* lo and hi may be where min and max go, and the room is filled anew */
        if (threadIdx.x == 0) {
            job.min[group] = (Real)min;
            job.max[group] = (Real)max;
        }
    }
}

template <typename Real>
static detent_status search(const void *lo, const void *hi, const int64_t *counts, void *min, void *max, size_t groups,
                            size_t bins, const detent_search &search, const detent_encoding &encoding,
                            detent_stream stream)
{
    const SearchJob<Real> job = {
        (const Real *)lo,
        (const Real *)hi,
        counts,
        (Real *)min,
        (Real *)max,
        groups,
        bins,
        search,
        {(double)encoding.grid.qmin, (double)encoding.grid.qmax, (double)encoding.centre, encoding.symmetric}};
    return launch(&search_groups<Real>, job, groups, stream);
}

} // namespace detent_cuda

using namespace detent_cuda;

detent_status detent_encode_histogram_cuda(const void *lo, const void *hi, const int64_t *counts, void *min, void *max,
                                           detent_dtype real, size_t groups, size_t bins, const detent_search *search,
                                           const detent_encoding *encoding, detent_stream stream)
{
    const detent_status status = detent_check_search(lo, hi, counts, min, max, real, groups, bins, search, encoding);
    if (status != DETENT_OK || groups == 0) return status;
    return (real == DETENT_F32 ? detent_cuda::search<float> : detent_cuda::search<double>)(lo, hi, counts, min, max,
                                                                                           groups, bins, *search,
                                                                                           *encoding, stream);
}
