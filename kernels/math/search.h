/* Searching a histogram for the range that serves it best (detent/encode.h). Double throughout. */
#ifndef DETENT_MATH_SEARCH_H
#define DETENT_MATH_SEARCH_H

#include "detent/encode.h"

#include "encode.h"
#include "histogram.h"

#ifdef __CUDACC__
#define DETENT_VECTOR_LOOP
#else
#define DETENT_VECTOR_LOOP _Pragma("GCC unroll 1") /* unrolled, it is no longer vectorized */
#endif

/* The bins of one group that hold anything, in order; padded with empty ones to whole runs of DETENT_SEARCH_LANES. */
enum { DETENT_SEARCH_LANES = 8 };
typedef struct detent_filled_bins {
    const int32_t *bin;
    const double *count;
    const double *weighed; /* count * log(count); ENTROPY alone reads it */
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

enum { DETENT_CLIPS = 16, DETENT_SYMMETRIC_CLIPS = 128, DETENT_FINER = 8 };

static DETENT_HD double detent_bin_centre(int32_t bin, size_t bins, double width)
{
    return (bin - (double)(bins / 2) + 0.5) * width;
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

static DETENT_HD detent_candidate detent_sqnr_candidate(const detent_search_plan *plan, size_t index)
{
    const double steps = detent_search_steps(plan);
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

/* --- what a candidate costs -------------------------------------------------------------------------------------- */

static DETENT_HD double detent_squared_error(const detent_search_plan *plan, const detent_filled_bins *filled,
                                             detent_candidate candidate)
{
    const double gamma = plan->search.method == DETENT_SQNR ? plan->search.gamma : 1;
    const double qmin = plan->grid.qmin, qmax = plan->grid.qmax;
    const double scale = candidate.scale, zero_point = candidate.zero_point;
    const int32_t *const bins = filled->bin;
    const double *const counts = filled->count;
    const double first = detent_bin_centre(0, filled->bins, filled->width), width = filled->width;
    double sum[DETENT_SEARCH_LANES] = {0};
    for (size_t i = 0; i < filled->n; i += DETENT_SEARCH_LANES) {
        DETENT_VECTOR_LOOP
        for (size_t lane = 0; lane < DETENT_SEARCH_LANES; ++lane) {
            const double centre = first + (double)bins[i + lane] * width; /* exact */
            const double code = rint(centre / scale) + zero_point;
            const double kept = DETENT_F64_OF(detent_clamp)(code, qmin, qmax);
            const double error = (kept - zero_point) * scale - centre;
            const double weight = kept == code ? 1.0 : gamma;
            sum[lane] += counts[i + lane] * (error * error) * weight;
        }
    }
    for (size_t half = DETENT_SEARCH_LANES / 2; half > 0; half /= 2)
        for (size_t lane = 0; lane < half; ++lane) sum[lane] += sum[lane + half];
    return sum[0];
}

/* P is the histogram with what is clipped moved into the outermost bins kept, Q the quantized one. Sums of P log P and
 * P log Q over the bins, step by step of the grid. */
static DETENT_HD double detent_divergence(const detent_search_plan *plan, const detent_filled_bins *filled,
                                          detent_candidate candidate)
{
    double under = 0, over = 0, kept = 0, p_log_p = 0, p_log_q = 0;
    double step = 0, in_step = 0, bins_of_step = 0; /* the step at hand */
    double in_first = 0, bins_of_first = 0;         /* the first step */
    size_t first = 0, last = 0;                     /* the outermost bins kept */
    int steps = 0;
    if (candidate.scale < filled->width) return (double)INFINITY;
    for (size_t i = 0; i < filled->n; ++i) {
        const double centre = detent_bin_centre(filled->bin[i], filled->bins, filled->width);
        const double code = rint(centre / candidate.scale) + candidate.zero_point;
        if (code < plan->grid.qmin) {
            under += filled->count[i];
        } else if (code > plan->grid.qmax) {
            over += filled->count[i];
        } else {
            if (steps == 0 || code != step) {
                if (steps == 0) first = i;
                /* A step of one bin is as that bin is, and most are. */
                p_log_q += bins_of_step > 1 ? in_step * log(in_step / bins_of_step)
                           : steps > 0      ? filled->weighed[last]
                                            : 0;
                ++steps;
                step = code;
                in_step = bins_of_step = 0;
            }
            in_step += filled->count[i];
            bins_of_step += 1;
            if (steps == 1) {
                in_first = in_step;
                bins_of_first = bins_of_step;
            }
            kept += filled->count[i];
            p_log_p += filled->weighed[i];
            last = i;
        }
    }
    if (steps == 0) return (double)INFINITY;
    p_log_q += bins_of_step > 1 ? in_step * log(in_step / bins_of_step) : filled->weighed[last];
    if (under > 0) {
        const double joined = filled->count[first] + under + (first == last ? over : 0);
        p_log_q += under * log(in_first / bins_of_first);
        p_log_p += joined * log(joined) - filled->weighed[first];
    }
    if (over > 0) {
        const double joined = filled->count[last] + over;
        p_log_q += over * log(in_step / bins_of_step);
        if (first != last || under == 0) p_log_p += joined * log(joined) - filled->weighed[last];
    }
    const double total = kept + under + over;
    return (p_log_p - p_log_q) / total - log(total) + log(kept);
}

static DETENT_HD double detent_search_cost(const detent_search_plan *plan, const detent_filled_bins *filled,
                                           detent_candidate candidate)
{
    return plan->search.method == DETENT_ENTROPY ? detent_divergence(plan, filled, candidate)
                                                 : detent_squared_error(plan, filled, candidate);
}

/* --- PERCENTILE -------------------------------------------------------------------------------------------------- */

/* The value that `percentile` percent of a group's total lie below; with `mirrored` above. */
static DETENT_HD double detent_percentile_of(const detent_filled_bins *filled, double percentile, int mirrored)
{
    double total = 0, sum = 0;
    for (size_t i = 0; i < filled->n; ++i) total += filled->count[i];
    const double target = total * percentile / 100;
    for (size_t k = 0; k < filled->n; ++k) {
        const size_t i = mirrored ? filled->n - 1 - k : k;
        const double count = filled->count[i];
        if (sum + count >= target || k + 1 == filled->n) {
            const double centre = detent_bin_centre(filled->bin[i], filled->bins, filled->width);
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
