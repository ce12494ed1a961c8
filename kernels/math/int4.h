/* Two 4-bit codes a byte: the first in the low half, as ONNX packs INT4 and UINT4. */
#ifndef DETENT_MATH_INT4_H
#define DETENT_MATH_INT4_H

#include <stdint.h>

#include "host_device.h"

/* The code in the low four bits of `bits`: two's complement, or unsigned. */
static DETENT_HD int32_t detent_i4_code(uint32_t bits)
{
    return (int32_t)((bits & 15u) ^ 8u) - 8;
}
static DETENT_HD int32_t detent_u4_code(uint32_t bits)
{
    return (int32_t)(bits & 15u);
}

static DETENT_HD uint8_t detent_pair_of_codes(int32_t first, int32_t second)
{
    return (uint8_t)(((uint32_t)first & 15u) | ((uint32_t)second & 15u) << 4);
}

#endif
