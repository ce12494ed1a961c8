/* binary16 and bfloat16 as bits, to and from float, branch-free so that loops over them vectorize on any target, and
 * shared by CPU and CUDA so that both store the same bits. Halves to even; NaN becomes the quiet NaN of the type. */
#ifndef DETENT_MATH_HALF_H
#define DETENT_MATH_HALF_H

#include <stdint.h>
#include <string.h>

#include "host_device.h"

static DETENT_HD float detent_float_of_bits(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static DETENT_HD uint32_t detent_bits_of_float(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static DETENT_HD float detent_bf16_to_f32(uint16_t half)
{
    return detent_float_of_bits((uint32_t)half << 16);
}

static DETENT_HD uint16_t detent_f32_to_bf16(float value)
{
    const uint32_t bits = detent_bits_of_float(value);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

/* Exponent and mantissa move to float's places, then a product with 2^112 corrects the bias; it also makes a binary16
 * subnormal a float normal, exactly. */
static DETENT_HD float detent_f16_to_f32(uint16_t half)
{
    const uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
    const uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    const float scaled = detent_float_of_bits(magnitude) * 0x1p112f;
    const uint32_t bits = magnitude >= 0x0f800000u ? magnitude | 0x7f800000u : detent_bits_of_float(scaled);
    return detent_float_of_bits(bits | sign);
}

/* Below 2^-14 adding 0.5 lets the float adder round to the subnormal's last place; above, the integer adder does. */
static DETENT_HD uint16_t detent_f32_to_f16(float value)
{
    const uint32_t bits = detent_bits_of_float(value);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    const uint32_t magnitude = bits & 0x7fffffffu;
    const uint32_t subnormal = detent_bits_of_float(detent_float_of_bits(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    uint32_t half = magnitude < 0x38800000u ? subnormal : normal;
    half = magnitude >= 0x477ff000u ? 0x7c00u : half;
    half = magnitude > 0x7f800000u ? 0x7e00u : half;
    return (uint16_t)(half | sign);
}

/* A sum of two tensors, rounded to their type. */
static DETENT_HD uint16_t detent_add_f16(uint16_t a, uint16_t b)
{
    return detent_f32_to_f16(detent_f16_to_f32(a) + detent_f16_to_f32(b));
}

static DETENT_HD uint16_t detent_add_bf16(uint16_t a, uint16_t b)
{
    return detent_f32_to_bf16(detent_bf16_to_f32(a) + detent_bf16_to_f32(b));
}

#endif
