#include "detent/base.h"

#include <float.h>

#include "check.h"

const char *detent_status_text(detent_status status)
{
    static const char *const texts[] = {
        "ok",
        "bad argument: a required pointer is NULL, or options contradict each other",
        "bad shape: outer * groups * inner overflows",
        "bad grid: qmin must be below qmax, both within -2^31 .. 2^32 - 1 and within the type of the codes",
        "bad dtype: this operation has no form for that data type",
        "workspace too small",
        "a CUDA launch failed",
    };
    return status >= 0 && (size_t)status < sizeof texts / sizeof texts[0] ? texts[status] : "unknown status";
}

detent_dtype detent_math_dtype(detent_dtype data, detent_grid grid)
{
    const int64_t exact = INT64_C(1) << 23;
    return data == DETENT_F64 || grid.qmin < -exact || grid.qmax > exact ? DETENT_F64 : DETENT_F32;
}

int64_t detent_grid_centre(detent_grid grid)
{
    const int64_t sum = grid.qmin + grid.qmax;
    const int64_t half = sum >= 0 ? sum / 2 : -((1 - sum) / 2); /* floor */
    return half + (sum - 2 * half == 1 && half % 2 != 0);
}

detent_status detent_check_shape(detent_shape3 shape, size_t *elements)
{
    size_t n = 0;
    if (__builtin_mul_overflow(shape.outer, shape.groups, &n) || __builtin_mul_overflow(n, shape.inner, &n) ||
        n > (size_t)INT64_MAX / 16)
        return DETENT_BAD_SHAPE;
    *elements = n;
    return DETENT_OK;
}

detent_status detent_check_grid(const detent_encoding *encoding)
{
    if (encoding == NULL) return DETENT_BAD_ARGUMENT;
    const detent_grid grid = encoding->grid;
    const int fits = grid.qmin < grid.qmax && grid.qmin >= INT32_MIN && grid.qmax <= (int64_t)UINT32_MAX;
    return fits ? DETENT_OK : DETENT_BAD_GRID;
}

detent_status detent_check_encoding(const detent_encoding *encoding)
{
    const detent_status status = detent_check_grid(encoding);
    if (status != DETENT_OK) return status;
    const int affine = encoding->scale != NULL && encoding->min == NULL && encoding->max == NULL;
    const int range =
        encoding->scale == NULL && encoding->zero_point == NULL && encoding->min != NULL && encoding->max != NULL;
    return affine || range ? DETENT_OK : DETENT_BAD_ARGUMENT;
}

detent_status detent_check_affine(const detent_encoding *encoding)
{
    return encoding != NULL && encoding->scale != NULL ? DETENT_OK : DETENT_BAD_ARGUMENT;
}

detent_status detent_check_format(detent_float_format format)
{
    const int bits = format.mantissa_bits >= 0 && format.mantissa_bits <= 23;
    const int exponents = format.min_exponent <= 127 && format.min_exponent >= format.mantissa_bits - 149;
    return bits && exponents && format.max > 0 && format.max <= FLT_MAX ? DETENT_OK : DETENT_BAD_ARGUMENT;
}

detent_status detent_check_arrays(const void *from, const void *to, detent_shape3 shape, size_t *elements)
{
    const detent_status status = detent_check_shape(shape, elements);
    if (status != DETENT_OK) return status;
    return *elements > 0 && (from == NULL || to == NULL) ? DETENT_BAD_ARGUMENT : DETENT_OK;
}

detent_status detent_check_values(const void *from, const void *to, detent_dtype dtype, detent_shape3 shape,
                                  size_t *elements)
{
    const detent_status status = detent_check_shape(shape, elements);
    if (status != DETENT_OK) return status;
    return detent_is_float(dtype) ? detent_check_arrays(from, to, shape, elements) : DETENT_BAD_DTYPE;
}

detent_status detent_check_code_types(detent_dtype x_dtype, detent_dtype q_dtype)
{
    const int known = q_dtype >= DETENT_I8 && q_dtype <= DETENT_I32;
    return detent_is_float(x_dtype) && (known || q_dtype == x_dtype) ? DETENT_OK : DETENT_BAD_DTYPE;
}

detent_status detent_check_sums(const void *grad_first, const void *grad_second, size_t groups,
                                const detent_encoding *encoding, const void *workspace, size_t workspace_bytes,
                                size_t needed_bytes)
{
    const int has_second = encoding->scale == NULL || encoding->zero_point != NULL;
    if (groups > 0 && (grad_first == NULL || (has_second && grad_second == NULL))) return DETENT_BAD_ARGUMENT;
    return workspace_bytes < needed_bytes || (needed_bytes > 0 && workspace == NULL) ? DETENT_WORKSPACE_SMALL
                                                                                     : DETENT_OK;
}

int detent_is_float(detent_dtype dtype)
{
    return dtype >= DETENT_F32 && dtype <= DETENT_F64;
}

int detent_codes_fit(detent_dtype codes, detent_grid grid)
{
    static const struct {
        int64_t low, high;
    } held[] = {
        [DETENT_F32] = {-(INT64_C(1) << 24), INT64_C(1) << 24},
        [DETENT_F16] = {-2048, 2048},
        [DETENT_BF16] = {-256, 256},
        [DETENT_F64] = {INT32_MIN, UINT32_MAX},
        [DETENT_I8] = {INT8_MIN, INT8_MAX},
        [DETENT_U8] = {0, UINT8_MAX},
        [DETENT_I16] = {INT16_MIN, INT16_MAX},
        [DETENT_I32] = {INT32_MIN, INT32_MAX},
    };
    return grid.qmin >= held[codes].low && grid.qmax <= held[codes].high;
}

const char *detent_cpu_dispatch(void)
{
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("x86-64-v4")) return "x86-64-v4";
    if (__builtin_cpu_supports("x86-64-v3")) return "x86-64-v3";
#endif
    return "default";
}
