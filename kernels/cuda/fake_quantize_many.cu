#include "fake_quantize_many.cuh"

#include "../cpu/many_check.h"
#include "detent/fake_quantize.h"

using namespace detent_cuda;

/* Float64 arithmetic has no kernels of its own for many items: each is a launch. */

detent_status detent_fake_quantize_many_cuda(const detent_fake_quantize_item *items, size_t count, detent_dtype dtype,
                                             detent_stream stream)
{
    int wide = 0;
    detent_status status = detent_check_items(items, count, dtype, &wide);
    if (status != DETENT_OK) return status;
    if (!wide) return run_forward_many(items, count, dtype, stream);
    for (size_t i = 0; i < count && status == DETENT_OK; ++i)
        status = detent_fake_quantize_cuda(items[i].x, items[i].y, items[i].mask, dtype, items[i].shape,
                                           &items[i].encoding, nullptr, stream);
    return status;
}

detent_status detent_fake_quantize_many_bwd_workspace_cuda(const detent_fake_quantize_bwd_item *items, size_t count,
                                                           size_t *bytes)
{
    return DETENT_ITEMS_WORKSPACE(items, count, &detent_fake_quantize_bwd_workspace_cuda, bytes);
}

detent_status detent_fake_quantize_many_bwd_cuda(const detent_fake_quantize_bwd_item *items, size_t count,
                                                 detent_dtype dtype, void *workspace, size_t workspace_bytes,
                                                 detent_stream stream)
{
    int wide = 0;
    detent_status status = detent_check_bwd_items(items, count, dtype, &detent_fake_quantize_bwd_workspace_cuda,
                                                  workspace, workspace_bytes, &wide);
    if (status != DETENT_OK) return status;
    if (!wide) return run_backward_many(items, count, dtype, workspace, stream);
    char *room = (char *)workspace;
    for (size_t i = 0; i < count && status == DETENT_OK; ++i) {
        const detent_fake_quantize_bwd_item &item = items[i];
        size_t bytes = 0;
        (void)detent_fake_quantize_bwd_workspace_cuda(item.shape, &bytes);
        status = detent_fake_quantize_bwd_cuda(item.grad_y, item.x, item.grad_x, item.grad_first, item.grad_second,
                                               dtype, item.shape, &item.encoding, nullptr, item.gradient_scale, room,
                                               bytes, stream);
        room += bytes;
    }
    return status;
}

detent_status detent_fake_quantize_mask_many_bwd_cuda(const detent_fake_quantize_mask_bwd_item *items, size_t count,
                                                      detent_dtype dtype, detent_stream stream)
{
    const detent_status status = detent_check_mask_bwd_items(items, count, dtype);
    return status == DETENT_OK ? run_select_many(items, count, dtype, stream) : status;
}

detent_status detent_fake_quantize_dynamic_many_workspace_cuda(const detent_fake_quantize_dynamic_item *items,
                                                               size_t count, size_t *bytes)
{
    return DETENT_ITEMS_WORKSPACE(items, count, &detent_fake_quantize_dynamic_workspace_cuda, bytes);
}

detent_status detent_fake_quantize_dynamic_many_cuda(const detent_fake_quantize_dynamic_item *items, size_t count,
                                                     detent_dtype dtype, void *workspace, size_t workspace_bytes,
                                                     detent_stream stream)
{
    int wide = 0;
    detent_status status = detent_check_dynamic_items(items, count, dtype, &detent_fake_quantize_dynamic_workspace_cuda,
                                                      workspace, workspace_bytes, &wide);
    if (status != DETENT_OK) return status;
    if (!wide) return run_dynamic_many(items, count, dtype, workspace, stream);
    char *room = (char *)workspace;
    for (size_t i = 0; i < count && status == DETENT_OK; ++i) {
        const detent_fake_quantize_dynamic_item &item = items[i];
        size_t bytes = 0;
        (void)detent_fake_quantize_dynamic_workspace_cuda(item.shape, &bytes);
        status = detent_fake_quantize_dynamic_cuda(item.x, item.y, item.mask, item.min, item.max, dtype, item.shape,
                                                   item.clip, item.clip_count, &item.encoding, room, bytes, stream);
        room += bytes;
    }
    return status;
}
