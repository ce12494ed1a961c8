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
    double count[DETENT_MOST_BINS], weighed[DETENT_MOST_BINS];
    int32_t bin[DETENT_MOST_BINS];
};

/* What each thread has, added up over the threads before it; the total to all. */
__device__ __forceinline__ unsigned sum_before(unsigned mine, unsigned *total)
{
    __shared__ unsigned of_warp[THREADS / WARP];
    unsigned sum = mine;
    for (unsigned apart = 1; apart < WARP; apart *= 2) {
        const unsigned other = __shfl_up_sync(0xffffffffu, sum, apart);
        if (threadIdx.x % WARP >= apart) sum += other;
    }
    if (threadIdx.x % WARP == WARP - 1) of_warp[threadIdx.x / WARP] = sum;
    __syncthreads();
    *total = 0;
    for (unsigned warp = 0; warp < THREADS / WARP; ++warp) {
        if (warp < threadIdx.x / WARP) sum += of_warp[warp];
        *total += of_warp[warp];
    }
    __syncthreads();
    return sum - mine;
}

/* The bins that hold anything, in order. */
__device__ __forceinline__ size_t fill(const int64_t *counts, size_t bins, bool weigh, FilledRoom &room)
{
    const size_t share = ceil_div(bins, THREADS), first = threadIdx.x * share;
    unsigned mine = 0, n = 0;
    for (size_t bin = first; bin < least(first + share, bins); ++bin) mine += counts[bin] > 0;
    unsigned at = sum_before(mine, &n);
    for (size_t bin = first; bin < least(first + share, bins); ++bin)
        if (counts[bin] > 0) {
            const double count = (double)counts[bin];
            room.bin[at] = (int32_t)bin;
            room.count[at] = count;
            room.weighed[at++] = weigh ? count * log(count) : 0;
        }
    /* bins is a multiple of the lanes, so the padding has room. */
    const unsigned padded = n + (DETENT_SEARCH_LANES - n % DETENT_SEARCH_LANES) % DETENT_SEARCH_LANES;
    if (threadIdx.x < padded - n) {
        room.bin[n + threadIdx.x] = (int32_t)(bins / 2);
        room.count[n + threadIdx.x] = 0;
    }
    __syncthreads();
    return n;
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
            mine.join({detent_search_cost(&plan, &filled, candidate), index});
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
        const size_t n = fill(job.counts + group * job.bins, job.bins, job.search.method == DETENT_ENTROPY, room);
        const detent_filled_bins filled = {
            room.bin, room.count, room.weighed, n, job.bins, ldexp(1.0, detent_histogram_exponent(lo, hi, job.bins))};
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
