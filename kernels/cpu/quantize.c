#include "detent/quantize.h"

#include "../math/quantize.h"
#include "check.h"
#include "walk.h"

#define DETENT_FORMULAS "../cpu/quantize.inl"
#include "../math/for_each_real.h"

detent_dtype detent_dequantize_math_dtype(detent_dtype q_dtype, detent_dtype x_dtype)
{
    return x_dtype == DETENT_F64 || q_dtype == DETENT_I32 ? DETENT_F64 : DETENT_F32;
}

static detent_status check_sums(const void *grad_scale, const void *grad_zero_point, detent_shape3 shape,
                                const detent_encoding *encoding, const void *workspace, size_t workspace_bytes)
{
    size_t needed = 0;
    const detent_status status = detent_reduce_workspace(shape, &needed);
    if (status != DETENT_OK) return status;
    return detent_check_sums(grad_scale, grad_zero_point, shape.groups, encoding, workspace, workspace_bytes, needed);
}

detent_status detent_quantize_cpu(const void *x, void *q, detent_dtype x_dtype, detent_dtype q_dtype,
                                  detent_shape3 shape, const detent_encoding *encoding, detent_parallel_for parallel)
{
    size_t elements = 0;
    detent_status status = detent_check_encoding(encoding);
    if (status == DETENT_OK) status = detent_check_code_types(x_dtype, q_dtype);
    if (status == DETENT_OK && !detent_codes_fit(q_dtype, encoding->grid)) status = DETENT_BAD_GRID;
    if (status == DETENT_OK) status = detent_check_arrays(x, q, shape, &elements);
    if (status != DETENT_OK || elements == 0) return status;
    if (detent_math_dtype(x_dtype, encoding->grid) == DETENT_F32)
        quantize_f32(x, q, x_dtype, q_dtype, shape, encoding, parallel);
    else
        quantize_f64(x, q, x_dtype, q_dtype, shape, encoding, parallel);
    return DETENT_OK;
}

detent_status detent_quantize_bwd_cpu(const void *grad_q, const void *x, void *grad_x, void *grad_scale,
                                      void *grad_zero_point, detent_dtype dtype, detent_shape3 shape,
                                      const detent_encoding *encoding, void *workspace, size_t workspace_bytes,
                                      detent_parallel_for parallel)
{
    size_t elements = 0;
    detent_status status = detent_check_encoding(encoding);
    if (status == DETENT_OK) status = detent_check_affine(encoding);
    if (status == DETENT_OK) status = detent_check_code_types(dtype, dtype);
    if (status == DETENT_OK) status = detent_check_arrays(grad_q, x, shape, &elements);
    if (status == DETENT_OK)
        status = check_sums(grad_scale, grad_zero_point, shape, encoding, workspace, workspace_bytes);
    if (status != DETENT_OK) return status;
    if (detent_math_dtype(dtype, encoding->grid) == DETENT_F32)
        quantize_bwd_f32(grad_q, x, grad_x, grad_scale, grad_zero_point, dtype, shape, encoding, workspace, parallel);
    else
        quantize_bwd_f64(grad_q, x, grad_x, grad_scale, grad_zero_point, dtype, shape, encoding, workspace, parallel);
    return DETENT_OK;
}

detent_status detent_dequantize_cpu(const void *q, void *x, detent_dtype q_dtype, detent_dtype x_dtype,
                                    detent_shape3 shape, const detent_encoding *encoding, detent_parallel_for parallel)
{
    size_t elements = 0;
    detent_status status = detent_check_affine(encoding);
    if (status == DETENT_OK) status = detent_check_code_types(x_dtype, q_dtype);
    if (status == DETENT_OK) status = detent_check_arrays(q, x, shape, &elements);
    if (status != DETENT_OK || elements == 0) return status;
    if (detent_dequantize_math_dtype(q_dtype, x_dtype) == DETENT_F32)
        dequantize_f32(q, x, q_dtype, x_dtype, shape, encoding, parallel);
    else
        dequantize_f64(q, x, q_dtype, x_dtype, shape, encoding, parallel);
    return DETENT_OK;
}

detent_status detent_dequantize_bwd_cpu(const void *grad_x, const void *q, void *grad_q, void *grad_scale,
                                        void *grad_zero_point, detent_dtype q_dtype, detent_dtype x_dtype,
                                        detent_shape3 shape, const detent_encoding *encoding, void *workspace,
                                        size_t workspace_bytes, detent_parallel_for parallel)
{
    size_t elements = 0;
    detent_status status = detent_check_affine(encoding);
    if (status == DETENT_OK) status = detent_check_code_types_bwd(x_dtype, q_dtype);
    if (status == DETENT_OK) status = detent_check_arrays(grad_x, q, shape, &elements);
    if (status == DETENT_OK)
        status = check_sums(grad_scale, grad_zero_point, shape, encoding, workspace, workspace_bytes);
    if (status != DETENT_OK) return status;
    if (detent_dequantize_math_dtype(q_dtype, x_dtype) == DETENT_F32)
        dequantize_bwd_f32(grad_x, q, grad_q, grad_scale, grad_zero_point, q_dtype, x_dtype, shape, encoding, workspace,
                           parallel);
    else
        dequantize_bwd_f64(grad_x, q, grad_q, grad_scale, grad_zero_point, q_dtype, x_dtype, shape, encoding, workspace,
                           parallel);
    return DETENT_OK;
}
