/* Searching a histogram for the range that serves it best (detent/encode.h). Double throughout. */
#ifndef DETENT_MATH_SEARCH_H
#define DETENT_MATH_SEARCH_H

#include "detent/encode.h"

#include "encode.h"
#include "histogram.h"
#include "log.h"

#ifdef __CUDACC__
#define DETENT_VECTOR_LOOP
#else
#define DETENT_VECTOR_LOOP _Pragma("GCC unroll 1") /* unrolled, it is no longer vectorized */
#endif

/* The bins of one group that hold anything, in order; DETENT_SEARCH_LANES more, which repeat the last one and hold
 * nothing, so that loops need no end of their own. */
enum {
    DETENT_SEARCH_LANES = 8,
    DETENT_STEPS_AT_ONCE = 2 * DETENT_SEARCH_LANES,
    DETENT_SEARCH_ROOM = DETENT_MOST_BINS + DETENT_SEARCH_LANES
};
typedef struct detent_filled_bins {
    const int32_t *bin;
    const double *below;         /* what all bins before hold; one more than bins */
    const double *weighed_below; /* the same of count * log(count); ENTROPY alone reads it */
    size_t n, bins;
    double width;
} detent_filled_bins;

typedef struct detent_candidate {
    double scale, zero_point;
} detent_candidate;

/* What all candidates of one group share. */
typedef struct detent_search_plan {
    detent_search search;
    detent_real_grid_f64 grid;
    double low, high; /* the full range */
    double widest;    /* D, of a symmetric grid */
} detent_search_plan;

enum { DETENT_CLIPS = 16, DETENT_SYMMETRIC_CLIPS = 32, DETENT_FINER = 8 };

static DETENT_HD double detent_bin_centre(const detent_filled_bins *filled, size_t i)
{
    return (filled->bin[i] - (double)(filled->bins / 2) + 0.5) * filled->width; /* exact */
}

static DETENT_HD double detent_bin_count(const detent_filled_bins *filled, size_t i)
{
    return filled->below[i + 1] - filled->below[i]; /* exact up to 2^53 values */
}

static DETENT_HD double detent_bin_weighed(const detent_filled_bins *filled, size_t i)
{
    return detent_bin_count(filled, i) * detent_log(detent_bin_count(filled, i));
}

static DETENT_HD double detent_search_steps(const detent_search_plan *plan)
{
    return plan->grid.qmax - plan->grid.qmin;
}

static DETENT_HD detent_search_plan detent_plan_search(detent_search search, detent_real_grid_f64 grid, double lo,
                                                       double hi)
{
    detent_search_plan plan = {search, grid, 0, 0, 0};
    const double above = grid.qmax - grid.centre, below = grid.centre - grid.qmin;
    const double even = fabs(above - below) == 1 ? (above + below) / 2 : 0;
    DETENT_F64_OF(detent_range_of_observed)(lo, hi, grid, &plan.low, &plan.high);
    const double low = lo < 0 ? lo : 0, high = hi > 0 ? hi : 0;
    const double by_high = above > 0 ? high / (even > 0 ? even : above) : 0;
    const double by_low = below > 0 ? -low / (even > 0 ? even : below) : 0;
    plan.widest = by_high > by_low ? by_high : by_low;
    return plan;
}

/* Whether the full range is the answer: nothing seen, or steps narrower than bins. */
static DETENT_HD int detent_search_is_idle(const detent_search_plan *plan, const detent_filled_bins *filled)
{
    return filled->n == 0 || !(plan->high - plan->low >= filled->width * detent_search_steps(plan));
}

static DETENT_HD double detent_no_narrower_than_floor(const detent_search_plan *plan, double scale)
{
    const double floor = DETENT_F64_OF(detent_scale_floor)(detent_search_steps(plan));
    return scale < floor ? floor : scale;
}

static DETENT_HD detent_candidate detent_candidate_of_range(const detent_search_plan *plan, double low, double high)
{
    const double scale = detent_no_narrower_than_floor(plan, (high - low) / detent_search_steps(plan));
    const detent_candidate candidate = {scale, DETENT_F64_OF(detent_zero_point_of_range)(low, scale, plan->grid)};
    return candidate;
}

static DETENT_HD detent_candidate detent_symmetric_candidate(const detent_search_plan *plan, double part)
{
    const detent_candidate candidate = {detent_no_narrower_than_floor(plan, plan->widest * part), plan->grid.centre};
    return candidate;
}

/* --- SQNR: scales times positions ------------------------------------------------------------------------------- */

static DETENT_HD size_t detent_sqnr_positions(const detent_search_plan *plan)
{
    const double steps = detent_search_steps(plan);
    return steps + 2 < plan->search.offsets ? (size_t)steps + 2 : (size_t)plan->search.offsets;
}

static DETENT_HD size_t detent_sqnr_count(const detent_search_plan *plan)
{
    return plan->grid.symmetric ? (size_t)plan->search.symmetric_deltas
                                : (size_t)plan->search.asymmetric_deltas * detent_sqnr_positions(plan);
}

static DETENT_HD detent_candidate detent_sqnr_candidate(const detent_search_plan *plan, size_t number)
{
    const double steps = detent_search_steps(plan);
    const size_t index = detent_sqnr_count(plan) - 1 - number; /* the widest come first */
    if (plan->grid.symmetric)
        return detent_symmetric_candidate(plan, (double)(index + 1) / (plan->search.symmetric_deltas - 1));
    const size_t positions = detent_sqnr_positions(plan), position = index % positions;
    const double full = (plan->high - plan->low) / steps, first = rint(plan->low / full);
    const double scale = full * (double)(index / positions + 1) / (plan->search.asymmetric_deltas - 1);
    /* positions - 1 of them from -steps to 0, and the one that is the full range's. */
    const double code =
        position + 1 == positions ? first : rint(steps * ((double)position / (double)(positions - 2) - 1));
    const double low = scale * code, high = scale * (code + steps);
    const double observed_low = full * first, observed_high = full * (first + steps);
    return detent_candidate_of_range(plan, low > observed_low ? low : observed_low,
                                     high < observed_high ? high : observed_high);
}

/* --- MSE and ENTROPY: parts of the full range -------------------------------------------------------------------- */

static DETENT_HD size_t detent_clip_count(const detent_search_plan *plan, int finer)
{
    const size_t along = finer ? 2 * DETENT_FINER - 1 : DETENT_CLIPS + 1;
    if (plan->grid.symmetric) return finer ? along : (size_t)DETENT_SYMMETRIC_CLIPS;
    return (plan->low < 0 ? along : 1) * (plan->high > 0 ? along : 1);
}

/* The widest part comes first. `around` is the first look's best, where finer. */
static DETENT_HD double detent_clip_part(size_t index, int finer, size_t around, size_t parts)
{
    const double part = finer ? (double)(parts - around) + ((double)DETENT_FINER - 1 - (double)index) / DETENT_FINER
                              : (double)(parts - index);
    return part < 0 ? 0 : part > (double)parts ? 1 : part / (double)parts;
}

static DETENT_HD detent_candidate detent_clip_candidate(const detent_search_plan *plan, int finer, size_t index,
                                                        size_t best)
{
    if (plan->grid.symmetric)
        return detent_symmetric_candidate(plan, detent_clip_part(index, finer, best, DETENT_SYMMETRIC_CLIPS));
    const size_t along = finer ? 2 * DETENT_FINER - 1 : DETENT_CLIPS + 1;
    const size_t highs = plan->high > 0 ? along : 1, best_highs = plan->high > 0 ? DETENT_CLIPS + 1 : 1;
    const double low = detent_clip_part(index / highs, finer, best / best_highs, DETENT_CLIPS);
    const double high = detent_clip_part(index % highs, finer, best % best_highs, DETENT_CLIPS);
    return detent_candidate_of_range(plan, plan->low * low, plan->high * high);
}

/* --- any method: looks, each of numbered candidates --------------------------------------------------------------- */

static DETENT_HD int detent_search_looks(const detent_search_plan *plan)
{
    return plan->search.method == DETENT_SQNR ? 1 : 2;
}

static DETENT_HD size_t detent_search_count(const detent_search_plan *plan, int look)
{
    return plan->search.method == DETENT_SQNR ? detent_sqnr_count(plan) : detent_clip_count(plan, look);
}

/* best is the number of the best candidate of the look before. */
static DETENT_HD detent_candidate detent_search_candidate(const detent_search_plan *plan, int look, size_t index,
                                                          size_t best)
{
    return plan->search.method == DETENT_SQNR ? detent_sqnr_candidate(plan, index)
                                              : detent_clip_candidate(plan, look, index, best);
}

/* --- what a candidate costs --------------------------------------------------------------------------------------
 *
 * Or anything above `least`, as soon as it is known to be above: most candidates clip far too much, and their first
 * bins say so. */

static DETENT_HD double detent_code_of_bin(const detent_filled_bins *filled, detent_candidate candidate, size_t i)
{
    return rint(detent_bin_centre(filled, i) / candidate.scale) + candidate.zero_point;
}

static DETENT_HD double detent_sum_of_lanes(const double *lanes)
{
    double sum[DETENT_SEARCH_LANES];
    for (size_t lane = 0; lane < DETENT_SEARCH_LANES; ++lane) sum[lane] = lanes[lane];
    for (size_t half = DETENT_SEARCH_LANES / 2; half > 0; half /= 2)
        for (size_t lane = 0; lane < half; ++lane) sum[lane] += sum[lane + half];
    return sum[0];
}

/* A sum of what is not negative never falls, rounded or not, so it may be given up half way. */
static DETENT_HD double detent_squared_error(const detent_search_plan *plan, const detent_filled_bins *filled,
                                             detent_candidate candidate, double least)
{
    enum { BETWEEN_LOOKS = 8 * DETENT_SEARCH_LANES };
    const double gamma = plan->search.method == DETENT_SQNR ? plan->search.gamma : 1;
    const double qmin = plan->grid.qmin, qmax = plan->grid.qmax;
    const double scale = candidate.scale, zero_point = candidate.zero_point;
    const detent_filled_bins held = *filled;
    double sum[DETENT_SEARCH_LANES] = {0};
    for (size_t begin = 0; begin < held.n && !(detent_sum_of_lanes(sum) > least); begin += BETWEEN_LOOKS) {
        const size_t end = held.n - begin < BETWEEN_LOOKS ? held.n : begin + BETWEEN_LOOKS;
        for (size_t i = begin; i < end; i += DETENT_SEARCH_LANES) {
            DETENT_VECTOR_LOOP
            for (size_t lane = 0; lane < DETENT_SEARCH_LANES; ++lane) {
                const double centre = detent_bin_centre(&held, i + lane);
                const double code = rint(centre / scale) + zero_point;
                const double kept = DETENT_F64_OF(detent_clamp)(code, qmin, qmax);
                const double error = (kept - zero_point) * scale - centre;
                const double weight = kept == code ? 1.0 : gamma;
                sum[lane] += detent_bin_count(&held, i + lane) * (error * error) * weight;
            }
        }
    }
    return detent_sum_of_lanes(sum);
}

/* How many bins have a code below this one. */
static DETENT_HD size_t detent_bins_below(const detent_filled_bins *filled, detent_candidate candidate, double code)
{
    size_t first = 0;
    for (size_t left = filled->n; left > 0;) {
        const size_t half = left / 2;
        const int below = detent_code_of_bin(filled, candidate, first + half) < code;
        first += below ? half + 1 : 0;
        left = below ? left - half - 1 : half;
    }
    return first;
}

/* What the steps between neighbouring bounds lose: sum of p log(p / q) over the bins of each, whose q are all the same.
 */
static DETENT_HD void detent_add_steps(const detent_filled_bins *filled, const int32_t *bound, double *sum)
{
    double count[DETENT_STEPS_AT_ONCE], weighed[DETENT_STEPS_AT_ONCE], bins[DETENT_STEPS_AT_ONCE];
    for (size_t lane = 0; lane < DETENT_STEPS_AT_ONCE; ++lane) {
        const int32_t begin = bound[lane], end = bound[lane + 1];
        count[lane] = filled->below[end] - filled->below[begin];
        weighed[lane] = filled->weighed_below[end] - filled->weighed_below[begin];
        bins[lane] = end > begin ? (double)(end - begin) : 1;
    }
    DETENT_VECTOR_LOOP
    for (size_t lane = 0; lane < DETENT_STEPS_AT_ONCE; ++lane)
        sum[lane] += weighed[lane] - count[lane] * detent_log(count[lane] / bins[lane]);
}

/* The same over all steps of the bins from begin to end. */
static DETENT_HD double detent_loss_of_steps(const detent_filled_bins *filled, detent_candidate candidate, size_t begin,
                                             size_t end)
{
    int32_t bound[DETENT_STEPS_AT_ONCE + DETENT_SEARCH_LANES + 1];
    size_t bounds = 0;
    double sum[DETENT_STEPS_AT_ONCE] = {0}, before = -(double)INFINITY;
    for (size_t i = begin; i < end; i += DETENT_SEARCH_LANES) {
        double code[DETENT_SEARCH_LANES];
        DETENT_VECTOR_LOOP
        for (size_t lane = 0; lane < DETENT_SEARCH_LANES; ++lane)
            code[lane] = detent_code_of_bin(filled, candidate, i + lane);
        for (size_t lane = 0; lane < DETENT_SEARCH_LANES; ++lane) { /* no branch: nobody can foresee where steps end */
            bound[bounds] = (int32_t)(i + lane);
            bounds += code[lane] != before;
            before = code[lane];
        }
        while (bound[bounds - 1] >= (int32_t)end) --bounds;
        if (bounds > DETENT_STEPS_AT_ONCE) {
            detent_add_steps(filled, bound, sum);
            bounds -= DETENT_STEPS_AT_ONCE;
            for (size_t k = 0; k < bounds; ++k) bound[k] = bound[k + DETENT_STEPS_AT_ONCE];
        }
    }
    for (; bounds <= DETENT_STEPS_AT_ONCE; ++bounds) bound[bounds] = (int32_t)end; /* steps of nothing lose nothing */
    detent_add_steps(filled, bound, sum);
    return detent_sum_of_lanes(sum) + detent_sum_of_lanes(sum + DETENT_SEARCH_LANES);
}

/* P is the histogram with what is clipped moved into the outermost bins kept, Q the quantized one; P adds up to
 * `total`, Q to `kept`. Divergence never grows when bins are joined, so that of three cells (the outermost bins, the
 * others) tells beforehand which candidates are none. */
static DETENT_HD double detent_divergence(const detent_search_plan *plan, const detent_filled_bins *filled,
                                          detent_candidate candidate, double least)
{
    const double *const below = filled->below;
    if (candidate.scale < filled->width) return (double)INFINITY;
    const size_t begin = detent_bins_below(filled, candidate, plan->grid.qmin);
    const size_t end = detent_bins_below(filled, candidate, plan->grid.qmax + 1);
    if (begin == end) return (double)INFINITY;
    const size_t last = end - 1;
    const double total = below[filled->n], kept = below[end] - below[begin];
    const double under = below[begin], over = total - below[end];
    const double first_code = detent_code_of_bin(filled, candidate, begin);
    const double last_code = detent_code_of_bin(filled, candidate, last);
    size_t first_end = begin + 1, last_begin = last;
    while (first_end < end && detent_code_of_bin(filled, candidate, first_end) == first_code) ++first_end;
    while (last_begin > begin && detent_code_of_bin(filled, candidate, last_begin - 1) == last_code) --last_begin;
    const double q_first = (below[first_end] - below[begin]) / (double)(int32_t)(first_end - begin);
    const double q_last = (below[end] - below[last_begin]) / (double)(int32_t)(end - last_begin);
    const double p_first = detent_bin_count(filled, begin) + under + (begin == last ? over : 0);
    const double p_last = begin == last ? 0 : detent_bin_count(filled, last) + over;
    const double p_others = total - p_first - p_last, q_others = kept - q_first - (begin == last ? 0 : q_last);
    const double of_totals = detent_log(kept / total);
    const double bound = (p_first * detent_log(p_first / q_first) + p_last * detent_log(p_last / q_last) +
                          (p_others > 0 ? p_others * detent_log(p_others / q_others) : 0)) /
                             total +
                         of_totals;
    if (bound > least + 1e-9) return bound;
    /* The bins kept as they are, then what the clipped counts change. */
    const double joined_first =
        p_first * detent_log(p_first) - detent_bin_weighed(filled, begin) - under * detent_log(q_first);
    const double joined_last = (begin == last ? 0 : p_last * detent_log(p_last) - detent_bin_weighed(filled, last)) -
                               over * detent_log(q_last);
    return (detent_loss_of_steps(filled, candidate, begin, end) + joined_first + joined_last) / total + of_totals;
}

static DETENT_HD double detent_search_cost(const detent_search_plan *plan, const detent_filled_bins *filled,
                                           detent_candidate candidate, double least)
{
    return plan->search.method == DETENT_ENTROPY ? detent_divergence(plan, filled, candidate, least)
                                                 : detent_squared_error(plan, filled, candidate, least);
}

/* --- PERCENTILE -------------------------------------------------------------------------------------------------- */

/* The value that `percentile` percent of a group's total lie below; with `mirrored` above. */
static DETENT_HD double detent_percentile_of(const detent_filled_bins *filled, double percentile, int mirrored)
{
    double sum = 0;
    const double target = filled->below[filled->n] * percentile / 100;
    for (size_t k = 0; k < filled->n; ++k) {
        const size_t i = mirrored ? filled->n - 1 - k : k;
        const double count = detent_bin_count(filled, i);
        if (sum + count >= target || k + 1 == filled->n) {
            const double centre = detent_bin_centre(filled, i);
            const double beyond = ((target - sum) / count - 0.5) * filled->width;
            return mirrored ? centre - beyond : centre + beyond;
        }
        sum += count;
    }
    return 0;
}

static DETENT_HD void detent_percentile_range(const detent_filled_bins *filled, double percentile, double *lo,
                                              double *hi)
{
    const double high = detent_percentile_of(filled, percentile, 0);
    const double low = detent_percentile_of(filled, percentile, 1);
    if (filled->n == 0 || percentile >= 100) return;
    *hi = high < *hi ? high : *hi;
    *lo = low > *lo ? low : *lo;
}

static DETENT_HD void detent_range_of_candidate(const detent_search_plan *plan, detent_candidate candidate, double *min,
                                                double *max)
{
    *min = (plan->grid.qmin - candidate.zero_point) * candidate.scale;
    *max = (plan->grid.qmax - candidate.zero_point) * candidate.scale;
}

#endif
