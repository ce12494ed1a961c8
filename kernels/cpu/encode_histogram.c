#include "detent/encode.h"

#include <math.h>

#include "../math/search.h"
#include "block.h"
#include "check.h"

typedef struct search_job {
    const void *lo, *hi;
    void *min, *max;
    detent_dtype real;
    const int64_t *counts;
    size_t bins;
    const detent_search *search;
    detent_real_grid_f64 grid;
} search_job;

typedef struct filled_room {
    int32_t bin[DETENT_MOST_BINS];
    double count[DETENT_MOST_BINS], weighed[DETENT_MOST_BINS];
} filled_room;

static detent_filled_bins fill(const search_job *job, size_t group, double lo, double hi, filled_room *room)
{
    const int64_t *counts = job->counts + group * job->bins;
    size_t n = 0;
    for (size_t bin = 0; bin < job->bins; ++bin)
        if (counts[bin] > 0) {
            room->bin[n] = (int32_t)bin;
            room->count[n++] = (double)counts[bin];
        }
    if (job->search->method == DETENT_ENTROPY)
        for (size_t i = 0; i < n; ++i) room->weighed[i] = room->count[i] * log(room->count[i]);
    for (size_t i = n; i % DETENT_SEARCH_LANES != 0; ++i) {
        room->bin[i] = (int32_t)(job->bins / 2);
        room->count[i] = 0;
    }
    return (detent_filled_bins){room->bin, room->count, room->weighed,
                                n,         job->bins,   ldexp(1.0, detent_histogram_exponent(lo, hi, job->bins))};
}

DETENT_CLONES static detent_candidate search_group(const detent_search_plan *plan, const detent_filled_bins *filled)
{
    detent_candidate chosen = detent_candidate_of_range(plan, plan->low, plan->high);
    size_t best = 0;
    double least = INFINITY;
    for (int look = 0; look < detent_search_looks(plan); ++look) {
        const size_t before = best, candidates = detent_search_count(plan, look);
        for (size_t index = 0; index < candidates; ++index) {
            const detent_candidate candidate = detent_search_candidate(plan, look, index, before);
            const double cost = detent_search_cost(plan, filled, candidate);
            if (cost < least) {
                least = cost;
                chosen = candidate;
                best = index;
            }
        }
    }
    return chosen;
}

static double read_real(const void *values, detent_dtype real, size_t i)
{
    return real == DETENT_F64 ? ((const double *)values)[i] : (double)((const float *)values)[i];
}

static void write_real(void *values, detent_dtype real, size_t i, double value)
{
    if (real == DETENT_F64)
        ((double *)values)[i] = value;
    else
        ((float *)values)[i] = (float)value;
}

static void search_groups(int64_t begin, int64_t end, void *context)
{
    const search_job *job = context;
    filled_room room;
    for (size_t group = (size_t)begin; group < (size_t)end; ++group) {
        double lo = read_real(job->lo, job->real, group), hi = read_real(job->hi, job->real, group);
        double min = 0, max = 0;
        const detent_filled_bins filled = fill(job, group, lo, hi, &room);
        if (job->search->method == DETENT_PERCENTILE)
            detent_percentile_range(&filled, job->search->percentile, &lo, &hi);
        const detent_search_plan plan = detent_plan_search(*job->search, job->grid, lo, hi);
        if (job->search->method == DETENT_PERCENTILE || detent_search_is_idle(&plan, &filled)) {
            min = plan.low;
            max = plan.high;
        } else {
            detent_range_of_candidate(&plan, search_group(&plan, &filled), &min, &max);
        }
        write_real(job->min, job->real, group, min);
        write_real(job->max, job->real, group, max);
    }
}

detent_status detent_encode_histogram_cpu(const void *lo, const void *hi, const int64_t *counts, void *min, void *max,
                                          detent_dtype real, size_t groups, size_t bins, const detent_search *search,
                                          const detent_encoding *encoding, detent_parallel_for parallel)
{
    const detent_status status = detent_check_search(lo, hi, counts, min, max, real, groups, bins, search, encoding);
    if (status != DETENT_OK) return status;
    search_job job = {
        lo,
        hi,
        min,
        max,
        real,
        counts,
        bins,
        search,
        {(double)encoding->grid.qmin, (double)encoding->grid.qmax, (double)encoding->centre, encoding->symmetric}};
    detent_run(parallel, groups, 1, search_groups, &job);
    return DETENT_OK;
}
