/* encode.c for one real type. */
static void DETENT_REAL(min_max)(const real *lo, const real *hi, real *min, real *max, size_t n,
                                 const detent_encoding *encoding)
{
    const DETENT_REAL(detent_real_grid) grid = DETENT_REAL(detent_real_grid_of)(encoding);
    for (size_t i = 0; i < n; ++i) DETENT_REAL(detent_range_of_observed)(lo[i], hi[i], grid, &min[i], &max[i]);
}

static void DETENT_REAL(trained)(const real *scale, const real *zero_point, real *usable_scale, real *usable_zero_point,
                                 size_t n, const detent_encoding *encoding)
{
    const DETENT_REAL(detent_real_grid) grid = DETENT_REAL(detent_real_grid_of)(encoding);
    for (size_t i = 0; i < n; ++i) {
        usable_scale[i] = DETENT_REAL(detent_usable_scale)(scale[i], grid);
        usable_zero_point[i] = DETENT_REAL(detent_clamp)(zero_point[i], grid.qmin, grid.qmax);
    }
}

static void DETENT_REAL(affine)(const real *min, const real *max, real *scale, real *zero_point, size_t n,
                                const detent_encoding *encoding)
{
    const DETENT_REAL(detent_real_grid) grid = DETENT_REAL(detent_real_grid_of)(encoding);
    for (size_t i = 0; i < n; ++i) {
        const real low = min[i], step = DETENT_REAL(detent_scale_of_range)(low, max[i], grid);
        scale[i] = step;
        zero_point[i] = DETENT_REAL(detent_zero_point_of_range)(low, step, grid);
    }
}
