#include "detent/encode.h"

#include <math.h>

#include "../math/search.h"
#include "block.h"
#include "check.h"

enum { MOST_PIECES = 16 };

typedef struct search_job {
    const void *lo, *hi;
    void *min, *max;
    detent_dtype real;
    const int64_t *counts;
    size_t bins;
    const detent_search *search;
    detent_real_grid_f64 grid;
    detent_parallel_for within; /* a group, where there is one alone */
} search_job;

typedef struct filled_room {
    int32_t bin[DETENT_SEARCH_ROOM];
    double below[DETENT_SEARCH_ROOM + 1], weighed_below[DETENT_SEARCH_ROOM + 1];
} filled_room;

DETENT_CLONES static void weigh(const detent_filled_bins *filled, double *restrict weighed_below)
{
    for (size_t i = 0; i < filled->n; ++i) weighed_below[i + 1] = detent_bin_weighed(filled, i);
    weighed_below[0] = 0;
    for (size_t i = 0; i < filled->n; ++i) weighed_below[i + 1] += weighed_below[i];
}

static detent_filled_bins fill(const search_job *job, size_t group, double lo, double hi, filled_room *room)
{
    const int64_t *counts = job->counts + group * job->bins;
    size_t n = 0;
    double below = 0;
    room->below[0] = 0;
    for (size_t bin = 0; bin < job->bins; ++bin) { /* no branch: which bins hold anything cannot be foreseen */
        below += (double)counts[bin];
        room->bin[n] = (int32_t)bin;
        room->below[n + 1] = below;
        n += counts[bin] > 0;
    }
    for (size_t i = n; n > 0 && i < n + DETENT_SEARCH_LANES; ++i) {
        room->bin[i] = room->bin[n - 1];
        room->below[i + 1] = room->below[n];
    }
    const detent_filled_bins filled = {room->bin,           room->below,
                                       room->weighed_below, n,
                                       job->bins,           ldexp(1.0, detent_histogram_exponent(lo, hi, job->bins))};
    if (job->search->method == DETENT_ENTROPY) weigh(&filled, room->weighed_below);
    return filled;
}

/* The candidates of one look, in pieces that threads may share out. */
typedef struct look_job {
    const detent_search_plan *plan;
    const detent_filled_bins *filled;
    int look;
    size_t before, candidates, pieces;
    double least[MOST_PIECES];
    size_t best[MOST_PIECES];
} look_job;

DETENT_CLONES static void try_pieces(int64_t begin, int64_t end, void *context)
{
    look_job *job = context;
    for (size_t piece = (size_t)begin; piece < (size_t)end; ++piece) {
        const size_t last = (piece + 1) * job->candidates / job->pieces;
        double least = job->least[piece];
        for (size_t index = piece * job->candidates / job->pieces; index < last; ++index) {
            const detent_candidate candidate = detent_search_candidate(job->plan, job->look, index, job->before);
            const double cost = detent_search_cost(job->plan, job->filled, candidate, least);
            if (cost < least) {
                least = cost;
                job->best[piece] = index;
            }
        }
        job->least[piece] = least;
    }
}

static detent_candidate search_group(const detent_search_plan *plan, const detent_filled_bins *filled,
                                     detent_parallel_for parallel)
{
    detent_candidate chosen = detent_candidate_of_range(plan, plan->low, plan->high);
    size_t before = 0;
    double least = INFINITY;
    for (int look = 0; look < detent_search_looks(plan); ++look) {
        look_job job = {.plan = plan, .filled = filled, .look = look, .before = before};
        job.candidates = detent_search_count(plan, look);
        job.pieces = parallel != NULL ? MOST_PIECES : 1;
        for (size_t piece = 0; piece < job.pieces; ++piece) job.least[piece] = least;
        detent_run(parallel, job.pieces, 1, try_pieces, &job);
        for (size_t piece = 0; piece < job.pieces; ++piece)
            if (job.least[piece] < least) { /* the first of the best */
                least = job.least[piece];
                before = job.best[piece];
                chosen = detent_search_candidate(plan, look, before, job.before);
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
            detent_range_of_candidate(&plan, search_group(&plan, &filled, job->within), &min, &max);
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
        {(double)encoding->grid.qmin, (double)encoding->grid.qmax, (double)encoding->centre, encoding->symmetric},
        groups == 1 ? parallel : NULL};
    detent_run(parallel, groups, 1, search_groups, &job);
    return DETENT_OK;
}
