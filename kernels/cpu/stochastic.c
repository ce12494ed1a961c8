#include "detent/stochastic.h"

#include "../math/encode.h"
#include "../math/stochastic.h"
#include "check.h"
#include "walk.h"

#define DETENT_FORMULAS "../cpu/stochastic.inl"
#include "../math/for_each_real.h"

detent_status detent_fake_quantize_stochastic_cpu(const void *x, void *y, detent_dtype dtype, detent_shape3 shape,
                                                  const detent_encoding *encoding, const int64_t *random,
                                                  detent_parallel_for parallel)
{
    size_t elements = 0;
    detent_status status = detent_check_encoding(encoding);
    if (status == DETENT_OK) status = detent_check_values(x, y, dtype, shape, &elements);
    if (status == DETENT_OK && elements > 0 && random == NULL) status = DETENT_BAD_ARGUMENT;
    if (status != DETENT_OK || elements == 0) return status;
    if (detent_math_dtype(dtype, encoding->grid) == DETENT_F32)
        fake_quantize_stochastic_f32(x, y, dtype, shape, encoding, random, parallel);
    else
        fake_quantize_stochastic_f64(x, y, dtype, shape, encoding, random, parallel);
    return DETENT_OK;
}
