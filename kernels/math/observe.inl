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
