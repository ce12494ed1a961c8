#include "detent/float_cast.h"

#include "../math/encode.h"
#include "../math/float_cast.h"
#include "check.h"
#include "walk.h"

#define DETENT_FORMULAS "../cpu/float_cast.inl"
#include "../math/for_each_real.h"

detent_status detent_float_cast_cpu(const void *x, void *y, uint8_t *mask, detent_dtype dtype, detent_shape3 shape,
                                    const void *scale, detent_float_format format, detent_parallel_for parallel)
{
    size_t elements = 0;
    detent_status status = detent_check_format(format);
    if (status == DETENT_OK) status = detent_check_values(x, y, dtype, shape, &elements);
    if (status == DETENT_OK && elements > 0 && scale == NULL) status = DETENT_BAD_ARGUMENT;
    if (status != DETENT_OK || elements == 0) return status;
    if (dtype == DETENT_F64)
        float_cast_f64(x, y, mask, dtype, shape, scale, format, parallel);
    else
        float_cast_f32(x, y, mask, dtype, shape, scale, format, parallel);
    return DETENT_OK;
}
