/* limit is half the largest number of the observed type. False for NaN and for +-inf. */
static DETENT_HD int DETENT_REAL(detent_observe_counts)(real x, real limit)
{
    return DETENT_FABS(x) < limit;
}

static DETENT_HD real DETENT_REAL(detent_smaller)(real a, real b)
{
    return b < a ? b : a;
}

static DETENT_HD real DETENT_REAL(detent_larger)(real a, real b)
{
    return b > a ? b : a;
}

/* held is what the observer knew, fresh what one batch showed; +-inf means nothing seen. */
static DETENT_HD real DETENT_REAL(detent_moving_average)(real held, real fresh, real momentum)
{
    if (!(DETENT_FABS(fresh) < (real)INFINITY)) return held;
    if (!(DETENT_FABS(held) < (real)INFINITY)) return fresh;
    return held + momentum * (fresh - held);
}

/* The bin of x, `bins` for what does not count; inverse is 1 / width. By magnitude, so that a product too small for the
 * type still leaves x on its side of 0. */
static DETENT_HD int32_t DETENT_REAL(detent_bin_of)(real x, real limit, real inverse, int32_t half)
{
    const int counts = DETENT_REAL(detent_observe_counts)(x, limit);
    const int32_t step = (int32_t)(counts ? DETENT_FABS(x) * inverse : (real)0);
    return !counts ? 2 * half : x < 0 ? half - 1 - step : half + step;
}
