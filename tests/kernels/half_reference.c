/* binary16 as the compiler knows it; C, since older C++ compilers lack the type. */
#include "half_reference.h"

#include <string.h>

#ifdef __FLT16_MAX__
int32_t compiler_has_f16(void)
{
    return 1;
}

float compiler_f16_to_f32(uint16_t bits)
{
    _Float16 half;
    memcpy(&half, &bits, sizeof half);
    return (float)half;
}

uint16_t compiler_f32_to_f16(float value)
{
    const _Float16 half = (_Float16)value;
    uint16_t bits;
    memcpy(&bits, &half, sizeof bits);
    return bits;
}
#else
int32_t compiler_has_f16(void)
{
    return 0;
}

float compiler_f16_to_f32(uint16_t bits)
{
    (void)bits;
    return 0.0f;
}

uint16_t compiler_f32_to_f16(float value)
{
    (void)value;
    return 0;
}
#endif
