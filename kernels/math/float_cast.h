/* Rounding one value to a float format. */
#ifndef DETENT_MATH_FLOAT_CAST_H
#define DETENT_MATH_FLOAT_CAST_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "fake_quantize.h"

#ifdef __CUDACC__
#define DETENT_POWER_BELOW static __host__ __device__ __forceinline__
#else
#define DETENT_POWER_BELOW static inline __attribute__((always_inline))
#endif
#ifdef __cplusplus
#define DETENT_OF_TYPE(name, suffix) name
#else
#define DETENT_OF_TYPE(name, suffix) name##suffix
#endif

/* 2^floor(log2 |value|): the exponent's bits alone. 0 for subnormals, +inf for NaN. */
DETENT_POWER_BELOW float DETENT_OF_TYPE(detent_power_below, _f32)(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits &= UINT32_C(0x7f800000);
    memcpy(&value, &bits, sizeof value);
    return value;
}
DETENT_POWER_BELOW double DETENT_OF_TYPE(detent_power_below, _f64)(double value)
{
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    bits &= UINT64_C(0x7ff0000000000000);
    memcpy(&value, &bits, sizeof value);
    return value;
}
#undef DETENT_POWER_BELOW
#undef DETENT_OF_TYPE

#define DETENT_FORMULAS "float_cast.inl"
#include "for_each_real.h"

#endif
