/* Where the bins of a histogram lie, and how they join when they widen (detent/observe.h). */
#ifndef DETENT_MATH_HISTOGRAM_H
#define DETENT_MATH_HISTOGRAM_H

#include "detent/observe.h"

#include "observe.h"

/* The smallest exponent of a width: its inverse is still a float. */
enum { DETENT_LOWEST_EXPONENT = -126 };

/* e of the width 2^e after [min, max] was seen; the lowest where nothing was. */
static DETENT_HD int32_t detent_histogram_exponent(double min, double max, size_t bins)
{
    const double most = fabs(min) > fabs(max) ? fabs(min) : fabs(max);
    if (!(most > 0 && most < (double)INFINITY)) return DETENT_LOWEST_EXPONENT;
    const int32_t exponent = ilogb(most) + 2 - ilogb((double)bins);
    return exponent > DETENT_LOWEST_EXPONENT ? exponent : DETENT_LOWEST_EXPONENT;
}

/* The count of one bin after the width doubled `shift` times. */
static DETENT_HD int64_t detent_widened_count(const int64_t *counts, size_t bins, int32_t shift, size_t bin)
{
    const size_t half = bins / 2;
    const size_t step = bin < half ? half - 1 - bin : bin - half;
    int64_t total = 0;
    if (shift > 16) shift = 16; /* by then all of a side is in its first bin */
    for (size_t from = step << shift; from < (step + 1) << shift && from < half; ++from)
        total += counts[bin < half ? half - 1 - from : half + from];
    return total;
}

#endif
