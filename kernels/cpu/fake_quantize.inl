/* fake_quantize.c for one real type: the loops, and the jobs handed to walk.h. */
DETENT_CLONES static void DETENT_REAL(uniform)(const real *restrict x, real *restrict y, size_t n, const real *scale,
                                               const real *zero_point, real qmin, real qmax)
{
    const real s = *scale, zp = *zero_point;
    for (size_t i = 0; i < n; ++i) y[i] = DETENT_REAL(detent_fake_quantize_one)(x[i], s, zp, qmin, qmax);
}

DETENT_CLONES static void DETENT_REAL(varying)(const real *restrict x, real *restrict y, size_t n,
                                               const real *restrict scale, const real *restrict zero_point, real qmin,
                                               real qmax)
{
    for (size_t i = 0; i < n; ++i)
        y[i] = DETENT_REAL(detent_fake_quantize_one)(x[i], scale[i], zero_point[i], qmin, qmax);
}

DETENT_CLONES static void DETENT_REAL(mask_uniform)(const real *restrict x, uint8_t *restrict inside, size_t n,
                                                    const real *scale, const real *zero_point, real qmin, real qmax)
{
    const real s = *scale, zp = *zero_point;
    for (size_t i = 0; i < n; ++i)
        inside[i] = (uint8_t)DETENT_REAL(detent_fake_quantize_mask_one)(x[i], s, zp, qmin, qmax);
}

DETENT_CLONES static void DETENT_REAL(mask_varying)(const real *restrict x, uint8_t *restrict inside, size_t n,
                                                    const real *restrict scale, const real *restrict zero_point,
                                                    real qmin, real qmax)
{
    for (size_t i = 0; i < n; ++i)
        inside[i] = (uint8_t)DETENT_REAL(detent_fake_quantize_mask_one)(x[i], scale[i], zero_point[i], qmin, qmax);
}

static void DETENT_REAL(fake_quantize)(const void *x, void *y, uint8_t *mask, detent_dtype dtype, detent_shape3 shape,
                                       const detent_encoding *encoding, detent_parallel_for parallel)
{
    const DETENT_REAL(detent_map) map = {
        .uniform = DETENT_REAL(uniform),
        .varying = DETENT_REAL(varying),
        .mask_uniform = DETENT_REAL(mask_uniform),
        .mask_varying = DETENT_REAL(mask_varying),
        .x = x,
        .y = y,
        .mask = mask,
        .x_dtype = dtype,
        .y_dtype = dtype,
        .shape = shape,
        .encoding = encoding,
    };
    DETENT_REAL(detent_map_run)(&map, parallel);
}

static inline __attribute__((always_inline)) void DETENT_REAL(terms)(const real *restrict g, const real *restrict x,
                                                                     real *restrict grad_x, real *restrict first,
                                                                     real *restrict second, size_t n, const real *scale,
                                                                     const real *zero_point, size_t stride, real qmin,
                                                                     real qmax)
{
    if (second == NULL)
        for (size_t i = 0; i < n; ++i) {
            const real s = scale[i * stride], zp = zero_point[i * stride];
            grad_x[i] = DETENT_REAL(detent_fake_quantize_bwd_x_one)(g[i], x[i], s, zp, qmin, qmax);
            first[i] = DETENT_REAL(detent_fake_quantize_bwd_scale_one)(g[i], x[i], s, zp, qmin, qmax);
        }
    else
        for (size_t i = 0; i < n; ++i) {
            const real s = scale[i * stride], zp = zero_point[i * stride];
            grad_x[i] = DETENT_REAL(detent_fake_quantize_bwd_x_one)(g[i], x[i], s, zp, qmin, qmax);
            first[i] = DETENT_REAL(detent_fake_quantize_bwd_scale_one)(g[i], x[i], s, zp, qmin, qmax);
            second[i] = DETENT_REAL(detent_fake_quantize_bwd_zero_point_one)(g[i], x[i], s, zp, qmin, qmax);
        }
}

DETENT_CLONES static void DETENT_REAL(terms_uniform)(const real *g, const real *x, real *grad_x, real *first,
                                                     real *second, size_t n, const real *scale, const real *zero_point,
                                                     real qmin, real qmax)
{
    const real s = *scale, zp = *zero_point;
    DETENT_REAL(terms)(g, x, grad_x, first, second, n, &s, &zp, 0, qmin, qmax);
}

DETENT_CLONES static void DETENT_REAL(terms_varying)(const real *g, const real *x, real *grad_x, real *first,
                                                     real *second, size_t n, const real *scale, const real *zero_point,
                                                     real qmin, real qmax)
{
    DETENT_REAL(terms)(g, x, grad_x, first, second, n, scale, zero_point, 1, qmin, qmax);
}

static void DETENT_REAL(fake_quantize_bwd)(const void *grad_y, const void *x, void *grad_x, void *grad_first,
                                           void *grad_second, detent_dtype dtype, detent_shape3 shape,
                                           const detent_encoding *encoding, double gradient_scale, void *workspace,
                                           detent_parallel_for parallel)
{
    const DETENT_REAL(detent_reduce) reduce = {
        .uniform = DETENT_REAL(terms_uniform),
        .varying = DETENT_REAL(terms_varying),
        .grad_y = grad_y,
        .x = x,
        .grad_x = grad_x,
        .grad_first = grad_first,
        .grad_second = grad_second,
        .grad_dtype = dtype,
        .x_dtype = dtype,
        .shape = shape,
        .encoding = encoding,
        .gradient_scale = gradient_scale,
        .with_second = encoding->scale != NULL ? grad_second != NULL : !encoding->symmetric,
        .partials = workspace,
    };
    DETENT_REAL(detent_reduce_run)(&reduce, parallel);
}

/* lo, hi as the observer left them: float32, or float64 where the data is. clip NULL means 1. */
static void DETENT_REAL(range_of_clipped)(const void *lo, const void *hi, detent_dtype dtype, const void *clip,
                                          size_t clip_count, void *min, void *max, size_t groups,
                                          const detent_encoding *encoding)
{
    const DETENT_REAL(detent_real_grid)
        grid = {(real)encoding->grid.qmin, (real)encoding->grid.qmax, (real)encoding->centre, encoding->symmetric};
    for (size_t g = 0; g < groups; ++g) {
        const real factor = clip == NULL ? 1 : ((const real *)clip)[clip_count == 1 ? 0 : g];
        const real low = dtype == DETENT_F64 ? (real)((const double *)lo)[g] : (real)((const float *)lo)[g];
        const real high = dtype == DETENT_F64 ? (real)((const double *)hi)[g] : (real)((const float *)hi)[g];
        DETENT_REAL(detent_range_of_observed)
        (DETENT_REAL(detent_clip_observed)(low, factor), DETENT_REAL(detent_clip_observed)(high, factor), grid,
         (real *)min + g, (real *)max + g);
    }
}
