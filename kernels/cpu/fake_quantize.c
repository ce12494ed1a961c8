#include "fake_quantize.h"

#include <string.h>

#include "../math/encode.h"
#include "check.h"
#include "detent/encode.h"
#include "detent/observe.h"

#define DETENT_FORMULAS "../cpu/fake_quantize.inl"
#include "../math/for_each_real.h"

static detent_status forward(const void *x, const void *residual, void *sum, void *y, uint8_t *mask, detent_dtype dtype,
                             detent_shape3 shape, const detent_encoding *encoding, const detent_activation *activation,
                             detent_parallel_for parallel)
{
    size_t elements = 0;
    detent_status status = detent_check_encoding(encoding);
    if (status == DETENT_OK) status = detent_check_activation(activation);
    if (status == DETENT_OK) status = detent_check_values(x, y, dtype, shape, &elements);
    if (status != DETENT_OK || elements == 0) return status;
    if (detent_math_dtype(dtype, encoding->grid) == DETENT_F32) {
        detent_map_f32 map = detent_fake_quantize_map_f32(x, y, mask, dtype, shape, encoding, activation);
        map.residual = residual;
        map.sum = sum;
        detent_map_run_f32(&map, parallel);
    } else {
        detent_map_f64 map = detent_fake_quantize_map_f64(x, y, mask, dtype, shape, encoding, activation);
        map.residual = residual;
        map.sum = sum;
        detent_map_run_f64(&map, parallel);
    }
    return DETENT_OK;
}

detent_status detent_fake_quantize_cpu(const void *x, void *y, uint8_t *mask, detent_dtype dtype, detent_shape3 shape,
                                       const detent_encoding *encoding, const detent_activation *activation,
                                       detent_parallel_for parallel)
{
    return forward(x, NULL, NULL, y, mask, dtype, shape, encoding, activation, parallel);
}

detent_status detent_fake_quantize_sum_cpu(const void *x, const void *residual, void *sum, void *y, uint8_t *mask,
                                           detent_dtype dtype, detent_shape3 shape, const detent_encoding *encoding,
                                           const detent_activation *activation, detent_parallel_for parallel)
{
    size_t elements = 0;
    const detent_status status = detent_check_values(x, residual, dtype, shape, &elements);
    if (status != DETENT_OK) return status;
    return forward(x, residual, sum, y, mask, dtype, shape, encoding, activation, parallel);
}

detent_status detent_fake_quantize_bwd_workspace(detent_shape3 shape, size_t *bytes)
{
    return detent_reduce_workspace(shape, bytes);
}

detent_status detent_fake_quantize_bwd_cpu(const void *grad_y, const void *x, void *grad_x, void *grad_first,
                                           void *grad_second, detent_dtype dtype, detent_shape3 shape,
                                           const detent_encoding *encoding, const detent_activation *activation,
                                           double gradient_scale, void *workspace, size_t workspace_bytes,
                                           detent_parallel_for parallel)
{
    size_t elements = 0, needed = 0;
    detent_status status = detent_check_encoding(encoding);
    if (status == DETENT_OK) status = detent_check_activation(activation);
    if (status == DETENT_OK) status = detent_check_values(grad_y, x, dtype, shape, &elements);
    if (status == DETENT_OK) status = detent_reduce_workspace(shape, &needed);
    if (status == DETENT_OK)
        status = detent_check_sums(grad_first, grad_second, shape.groups, encoding, workspace, workspace_bytes, needed);
    if (status != DETENT_OK) return status;
    if (detent_math_dtype(dtype, encoding->grid) == DETENT_F32) {
        const detent_reduce_f32 reduce = detent_fake_quantize_reduce_f32(
            grad_y, x, grad_x, grad_first, grad_second, dtype, shape, encoding, activation, gradient_scale, workspace);
        detent_reduce_run_f32(&reduce, parallel);
    } else {
        const detent_reduce_f64 reduce = detent_fake_quantize_reduce_f64(
            grad_y, x, grad_x, grad_first, grad_second, dtype, shape, encoding, activation, gradient_scale, workspace);
        detent_reduce_run_f64(&reduce, parallel);
    }
    return DETENT_OK;
}

/* grad_x = bit ? grad_y : 0, on the bits of one element: nothing is converted, nothing multiplied. A vector is as many
 * elements as a BITS-wide piece of the mask has bits; each lane keeps its own bit of the piece. The lowest bit comes
 * first. */
typedef uint16_t lanes_16 __attribute__((vector_size(16)));
typedef uint32_t lanes_32 __attribute__((vector_size(32)));
typedef uint64_t lanes_64 __attribute__((vector_size(64)));
#define DETENT_DEFINE_SELECT(NAME, WORD, LANES)                                                                        \
    DETENT_CLONES static void NAME(const WORD *restrict grad_y, const uint8_t *restrict mask, WORD *restrict grad_x,   \
                                   size_t n)                                                                           \
    {                                                                                                                  \
        const LANES bit = {1, 2, 4, 8, 16, 32, 64, 128};                                                               \
        for (size_t i = 0; i < n / 8; ++i) {                                                                           \
            LANES eight;                                                                                               \
            memcpy(&eight, grad_y + 8 * i, sizeof eight);                                                              \
            eight &= (LANES)(((bit & (WORD)mask[i]) == bit));                                                          \
            memcpy(grad_x + 8 * i, &eight, sizeof eight);                                                              \
        }                                                                                                              \
        for (size_t i = n / 8 * 8; i < n; ++i) grad_x[i] = mask[i / 8] >> i % 8 & 1 ? grad_y[i] : (WORD)0;             \
    }
DETENT_DEFINE_SELECT(select_16, uint16_t, lanes_16)
DETENT_DEFINE_SELECT(select_32, uint32_t, lanes_32)
DETENT_DEFINE_SELECT(select_64, uint64_t, lanes_64)

void detent_select_blocks(int64_t begin, int64_t end, void *select)
{
    const detent_select *job = select;
    for (size_t at = (size_t)begin * DETENT_BLOCK; at < detent_min_size(job->n, (size_t)end * DETENT_BLOCK);
         at += DETENT_BLOCK) {
        const size_t n = detent_min_size(DETENT_BLOCK, job->n - at);
        const uint8_t *mask = job->mask + at / 8;
        switch (job->dtype) {
        case DETENT_F32: select_32((const uint32_t *)job->grad_y + at, mask, (uint32_t *)job->grad_x + at, n); break;
        case DETENT_F64: select_64((const uint64_t *)job->grad_y + at, mask, (uint64_t *)job->grad_x + at, n); break;
        default: select_16((const uint16_t *)job->grad_y + at, mask, (uint16_t *)job->grad_x + at, n); break;
        }
    }
}

detent_status detent_fake_quantize_mask_bwd_cpu(const void *grad_y, const uint8_t *mask, void *grad_x,
                                                detent_dtype dtype, size_t n, detent_parallel_for parallel)
{
    size_t elements = 0;
    const detent_status status = detent_check_values(grad_y, grad_x, dtype, (detent_shape3){1, 1, n}, &elements);
    if (status != DETENT_OK || n == 0) return status;
    if (mask == NULL) return DETENT_BAD_ARGUMENT;
    detent_select job = {grad_y, mask, grad_x, dtype, n};
    detent_run(parallel, detent_ceil_div(n, DETENT_BLOCK), DETENT_BLOCKS_A_THREAD, detent_select_blocks, &job);
    return DETENT_OK;
}

/* The observer's workspace, then its lo, hi and ignored for each group. */
detent_status detent_fake_quantize_dynamic_workspace(detent_shape3 shape, size_t *bytes)
{
    const detent_status status = detent_observe_min_max_workspace(shape, bytes);
    if (status == DETENT_OK) *bytes += shape.groups * (2 * sizeof(double) + sizeof(int64_t));
    return status;
}

detent_status detent_fake_quantize_dynamic_cpu(const void *x, void *y, uint8_t *mask, void *min, void *max,
                                               detent_dtype dtype, detent_shape3 shape, const void *clip,
                                               size_t clip_count, const detent_encoding *encoding, void *workspace,
                                               size_t workspace_bytes, detent_parallel_for parallel)
{
    size_t elements = 0, needed = 0, observer_bytes = 0;
    detent_status status = detent_check_grid(encoding);
    if (status == DETENT_OK) status = detent_check_values(x, y, dtype, shape, &elements);
    if (status == DETENT_OK) status = detent_fake_quantize_dynamic_workspace(shape, &needed);
    if (status == DETENT_OK) status = detent_observe_min_max_workspace(shape, &observer_bytes);
    if (status != DETENT_OK) return status;
    if (shape.groups > 0 && (min == NULL || max == NULL)) return DETENT_BAD_ARGUMENT;
    if (clip != NULL && clip_count != 1 && clip_count != shape.groups) return DETENT_BAD_ARGUMENT;
    status = detent_check_workspace(workspace, workspace_bytes, needed);
    if (status != DETENT_OK) return status;
    if (shape.groups == 0) return DETENT_OK;

    int64_t *ignored = (int64_t *)((char *)workspace + observer_bytes);
    double *lo = (double *)(ignored + shape.groups), *hi = lo + shape.groups;
    status = detent_observe_min_max_cpu(x, lo, hi, ignored, dtype, shape, DETENT_OBSERVE_REPLACE, 0.0, workspace,
                                        observer_bytes, parallel);
    if (status != DETENT_OK) return status;
    const detent_dtype real = detent_math_dtype(dtype, encoding->grid);
    if (real == DETENT_F32)
        detent_range_of_clipped_f32(lo, hi, dtype, clip, clip_count, min, max, shape.groups, encoding);
    else
        detent_range_of_clipped_f64(lo, hi, dtype, clip, clip_count, min, max, shape.groups, encoding);
    detent_encoding derived = *encoding;
    derived.scale = derived.zero_point = NULL;
    derived.min = min;
    derived.max = max;
    return detent_fake_quantize_cpu(x, y, mask, dtype, shape, &derived, NULL, parallel);
}
