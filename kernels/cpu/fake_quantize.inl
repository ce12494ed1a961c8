/* fake_quantize.c for one real type: the loops, and the jobs handed to walk.h. */
DETENT_DEFINE_MAP(values, DETENT_AS_GIVEN, DETENT_REAL(detent_fake_quantize_one))
DETENT_DEFINE_MAP(activated_values, DETENT_REAL(detent_activate_one), DETENT_REAL(detent_fake_quantize_one))
DETENT_DEFINE_MASKED_MAP(masked, DETENT_AS_GIVEN, DETENT_ALWAYS, DETENT_REAL(detent_fake_quantize_one),
                         DETENT_REAL(detent_fake_quantize_mask_one))
DETENT_DEFINE_MASKED_MAP(activated_masked, DETENT_REAL(detent_activate_one), DETENT_REAL(detent_activation_passes),
                         DETENT_REAL(detent_fake_quantize_one), DETENT_REAL(detent_fake_quantize_mask_one))
DETENT_DEFINE_TERMS(bwd, DETENT_AS_GIVEN, DETENT_AS_MADE, DETENT_REAL(detent_fake_quantize_bwd_x_one),
                    DETENT_REAL(detent_fake_quantize_bwd_scale_one),
                    DETENT_REAL(detent_fake_quantize_bwd_zero_point_one))
DETENT_DEFINE_TERMS(activated_bwd, DETENT_REAL(detent_activate_one), DETENT_REAL(detent_activation_bwd_one),
                    DETENT_REAL(detent_fake_quantize_bwd_x_one), DETENT_REAL(detent_fake_quantize_bwd_scale_one),
                    DETENT_REAL(detent_fake_quantize_bwd_zero_point_one))

/* Nothing reads it where there is no activation. */
static DETENT_REAL(detent_interval) DETENT_REAL(interval_of)(const detent_activation *activation, detent_dtype dtype)
{
    if (activation == NULL) return (DETENT_REAL(detent_interval)){0, 0};
    return (DETENT_REAL(detent_interval)){(real)detent_stored(activation->min, dtype),
                                          (real)detent_stored(activation->max, dtype)};
}

DETENT_REAL(detent_map)
DETENT_REAL(detent_fake_quantize_map)
(const void *x, void *y, uint8_t *mask, detent_dtype dtype, detent_shape3 shape, const detent_encoding *encoding,
 const detent_activation *activation)
{
    const int plain = activation == NULL;
    return (DETENT_REAL(detent_map)){
        .rows = plain ? DETENT_REAL(values_rows) : DETENT_REAL(activated_values_rows),
        .varying = plain ? DETENT_REAL(values_varying) : DETENT_REAL(activated_values_varying),
        .masked_rows = plain ? DETENT_REAL(masked_rows) : DETENT_REAL(activated_masked_rows),
        .masked_varying = plain ? DETENT_REAL(masked_varying) : DETENT_REAL(activated_masked_varying),
        .x = x,
        .y = y,
        .mask = mask,
        .x_dtype = dtype,
        .y_dtype = dtype,
        .shape = shape,
        .encoding = encoding,
        .grid = DETENT_REAL(detent_real_grid_of)(encoding),
        .activation = DETENT_REAL(interval_of)(activation, dtype),
    };
}

DETENT_REAL(detent_reduce)
DETENT_REAL(detent_fake_quantize_reduce)
(const void *grad_y, const void *x, void *grad_x, void *grad_first, void *grad_second, detent_dtype dtype,
 detent_shape3 shape, const detent_encoding *encoding, const detent_activation *activation, double gradient_scale,
 void *workspace)
{
    const int plain = activation == NULL;
    return (DETENT_REAL(detent_reduce)){
        .rows = plain ? DETENT_REAL(bwd_rows) : DETENT_REAL(activated_bwd_rows),
        .varying = plain ? DETENT_REAL(bwd_varying) : DETENT_REAL(activated_bwd_varying),
        .grad_y = grad_y,
        .x = x,
        .grad_x = grad_x,
        .grad_first = grad_first,
        .grad_second = grad_second,
        .grad_dtype = dtype,
        .x_dtype = dtype,
        .shape = shape,
        .encoding = encoding,
        .activation = DETENT_REAL(interval_of)(activation, dtype),
        .gradient_scale = gradient_scale,
        .with_second = encoding->scale != NULL ? grad_second != NULL : !encoding->symmetric,
        .partials = workspace,
    };
}

void DETENT_REAL(detent_range_of_clipped)(const void *lo, const void *hi, detent_dtype dtype, const void *clip,
                                          size_t clip_count, void *min, void *max, size_t groups,
                                          const detent_encoding *encoding)
{
    const DETENT_REAL(detent_real_grid) grid = DETENT_REAL(detent_real_grid_of)(encoding);
    for (size_t g = 0; g < groups; ++g) {
        const real factor = clip == NULL ? 1 : ((const real *)clip)[clip_count == 1 ? 0 : g];
        const real low = dtype == DETENT_F64 ? (real)((const double *)lo)[g] : (real)((const float *)lo)[g];
        const real high = dtype == DETENT_F64 ? (real)((const double *)hi)[g] : (real)((const float *)hi)[g];
        DETENT_REAL(detent_range_of_observed)
        (DETENT_REAL(detent_clip_observed)(low, factor), DETENT_REAL(detent_clip_observed)(high, factor), grid,
         (real *)min + g, (real *)max + g);
    }
}
