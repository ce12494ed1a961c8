/* Start reading here. `real` is float or double (for_each_real.h). zero_point arrives already rounded. */

/* Comparisons, not fmin/fmax: those swallow a NaN, and a NaN in training must stay visible. */
static DETENT_HD real DETENT_REAL(detent_clamp)(real q, real qmin, real qmax)
{
    q = q < qmin ? qmin : q;
    return q > qmax ? qmax : q;
}

/* ReLU, ReLU6 and Hardtanh hold x to an interval (detent_clamp: NaN stays NaN) and let the gradient through strictly
 * inside of it. */
typedef struct DETENT_REAL_TYPE(detent_interval) {
    real low, high;
} DETENT_REAL_TYPE(detent_interval);

static DETENT_HD real DETENT_REAL(detent_activate_one)(real x, DETENT_REAL_TYPE(detent_interval) to)
{
    return DETENT_REAL(detent_clamp)(x, to.low, to.high);
}

static DETENT_HD int DETENT_REAL(detent_activation_passes)(real x, DETENT_REAL_TYPE(detent_interval) to)
{
    return (x > to.low) & (x < to.high);
}

static DETENT_HD real DETENT_REAL(detent_activation_bwd_one)(real g, real x, DETENT_REAL_TYPE(detent_interval) to)
{
    return DETENT_REAL(detent_activation_passes)(x, to) ? g : (real)0;
}

/* Jacob 2018, eq. 12, in the integer domain. The zero point is added after rounding. */
static DETENT_HD real DETENT_REAL(detent_quantize_one)(real x, real scale, real zero_point, real qmin, real qmax)
{
    return DETENT_REAL(detent_clamp)(DETENT_RINT(x / scale) + zero_point, qmin, qmax);
}

static DETENT_HD real DETENT_REAL(detent_dequantize_one)(real q, real scale, real zero_point)
{
    return (q - zero_point) * scale;
}

static DETENT_HD real DETENT_REAL(detent_fake_quantize_one)(real x, real scale, real zero_point, real qmin, real qmax)
{
    return DETENT_REAL(detent_dequantize_one)(DETENT_REAL(detent_quantize_one)(x, scale, zero_point, qmin, qmax), scale,
                                              zero_point);
}

/* r, the rounded ratio, moved onto the grid; finite unless x is NaN. */
static DETENT_HD real DETENT_REAL(detent_clamp_rounded)(real rounded, real zero_point, real qmin, real qmax)
{
    return DETENT_REAL(detent_clamp)(rounded, qmin - zero_point, qmax - zero_point);
}

/* m: the rounded code lies on the grid, ends included. False for NaN. */
static DETENT_HD int DETENT_REAL(detent_on_grid)(real rounded, real zero_point, real qmin, real qmax)
{
    return DETENT_REAL(detent_clamp_rounded)(rounded, zero_point, qmin, qmax) == rounded;
}

static DETENT_HD int DETENT_REAL(detent_fake_quantize_mask_one)(real x, real scale, real zero_point, real qmin,
                                                                real qmax)
{
    return DETENT_REAL(detent_on_grid)(DETENT_RINT(x / scale), zero_point, qmin, qmax);
}

/* Bengio 2013. m selects, it never multiplies: g may be infinite. */
static DETENT_HD real DETENT_REAL(detent_fake_quantize_bwd_x_one)(real g, real x, real scale, real zero_point,
                                                                  real qmin, real qmax)
{
    return DETENT_REAL(detent_fake_quantize_mask_one)(x, scale, zero_point, qmin, qmax) ? g : (real)0;
}

/* Esser 2020, eq. 3: m ? r - x/s : the grid end, not 0; it lets a small scale grow. NaN for x NaN. */
static DETENT_HD real DETENT_REAL(detent_fake_quantize_bwd_scale_one)(real g, real x, real scale, real zero_point,
                                                                      real qmin, real qmax)
{
    const real ratio = x / scale;
    const real clamped = DETENT_REAL(detent_clamp_rounded)(DETENT_RINT(ratio), zero_point, qmin, qmax);
    return g * (clamped - (clamped == DETENT_RINT(ratio) ? ratio : (real)0));
}

/* Bhalgat 2020, eq. 6: only a clipped element moves with the grid. 0 times the clamped code is 0, or the NaN that must
 * stay visible. */
static DETENT_HD real DETENT_REAL(detent_fake_quantize_bwd_zero_point_one)(real g, real x, real scale, real zero_point,
                                                                           real qmin, real qmax)
{
    const real rounded = DETENT_RINT(x / scale);
    const real clamped = DETENT_REAL(detent_clamp_rounded)(rounded, zero_point, qmin, qmax);
    return clamped == rounded ? (real)0 : 0 * clamped - g * scale;
}
