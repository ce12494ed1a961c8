/* NaN has no integer code: it becomes that of real 0. */
static DETENT_HD real DETENT_REAL(detent_integer_code_one)(real q, real zero_point, real qmin, real qmax)
{
    return q == q ? q : DETENT_REAL(detent_clamp)(zero_point, qmin, qmax);
}

/* q = rint(x / scale) + zero_point inside the grid, constant outside; rint is the identity in backward (Bengio 2013).
 */
static DETENT_HD real DETENT_REAL(detent_quantize_bwd_x_one)(real g, real x, real scale, real zero_point, real qmin,
                                                             real qmax)
{
    return DETENT_REAL(detent_fake_quantize_mask_one)(x, scale, zero_point, qmin, qmax) ? g / scale : (real)0;
}

static DETENT_HD real DETENT_REAL(detent_quantize_bwd_scale_one)(real g, real x, real scale, real zero_point, real qmin,
                                                                 real qmax)
{
    const real ratio = x / scale;
    const real rounded = DETENT_RINT(ratio);
    const real outside = rounded == rounded ? (real)0 : rounded;
    return DETENT_REAL(detent_on_grid)(rounded, zero_point, qmin, qmax) ? -g * ratio / scale : outside;
}

static DETENT_HD real DETENT_REAL(detent_quantize_bwd_zero_point_one)(real g, real x, real scale, real zero_point,
                                                                      real qmin, real qmax)
{
    const real rounded = DETENT_RINT(x / scale);
    const real outside = rounded == rounded ? (real)0 : rounded;
    return DETENT_REAL(detent_on_grid)(rounded, zero_point, qmin, qmax) ? g : outside;
}

static DETENT_HD real DETENT_REAL(detent_dequantize_bwd_q_one)(real g, real scale)
{
    return g * scale;
}

static DETENT_HD real DETENT_REAL(detent_dequantize_bwd_scale_one)(real g, real q, real zero_point)
{
    return g * (q - zero_point);
}

static DETENT_HD real DETENT_REAL(detent_dequantize_bwd_zero_point_one)(real g, real scale)
{
    return -g * scale;
}
