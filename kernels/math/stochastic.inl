/* floor(x / scale + u) without rounding the sum: up where the fraction is at least 1 - u, which is exact. */
static DETENT_HD real DETENT_REAL(detent_fake_quantize_stochastic_one)(real x, real u, real scale, real zero_point,
                                                                       real qmin, real qmax)
{
    const real ratio = x / scale, below = DETENT_FLOOR(ratio);
    const real rounded = below + (ratio - below >= 1 - u ? (real)1 : (real)0);
    return DETENT_REAL(detent_dequantize_one)(DETENT_REAL(detent_clamp)(rounded + zero_point, qmin, qmax), scale,
                                              zero_point);
}
