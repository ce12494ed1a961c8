/* The checks at the door of every CPU and CUDA entry point. */
#ifndef DETENT_CPU_CHECK_H
#define DETENT_CPU_CHECK_H

#include "detent/base.h"

#ifdef __cplusplus
extern "C" {
#endif

detent_status detent_check_shape(detent_shape3 shape, size_t *elements);
detent_status detent_check_grid(const detent_encoding *encoding);     /* the grid alone */
detent_status detent_check_encoding(const detent_encoding *encoding); /* the grid, and exactly one parametrization */
int detent_is_float(detent_dtype dtype);
int detent_codes_fit(detent_dtype codes, detent_grid grid); /* every integer of the grid is exact in that type */

#ifdef __cplusplus
}
#endif
#endif
