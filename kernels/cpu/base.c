#include "detent/observe.h"

#include <float.h>

#include "../math/half.h"
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

detent_status detent_check_activation(const detent_activation *activation)
{
    return activation == NULL || activation->min < activation->max ? DETENT_OK : DETENT_BAD_ARGUMENT;
}

double detent_stored(double value, detent_dtype dtype)
{
    switch (dtype) {
    case DETENT_F16: return (double)detent_f16_to_f32(detent_f32_to_f16((float)value));
    case DETENT_BF16: return (double)detent_bf16_to_f32(detent_f32_to_bf16((float)value));
    case DETENT_F64: return value;
    default: return (double)(float)value;
    }
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

detent_status detent_check_block_cast(const void *x, const void *y, detent_dtype dtype, detent_shape3 shape,
                                      size_t block_size, detent_float_format format, size_t *elements)
{
    if (block_size == 0) return DETENT_BAD_ARGUMENT;
    const detent_status status = detent_check_format(format);
    return status == DETENT_OK ? detent_check_values(x, y, dtype, shape, elements) : status;
}

detent_status detent_check_code_types(detent_dtype x_dtype, detent_dtype q_dtype)
{
    const int known = q_dtype >= DETENT_I8 && q_dtype <= DETENT_U4;
    return detent_is_float(x_dtype) && (known || q_dtype == x_dtype) ? DETENT_OK : DETENT_BAD_DTYPE;
}

detent_status detent_check_code_types_bwd(detent_dtype x_dtype, detent_dtype q_dtype)
{
    return q_dtype == DETENT_I4 || q_dtype == DETENT_U4 ? DETENT_BAD_DTYPE : detent_check_code_types(x_dtype, q_dtype);
}

detent_status detent_check_workspace(const void *workspace, size_t workspace_bytes, size_t needed_bytes)
{
    return workspace_bytes < needed_bytes || (needed_bytes > 0 && workspace == NULL) ? DETENT_WORKSPACE_SMALL
                                                                                     : DETENT_OK;
}

detent_status detent_check_sums(const void *grad_first, const void *grad_second, size_t groups,
                                const detent_encoding *encoding, const void *workspace, size_t workspace_bytes,
                                size_t needed_bytes)
{
    const int has_second = encoding->scale == NULL || encoding->zero_point != NULL;
    if (groups > 0 && (grad_first == NULL || (has_second && grad_second == NULL))) return DETENT_BAD_ARGUMENT;
    return detent_check_workspace(workspace, workspace_bytes, needed_bytes);
}

int detent_is_float(detent_dtype dtype)
{
    return dtype >= DETENT_F32 && dtype <= DETENT_F64;
}

int detent_are_bins(size_t bins)
{
    return bins >= DETENT_FEWEST_BINS && bins <= DETENT_MOST_BINS && (bins & (bins - 1)) == 0;
}

double detent_counting_limit(detent_dtype dtype)
{
    static const double limits[] = {[DETENT_F32] = FLT_MAX / 2.0,
                                    [DETENT_F16] = 65504.0 / 2.0,
                                    [DETENT_BF16] = 0x1.fep127 / 2.0,
                                    [DETENT_F64] = DBL_MAX / 2.0};
    return limits[dtype];
}

detent_status detent_check_histogram(const void *x, const void *min, const void *max, const int64_t *ignored,
                                     const int64_t *counts, detent_dtype dtype, detent_shape3 shape, size_t bins,
                                     const void *workspace, size_t workspace_bytes, size_t needed_bytes)
{
    size_t elements = 0;
    const detent_status status = detent_check_shape(shape, &elements);
    if (status != DETENT_OK) return status;
    if (!detent_is_float(dtype)) return DETENT_BAD_DTYPE;
    const int absent = min == NULL || max == NULL || ignored == NULL || counts == NULL;
    if (!detent_are_bins(bins) || (elements > 0 && x == NULL) || (shape.groups > 0 && absent))
        return DETENT_BAD_ARGUMENT;
    return detent_check_workspace(workspace, workspace_bytes, needed_bytes);
}

detent_status detent_check_merge(const void *other_min, const void *other_max, const int64_t *other_ignored,
                                 const int64_t *other_counts, const void *min, const void *max, const int64_t *ignored,
                                 const int64_t *counts, detent_dtype real, size_t groups, size_t bins)
{
    if (real != DETENT_F32 && real != DETENT_F64) return DETENT_BAD_DTYPE;
    const int absent = other_min == NULL || other_max == NULL || other_ignored == NULL || other_counts == NULL ||
                       min == NULL || max == NULL || ignored == NULL || counts == NULL;
    return !detent_are_bins(bins) || (groups > 0 && absent) ? DETENT_BAD_ARGUMENT : DETENT_OK;
}

static int is_search(const detent_search *search)
{
    switch (search->method) {
    case DETENT_PERCENTILE: return search->percentile >= 50 && search->percentile <= 100;
    case DETENT_SQNR:
        return search->gamma >= 0 && search->gamma <= DBL_MAX && search->asymmetric_deltas >= 2 &&
               search->asymmetric_deltas <= 1000 && search->symmetric_deltas >= 2 && search->symmetric_deltas <= 1000 &&
               search->offsets >= 3 && search->offsets <= 1000;
    default: return search->method == DETENT_MSE || search->method == DETENT_ENTROPY;
    }
}

detent_status detent_check_search(const void *lo, const void *hi, const int64_t *counts, const void *min,
                                  const void *max, detent_dtype real, size_t groups, size_t bins,
                                  const detent_search *search, const detent_encoding *encoding)
{
    const detent_status status = detent_check_grid(encoding);
    if (status != DETENT_OK) return status;
    if (real != DETENT_F32 && real != DETENT_F64) return DETENT_BAD_DTYPE;
    const int absent = lo == NULL || hi == NULL || counts == NULL || min == NULL || max == NULL;
    return search == NULL || !is_search(search) || !detent_are_bins(bins) || (groups > 0 && absent)
               ? DETENT_BAD_ARGUMENT
               : DETENT_OK;
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
        [DETENT_I4] = {-8, 7},
        [DETENT_U4] = {0, 15},
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
