/* ulp = 2^-mantissa_bits, smallest = 2^min_exponent. Kuzmin 2022, eqs. 2 and 3; every step is a power of two, so both
 * divisions by it and products with it are exact. */
static DETENT_HD real DETENT_REAL(detent_float_cast_one)(real x, real scale, real ulp, real smallest, real max)
{
    const real value = DETENT_REAL(detent_clamp)(x / scale, -max, max);
    const real power = DETENT_REAL(detent_power_below)(value);
    const real step = (power < smallest ? smallest : power) * ulp;
    return DETENT_RINT(value / step) * step * scale;
}

/* m: within the format's range, ends included. False for NaN. */
static DETENT_HD int DETENT_REAL(detent_float_cast_mask_one)(real x, real scale, real ulp, real smallest, real max)
{
    (void)ulp, (void)smallest;
    return DETENT_FABS(x / scale) <= max;
}
