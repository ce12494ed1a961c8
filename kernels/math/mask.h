/* Eight bytes of 0 or 1 and the eight bits they stand for; the lowest byte is the lowest bit. */
#ifndef DETENT_MATH_MASK_H
#define DETENT_MATH_MASK_H

#include <stdint.h>

#include "host_device.h"

static DETENT_HD uint8_t detent_pack_eight(uint64_t bytes)
{
    /* Byte k times 2^(56 - 7k) lands on bit 56 + k; no two terms meet. */
    return (uint8_t)((bytes * UINT64_C(0x0102040810204080)) >> 56);
}

static DETENT_HD uint64_t detent_unpack_eight(uint8_t bits)
{
    /* Byte k keeps bit k; adding 0x7f carries any bit to the top of its byte and no further. */
    const uint64_t kept = bits * UINT64_C(0x0101010101010101) & UINT64_C(0x8040201008040201);
    return (kept + UINT64_C(0x7f7f7f7f7f7f7f7f)) >> 7 & UINT64_C(0x0101010101010101);
}

#endif
