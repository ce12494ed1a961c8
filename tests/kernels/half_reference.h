#ifndef DETENT_TEST_HALF_REFERENCE_H
#define DETENT_TEST_HALF_REFERENCE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

int32_t compiler_has_f16(void);
float compiler_f16_to_f32(uint16_t bits);
uint16_t compiler_f32_to_f16(float value);

#ifdef __cplusplus
}
#endif
#endif
