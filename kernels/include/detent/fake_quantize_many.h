/* detent/fake_quantize.h for several tensors in one call: the weights of a model. Each result is that of the call for
 * one tensor, bit for bit. On the CPU all of them are one loop that threads share. On a GPU they are one launch, two
 * where sums or ranges are joined from parts, for as many items as a kernel's parameter holds (some 80 to 180; with a
 * CUDA before 12.1 an eighth of that), since the table of items travels with the launch: nothing is copied to the
 * device and nothing waits. Where the arithmetic is float64 each item is a launch of its own.
 *
 *   items    [count]; count may be 0. No two items write the same memory. Read before the call returns.
 *   dtype    of every tensor of every item (F32, F16, BF16, F64)
 *   grids    of one arithmetic: detent_math_dtype(dtype, grid) is the same for all items (checked)
 *
 * Everything else is as for one tensor: shapes, encodings, masks, what may be NULL, empty tensors, statuses. If one
 * item is refused nothing was written or queued. A workspace is shared out by the library; its size is a function of
 * the shapes alone. */
#ifndef DETENT_FAKE_QUANTIZE_MANY_H
#define DETENT_FAKE_QUANTIZE_MANY_H

#include "detent/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct detent_fake_quantize_item {
    const void *x;
    void *y;
    uint8_t *mask;
    detent_shape3 shape;
    detent_encoding encoding;
} detent_fake_quantize_item;

DETENT_API detent_status detent_fake_quantize_many_cpu(const detent_fake_quantize_item *items, size_t count,
                                                       detent_dtype dtype, detent_parallel_for parallel);
DETENT_API detent_status detent_fake_quantize_many_cuda(const detent_fake_quantize_item *items, size_t count,
                                                        detent_dtype dtype, detent_stream stream);

/* encoding gives grid, symmetric and centre of the range that is derived, and receives nothing. */
typedef struct detent_fake_quantize_dynamic_item {
    const void *x;
    void *y;
    uint8_t *mask;
    void *min, *max;
    const void *clip;
    size_t clip_count;
    detent_shape3 shape;
    detent_encoding encoding;
} detent_fake_quantize_dynamic_item;

DETENT_API detent_status detent_fake_quantize_dynamic_many_workspace(const detent_fake_quantize_dynamic_item *items,
                                                                     size_t count, size_t *bytes);
DETENT_API detent_status detent_fake_quantize_dynamic_many_cpu(const detent_fake_quantize_dynamic_item *items,
                                                               size_t count, detent_dtype dtype, void *workspace,
                                                               size_t workspace_bytes, detent_parallel_for parallel);
DETENT_API detent_status detent_fake_quantize_dynamic_many_workspace_cuda(
    const detent_fake_quantize_dynamic_item *items, size_t count, size_t *bytes);
DETENT_API detent_status detent_fake_quantize_dynamic_many_cuda(const detent_fake_quantize_dynamic_item *items,
                                                                size_t count, detent_dtype dtype, void *workspace,
                                                                size_t workspace_bytes, detent_stream stream);

typedef struct detent_fake_quantize_bwd_item {
    const void *grad_y, *x;
    void *grad_x, *grad_first, *grad_second;
    double gradient_scale;
    detent_shape3 shape;
    detent_encoding encoding;
} detent_fake_quantize_bwd_item;

DETENT_API detent_status detent_fake_quantize_many_bwd_workspace(const detent_fake_quantize_bwd_item *items,
                                                                 size_t count, size_t *bytes);
DETENT_API detent_status detent_fake_quantize_many_bwd_cpu(const detent_fake_quantize_bwd_item *items, size_t count,
                                                           detent_dtype dtype, void *workspace, size_t workspace_bytes,
                                                           detent_parallel_for parallel);
DETENT_API detent_status detent_fake_quantize_many_bwd_workspace_cuda(const detent_fake_quantize_bwd_item *items,
                                                                      size_t count, size_t *bytes);
DETENT_API detent_status detent_fake_quantize_many_bwd_cuda(const detent_fake_quantize_bwd_item *items, size_t count,
                                                            detent_dtype dtype, void *workspace, size_t workspace_bytes,
                                                            detent_stream stream);

typedef struct detent_fake_quantize_mask_bwd_item {
    const void *grad_y;
    const uint8_t *mask;
    void *grad_x;
    size_t n;
} detent_fake_quantize_mask_bwd_item;

DETENT_API detent_status detent_fake_quantize_mask_many_bwd_cpu(const detent_fake_quantize_mask_bwd_item *items,
                                                                size_t count, detent_dtype dtype,
                                                                detent_parallel_for parallel);
DETENT_API detent_status detent_fake_quantize_mask_many_bwd_cuda(const detent_fake_quantize_mask_bwd_item *items,
                                                                 size_t count, detent_dtype dtype,
                                                                 detent_stream stream);

#ifdef __cplusplus
}
#endif
#endif
