/* float_cast.c for one real type. */
DETENT_DEFINE_MAP(values, DETENT_AS_GIVEN, DETENT_REAL(detent_float_cast_one))
DETENT_DEFINE_MASKED_MAP(masked, DETENT_AS_GIVEN, DETENT_ALWAYS, DETENT_REAL(detent_float_cast_one),
                         DETENT_REAL(detent_float_cast_mask_one))

static void DETENT_REAL(float_cast)(const void *x, void *y, uint8_t *mask, detent_dtype dtype, detent_shape3 shape,
                                    const void *scale, detent_float_format format, detent_parallel_for parallel)
{
    const detent_encoding scaled = {.scale = scale};
    const DETENT_REAL(detent_map) map = {
        .rows = DETENT_REAL(values_rows),
        .varying = DETENT_REAL(values_varying),
        .masked_rows = DETENT_REAL(masked_rows),
        .masked_varying = DETENT_REAL(masked_varying),
        .x = x,
        .y = y,
        .mask = mask,
        .x_dtype = dtype,
        .y_dtype = dtype,
        .shape = shape,
        .encoding = &scaled,
        .grid = {(real)ldexp(1.0, format.min_exponent), (real)format.max, 0, 0},
        .absent = (real)ldexp(1.0, -format.mantissa_bits),
    };
    DETENT_REAL(detent_map_run)(&map, parallel);
}
