/* The scale that a block shares. Magnitudes are compared as bits, whose order is that of the numbers: integers have one
 * largest whatever the order, and vectorize. */
#ifndef DETENT_MATH_BLOCK_CAST_H
#define DETENT_MATH_BLOCK_CAST_H

#include <stdint.h>
#include <string.h>

#include "float_cast.h"

typedef uint32_t detent_bits_f32;
typedef uint64_t detent_bits_f64;

#ifdef __cplusplus
#define DETENT_OF_TYPE(name, suffix) name
#else
#define DETENT_OF_TYPE(name, suffix) name##suffix
#endif

/* Bits of |value|, 0 where it is not finite. */
static DETENT_HD uint32_t DETENT_OF_TYPE(detent_finite_magnitude, _f32)(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits &= UINT32_C(0x7fffffff);
    return bits < UINT32_C(0x7f800000) ? bits : 0;
}
static DETENT_HD uint64_t DETENT_OF_TYPE(detent_finite_magnitude, _f64)(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits &= UINT64_C(0x7fffffffffffffff);
    return bits < UINT64_C(0x7ff0000000000000) ? bits : 0;
}
static DETENT_HD float DETENT_OF_TYPE(detent_magnitude_of, _f32)(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
static DETENT_HD double DETENT_OF_TYPE(detent_magnitude_of, _f64)(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
#undef DETENT_OF_TYPE

#define DETENT_FORMULAS "block_cast.inl"
#include "for_each_real.h"

#endif
