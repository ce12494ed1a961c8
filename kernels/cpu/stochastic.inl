/* stochastic.c for one real type. to[i] holds the element's u. */
DETENT_CLONES static void DETENT_REAL(values_rows)(const real *restrict x, real *restrict to, size_t rows, size_t n,
                                                   const real *scale, const real *zero_point, real qmin, real qmax,
                                                   DETENT_REAL(detent_interval) within)
{
    (void)within;
    for (size_t row = 0; row < rows; ++row, x += n, to += n) {
        const real s = scale[row], zp = zero_point[row];
        for (size_t i = 0; i < n; ++i)
            to[i] = DETENT_REAL(detent_fake_quantize_stochastic_one)(x[i], to[i], s, zp, qmin, qmax);
    }
}
DETENT_CLONES static void DETENT_REAL(values_varying)(const real *restrict x, real *restrict to, size_t n,
                                                      const real *restrict scale, const real *restrict zero_point,
                                                      real qmin, real qmax, DETENT_REAL(detent_interval) within)
{
    (void)within;
    for (size_t i = 0; i < n; ++i)
        to[i] = DETENT_REAL(detent_fake_quantize_stochastic_one)(x[i], to[i], scale[i], zero_point[i], qmin, qmax);
}

/* The u of elements at .. at + n; blocks begin at multiples of four. */
DETENT_CLONES static void DETENT_REAL(uniforms)(real *restrict u, size_t at, size_t n, const void *context)
{
    const int64_t *random = context;
    for (size_t i = 0; i < n; i += 4) {
        const detent_random_words words = detent_philox((uint64_t)random[0], (at + i) / 4, (uint64_t)random[1]);
        for (size_t k = 0; k < detent_min_size(4, n - i); ++k) u[i + k] = (real)detent_uniform_of(words.at[k]);
    }
}

static void DETENT_REAL(fake_quantize_stochastic)(const void *x, void *y, detent_dtype dtype, detent_shape3 shape,
                                                  const detent_encoding *encoding, const int64_t *random,
                                                  detent_parallel_for parallel)
{
    const DETENT_REAL(detent_map) map = {
        .rows = DETENT_REAL(values_rows),
        .varying = DETENT_REAL(values_varying),
        .x = x,
        .y = y,
        .x_dtype = dtype,
        .y_dtype = dtype,
        .shape = shape,
        .encoding = encoding,
        .grid = DETENT_REAL(detent_real_grid_of)(encoding),
        .before = DETENT_REAL(uniforms),
        .before_context = random,
    };
    DETENT_REAL(detent_map_run)(&map, parallel);
}
