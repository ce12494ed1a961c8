/* The numbers of an element format, as detent_float_cast_one takes them, and 2^(emax + 1), which its numbers lie below.
 */
typedef struct DETENT_REAL_TYPE(detent_elements) {
    real ulp, smallest, max, reach;
} DETENT_REAL_TYPE(detent_elements);

/* OCP MX v1.0, section 6.3. A power of two in float8 e8m0; subnormals and a block of zeros give the smallest. */
static DETENT_HD real DETENT_REAL(detent_mx_scale)(real largest, DETENT_REAL_TYPE(detent_elements) elements)
{
    const real scale = DETENT_REAL(detent_power_below)(largest) * (2 / elements.reach);
    return DETENT_REAL(detent_clamp)(scale, (real)0x1p-127, (real)0x1p127);
}

/* The largest magnitude falls on the elements' largest number; the scale is a float8 e4m3 number, at least its
 * smallest, times the tensor's scale. */
static DETENT_HD real DETENT_REAL(detent_two_level_scale)(real largest, DETENT_REAL_TYPE(detent_elements) elements,
                                                          real tensor_scale)
{
    const real scale =
        DETENT_REAL(detent_float_cast_one)(largest / elements.max / tensor_scale, 1, (real)0x1p-3, (real)0x1p-6, 448);
    return (scale < (real)0x1p-9 ? (real)0x1p-9 : scale) * tensor_scale;
}

/* m: an exponent that the elements have. False for NaN and infinities. */
static DETENT_HD int DETENT_REAL(detent_block_cast_mask_one)(real x, real scale,
                                                             DETENT_REAL_TYPE(detent_elements) elements)
{
    return DETENT_FABS(x / scale) < elements.reach;
}
