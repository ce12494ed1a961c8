/* quantize.c for one real type: the loops, and the jobs handed to walk.h. */
#define DETENT_DEFINE_MAP(NAME, ONE)                                                                                   \
    DETENT_CLONES static void DETENT_REAL(NAME##_uniform)(const real *restrict from, real *restrict to, size_t n,      \
                                                          const real *scale, const real *zero_point, real qmin,        \
                                                          real qmax)                                                   \
    {                                                                                                                  \
        const real s = *scale, zp = *zero_point;                                                                       \
        for (size_t i = 0; i < n; ++i) to[i] = ONE(from[i], s, zp, qmin, qmax);                                        \
    }                                                                                                                  \
    DETENT_CLONES static void DETENT_REAL(NAME##_varying)(const real *restrict from, real *restrict to, size_t n,      \
                                                          const real *restrict scale, const real *restrict zero_point, \
                                                          real qmin, real qmax)                                        \
    {                                                                                                                  \
        for (size_t i = 0; i < n; ++i) to[i] = ONE(from[i], scale[i], zero_point[i], qmin, qmax);                      \
    }

#define DETENT_DEFINE_TERMS(NAME, GRAD, FIRST, SECOND)                                                                 \
    static inline __attribute__((always_inline)) void DETENT_REAL(NAME)(                                               \
        const real *restrict g, const real *restrict x, real *restrict grad, real *restrict first,                     \
        real *restrict second, size_t n, const real *scale, const real *zero_point, size_t stride, real qmin,          \
        real qmax)                                                                                                     \
    {                                                                                                                  \
        for (size_t i = 0; i < n; ++i) {                                                                               \
            grad[i] = GRAD(g[i], x[i], scale[i * stride], zero_point[i * stride], qmin, qmax);                         \
            first[i] = FIRST(g[i], x[i], scale[i * stride], zero_point[i * stride], qmin, qmax);                       \
        }                                                                                                              \
        if (second != NULL)                                                                                            \
            for (size_t i = 0; i < n; ++i)                                                                             \
                second[i] = SECOND(g[i], x[i], scale[i * stride], zero_point[i * stride], qmin, qmax);                 \
    }                                                                                                                  \
    DETENT_CLONES static void DETENT_REAL(NAME##_uniform)(const real *g, const real *x, real *grad, real *first,       \
                                                          real *second, size_t n, const real *scale,                   \
                                                          const real *zero_point, real qmin, real qmax)                \
    {                                                                                                                  \
        const real s = *scale, zp = *zero_point;                                                                       \
        DETENT_REAL(NAME)(g, x, grad, first, second, n, &s, &zp, 0, qmin, qmax);                                       \
    }                                                                                                                  \
    DETENT_CLONES static void DETENT_REAL(NAME##_varying)(const real *g, const real *x, real *grad, real *first,       \
                                                          real *second, size_t n, const real *scale,                   \
                                                          const real *zero_point, real qmin, real qmax)                \
    {                                                                                                                  \
        DETENT_REAL(NAME)(g, x, grad, first, second, n, scale, zero_point, 1, qmin, qmax);                             \
    }

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

DETENT_DEFINE_MAP(float_codes, DETENT_REAL(detent_quantize_one))
DETENT_DEFINE_MAP(integer_codes, DETENT_REAL(integer_one))
DETENT_DEFINE_MAP(values, DETENT_REAL(value_one))
DETENT_DEFINE_TERMS(codes_bwd, DETENT_REAL(detent_quantize_bwd_x_one), DETENT_REAL(detent_quantize_bwd_scale_one),
                    DETENT_REAL(detent_quantize_bwd_zero_point_one))
DETENT_DEFINE_TERMS(values_bwd, DETENT_REAL(value_bwd_q_one), DETENT_REAL(value_bwd_scale_one),
                    DETENT_REAL(value_bwd_zero_point_one))

static void DETENT_REAL(quantize)(const void *x, void *q, detent_dtype x_dtype, detent_dtype q_dtype,
                                  detent_shape3 shape, const detent_encoding *encoding, detent_parallel_for parallel)
{
    const int floats = detent_is_float(q_dtype);
    const DETENT_REAL(detent_map) map = {
        .uniform = floats ? DETENT_REAL(float_codes_uniform) : DETENT_REAL(integer_codes_uniform),
        .varying = floats ? DETENT_REAL(float_codes_varying) : DETENT_REAL(integer_codes_varying),
        .x = x,
        .y = q,
        .x_dtype = x_dtype,
        .y_dtype = q_dtype,
        .shape = shape,
        .encoding = encoding,
    };
    DETENT_REAL(detent_map_run)(&map, parallel);
}

static void DETENT_REAL(dequantize)(const void *q, void *x, detent_dtype q_dtype, detent_dtype x_dtype,
                                    detent_shape3 shape, const detent_encoding *encoding, detent_parallel_for parallel)
{
    const DETENT_REAL(detent_map) map = {
        .uniform = DETENT_REAL(values_uniform),
        .varying = DETENT_REAL(values_varying),
        .x = q,
        .y = x,
        .x_dtype = q_dtype,
        .y_dtype = x_dtype,
        .shape = shape,
        .encoding = encoding,
    };
    DETENT_REAL(detent_map_run)(&map, parallel);
}

static void DETENT_REAL(quantize_bwd)(const void *grad_q, const void *x, void *grad_x, void *grad_scale,
                                      void *grad_zero_point, detent_dtype dtype, detent_shape3 shape,
                                      const detent_encoding *encoding, void *workspace, detent_parallel_for parallel)
{
    const DETENT_REAL(detent_reduce) reduce = {
        .uniform = DETENT_REAL(codes_bwd_uniform),
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
        .uniform = DETENT_REAL(values_bwd_uniform),
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

#undef DETENT_DEFINE_MAP
#undef DETENT_DEFINE_TERMS
