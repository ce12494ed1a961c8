/* The grid as reals, and how a range parametrization reads it. */
typedef struct DETENT_REAL_TYPE(detent_real_grid) {
    real qmin, qmax, centre;
    int symmetric;
} DETENT_REAL_TYPE(detent_real_grid);

#ifndef __cplusplus
static DETENT_HD DETENT_REAL_TYPE(detent_real_grid) DETENT_REAL(detent_real_grid_of)(const detent_encoding *encoding)
{
    return (DETENT_REAL_TYPE(detent_real_grid)){(real)encoding->grid.qmin, (real)encoding->grid.qmax,
                                                (real)encoding->centre, encoding->symmetric};
}
#endif

/* The smallest scale a range may give: below it a collapsed range would divide by nothing. */
static DETENT_HD real DETENT_REAL(detent_scale_floor)(real steps)
{
    const real by_steps = (real)0.01 / steps;
    return by_steps < (real)1.1920929e-7f ? by_steps : (real)1.1920929e-7f;
}

/* |scale|, at least the floor; NaN stays NaN. */
static DETENT_HD real DETENT_REAL(detent_usable_scale)(real scale, DETENT_REAL_TYPE(detent_real_grid) grid)
{
    const real size = DETENT_FABS(scale), floor = DETENT_REAL(detent_scale_floor)(grid.qmax - grid.qmin);
    return size < floor ? floor : size;
}

/* Its slope, also at the floor and at 0, so that a collapsed scale can recover. */
static DETENT_HD real DETENT_REAL(detent_usable_scale_slope)(real scale)
{
    return scale < 0 ? -1 : (real)1;
}

static DETENT_HD real DETENT_REAL(detent_scale_of_range)(real min, real max, DETENT_REAL_TYPE(detent_real_grid) grid)
{
    return DETENT_REAL(detent_usable_scale)((max - min) / (grid.qmax - grid.qmin), grid);
}

/* Before the clamp to the grid; the chain rule must know whether that clamp acts. */
static DETENT_HD real DETENT_REAL(detent_free_zero_point)(real min, real scale, DETENT_REAL_TYPE(detent_real_grid) grid)
{
    return grid.qmin - DETENT_RINT(min / scale);
}

static DETENT_HD real DETENT_REAL(detent_zero_point_of_range)(real min, real scale,
                                                              DETENT_REAL_TYPE(detent_real_grid) grid)
{
    return grid.symmetric
               ? grid.centre
               : DETENT_REAL(detent_clamp)(DETENT_REAL(detent_free_zero_point)(min, scale, grid), grid.qmin, grid.qmax);
}

/* d scale / d max = sign / N, and the opposite for min, with sign = +1 at 0. The floor lets grad_scale through
 * unchanged, so that a collapsed range can recover. rint is the identity; where the zero_point is clamped it does not
 * move. */
static DETENT_HD void DETENT_REAL(detent_range_bwd)(double grad_scale, double grad_zero_point, real min, real max,
                                                    DETENT_REAL_TYPE(detent_real_grid) grid, double *grad_min,
                                                    double *grad_max)
{
    const real scale = DETENT_REAL(detent_scale_of_range)(min, max, grid);
    const real free = DETENT_REAL(detent_free_zero_point)(min, scale, grid);
    const int moves = !grid.symmetric & (free >= grid.qmin) & (free <= grid.qmax);
    const double slope = (max - min >= 0 ? 1.0 : -1.0) / ((double)grid.qmax - (double)grid.qmin);
    const double s = (double)scale;
    const double through_scale = grad_scale + (moves ? grad_zero_point * (double)min / (s * s) : 0.0);

    *grad_max = through_scale * slope;
    *grad_min = -through_scale * slope - (moves ? grad_zero_point / s : 0.0);
}

/* The range of observed values lo, hi (detent/encode.h). lo = +inf, hi = -inf, the mark of nothing observed, acts as 0,
 * 0. */
static DETENT_HD void DETENT_REAL(detent_range_of_observed)(real lo, real hi, DETENT_REAL_TYPE(detent_real_grid) grid,
                                                            real *min, real *max)
{
    const real steps = grid.qmax - grid.qmin;
    const real above = grid.qmax - grid.centre, below = grid.centre - grid.qmin;
    const real floor = DETENT_REAL(detent_scale_floor)(steps);
    real low = lo < 0 ? lo : 0, high = hi > 0 ? hi : 0;

    if ((high - low) / steps < floor) {
        high += (grid.symmetric ? above : steps) * floor;
        low -= grid.symmetric ? below * floor : 0;
    }
    if (grid.symmetric) {
        /* On the signed 2-bit grid -2 .. 1 the top would cost half of all levels: let it clip instead. */
        const real top = above == 1 && below == 2 ? 2 : above;
        const real delta_above = above > 0 ? high / top : 0, delta_below = below > 0 ? -low / below : 0;
        const real delta = delta_above > delta_below ? delta_above : delta_below;
        low = -below * delta;
        high = above * delta;
    }
    *min = low;
    *max = high;
}

/* A statistic times the factor a calibration scheme chose; 0 stays 0 and the mark of nothing observed stays itself. */
static DETENT_HD real DETENT_REAL(detent_clip_observed)(real observed, real clip)
{
    return observed * clip;
}
