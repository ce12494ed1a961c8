#include "detent/encode.h"

#include "../math/encode.h"
#include "check.h"

#define DETENT_FORMULAS "../cpu/encode.inl"
#include "../math/for_each_real.h"

static detent_status check(const void *a, const void *b, const void *c, const void *d, detent_dtype real, size_t n,
                           const detent_encoding *encoding)
{
    const detent_status status = detent_check_grid(encoding);
    if (status != DETENT_OK) return status;
    if (real != DETENT_F32 && real != DETENT_F64) return DETENT_BAD_DTYPE;
    return n > 0 && (a == NULL || b == NULL || c == NULL || d == NULL) ? DETENT_BAD_ARGUMENT : DETENT_OK;
}

detent_status detent_encode_min_max_cpu(const void *lo, const void *hi, void *min, void *max, detent_dtype real,
                                        size_t n, const detent_encoding *encoding)
{
    const detent_status status = check(lo, hi, min, max, real, n, encoding);
    if (status != DETENT_OK) return status;
    if (real == DETENT_F32)
        min_max_f32(lo, hi, min, max, n, encoding);
    else
        min_max_f64(lo, hi, min, max, n, encoding);
    return DETENT_OK;
}

detent_status detent_encode_affine_cpu(const void *min, const void *max, void *scale, void *zero_point,
                                       detent_dtype real, size_t n, const detent_encoding *encoding)
{
    const detent_status status = check(min, max, scale, zero_point, real, n, encoding);
    if (status != DETENT_OK) return status;
    if (real == DETENT_F32)
        affine_f32(min, max, scale, zero_point, n, encoding);
    else
        affine_f64(min, max, scale, zero_point, n, encoding);
    return DETENT_OK;
}

detent_status detent_encode_trained_cpu(const void *scale, const void *zero_point, void *usable_scale,
                                        void *usable_zero_point, detent_dtype real, size_t n,
                                        const detent_encoding *encoding)
{
    const detent_status status = check(scale, zero_point, usable_scale, usable_zero_point, real, n, encoding);
    if (status != DETENT_OK) return status;
    if (real == DETENT_F32)
        trained_f32(scale, zero_point, usable_scale, usable_zero_point, n, encoding);
    else
        trained_f64(scale, zero_point, usable_scale, usable_zero_point, n, encoding);
    return DETENT_OK;
}
