/* quantize.c for one real type: the loops, and the jobs handed to walk.h. */
static DETENT_HD real DETENT_REAL(integer_one)(real x, real scale, real zero_point, real qmin, real qmax)
{
    return DETENT_REAL(detent_integer_code_one)(DETENT_REAL(detent_quantize_one)(x, scale, zero_point, qmin, qmax),
                                                zero_point, qmin, qmax);
}
static DETENT_HD real DETENT_REAL(value_one)(real q, real scale, real zero_point, real qmin, real qmax)
{
    (void)qmin, (void)qmax;
    return DETENT_REAL(detent_dequantize_one)(q, scale, zero_point);
}
static DETENT_HD real DETENT_REAL(value_bwd_q_one)(real g, real q, real scale, real zero_point, real qmin, real qmax)
{
    (void)q, (void)zero_point, (void)qmin, (void)qmax;
    return DETENT_REAL(detent_dequantize_bwd_q_one)(g, scale);
}
static DETENT_HD real DETENT_REAL(value_bwd_scale_one)(real g, real q, real scale, real zero_point, real qmin,
                                                       real qmax)
{
    (void)scale, (void)qmin, (void)qmax;
    return DETENT_REAL(detent_dequantize_bwd_scale_one)(g, q, zero_point);
}
static DETENT_HD real DETENT_REAL(value_bwd_zero_point_one)(real g, real q, real scale, real zero_point, real qmin,
                                                            real qmax)
{
    (void)q, (void)zero_point, (void)qmin, (void)qmax;
    return DETENT_REAL(detent_dequantize_bwd_zero_point_one)(g, scale);
}

DETENT_DEFINE_MAP(float_codes, DETENT_AS_GIVEN, DETENT_REAL(detent_quantize_one))
DETENT_DEFINE_MAP(integer_codes, DETENT_AS_GIVEN, DETENT_REAL(integer_one))
DETENT_DEFINE_MAP(values, DETENT_AS_GIVEN, DETENT_REAL(value_one))
DETENT_DEFINE_TERMS(codes_bwd, DETENT_AS_GIVEN, DETENT_AS_MADE, DETENT_REAL(detent_quantize_bwd_x_one),
                    DETENT_REAL(detent_quantize_bwd_scale_one), DETENT_REAL(detent_quantize_bwd_zero_point_one))
DETENT_DEFINE_TERMS(values_bwd, DETENT_AS_GIVEN, DETENT_AS_MADE, DETENT_REAL(value_bwd_q_one),
                    DETENT_REAL(value_bwd_scale_one), DETENT_REAL(value_bwd_zero_point_one))

static void DETENT_REAL(quantize)(const void *x, void *q, detent_dtype x_dtype, detent_dtype q_dtype,
                                  detent_shape3 shape, const detent_encoding *encoding, detent_parallel_for parallel)
{
    const int floats = detent_is_float(q_dtype);
    const DETENT_REAL(detent_map) map = {
        .rows = floats ? DETENT_REAL(float_codes_rows) : DETENT_REAL(integer_codes_rows),
        .varying = floats ? DETENT_REAL(float_codes_varying) : DETENT_REAL(integer_codes_varying),
        .x = x,
        .y = q,
        .x_dtype = x_dtype,
        .y_dtype = q_dtype,
        .shape = shape,
        .encoding = encoding,
        .grid = DETENT_REAL(detent_real_grid_of)(encoding),
    };
    DETENT_REAL(detent_map_run)(&map, parallel);
}

static void DETENT_REAL(dequantize)(const void *q, void *x, detent_dtype q_dtype, detent_dtype x_dtype,
                                    detent_shape3 shape, const detent_encoding *encoding, detent_parallel_for parallel)
{
    const DETENT_REAL(detent_map) map = {
        .rows = DETENT_REAL(values_rows),
        .varying = DETENT_REAL(values_varying),
        .x = q,
        .y = x,
        .x_dtype = q_dtype,
        .y_dtype = x_dtype,
        .shape = shape,
        .encoding = encoding,
        .grid = DETENT_REAL(detent_real_grid_of)(encoding),
    };
    DETENT_REAL(detent_map_run)(&map, parallel);
}

static void DETENT_REAL(quantize_bwd)(const void *grad_q, const void *x, void *grad_x, void *grad_scale,
                                      void *grad_zero_point, detent_dtype dtype, detent_shape3 shape,
                                      const detent_encoding *encoding, void *workspace, detent_parallel_for parallel)
{
    const DETENT_REAL(detent_reduce) reduce = {
        .rows = DETENT_REAL(codes_bwd_rows),
        .varying = DETENT_REAL(codes_bwd_varying),
        .grad_y = grad_q,
        .x = x,
        .grad_x = grad_x,
        .grad_first = grad_scale,
        .grad_second = grad_zero_point,
        .grad_dtype = dtype,
        .x_dtype = dtype,
        .shape = shape,
        .encoding = encoding,
        .gradient_scale = 1.0,
        .with_second = grad_zero_point != NULL,
        .partials = workspace,
    };
    DETENT_REAL(detent_reduce_run)(&reduce, parallel);
}

static void DETENT_REAL(dequantize_bwd)(const void *grad_x, const void *q, void *grad_q, void *grad_scale,
                                        void *grad_zero_point, detent_dtype q_dtype, detent_dtype x_dtype,
                                        detent_shape3 shape, const detent_encoding *encoding, void *workspace,
                                        detent_parallel_for parallel)
{
    const DETENT_REAL(detent_reduce) reduce = {
        .rows = DETENT_REAL(values_bwd_rows),
        .varying = DETENT_REAL(values_bwd_varying),
        .grad_y = grad_x,
        .x = q,
        .grad_x = grad_q,
        .grad_first = grad_scale,
        .grad_second = grad_zero_point,
        .grad_dtype = x_dtype,
        .x_dtype = q_dtype,
        .shape = shape,
        .encoding = encoding,
        .gradient_scale = 1.0,
        .with_second = grad_zero_point != NULL,
        .partials = workspace,
    };
    DETENT_REAL(detent_reduce_run)(&reduce, parallel);
}
