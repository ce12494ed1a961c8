#include "many_check.h"

#include "check.h"

static detent_status check_list(const void *items, size_t count)
{
    return count > 0 && items == NULL ? DETENT_BAD_ARGUMENT : DETENT_OK;
}

/* The arithmetic of an item, which must be that of the first. */
static detent_status check_math(detent_dtype dtype, detent_grid grid, size_t item, int *wide)
{
    const int is_wide = detent_math_dtype(dtype, grid) == DETENT_F64;
    if (item > 0 && is_wide != *wide) return DETENT_BAD_ARGUMENT;
    *wide = is_wide;
    return DETENT_OK;
}

detent_status detent_check_items(const detent_fake_quantize_item *items, size_t count, detent_dtype dtype, int *wide)
{
    detent_status status = check_list(items, count);
    for (size_t i = 0; i < count && status == DETENT_OK; ++i) {
        size_t elements = 0;
        status = detent_check_encoding(&items[i].encoding);
        if (status == DETENT_OK) status = detent_check_values(items[i].x, items[i].y, dtype, items[i].shape, &elements);
        if (status == DETENT_OK) status = check_math(dtype, items[i].encoding.grid, i, wide);
    }
    return status;
}

detent_status detent_items_workspace(const detent_shape3 *first, size_t stride, size_t count,
                                     detent_workspace_of workspace_of, size_t *bytes)
{
    if (bytes == NULL || (count > 0 && first == NULL)) return DETENT_BAD_ARGUMENT;
    size_t all = 0;
    for (size_t i = 0; i < count; ++i) {
        size_t one = 0;
        const detent_status status =
            workspace_of(*(const detent_shape3 *)(const void *)((const char *)first + i * stride), &one);
        if (status != DETENT_OK) return status;
        all += one;
    }
    *bytes = all;
    return DETENT_OK;
}

detent_status detent_check_dynamic_items(const detent_fake_quantize_dynamic_item *items, size_t count,
                                         detent_dtype dtype, detent_workspace_of workspace_of, const void *workspace,
                                         size_t workspace_bytes, int *wide)
{
    size_t needed = 0;
    detent_status status = check_list(items, count);
    for (size_t i = 0; i < count && status == DETENT_OK; ++i) {
        const detent_fake_quantize_dynamic_item *item = &items[i];
        const size_t groups = item->shape.groups;
        size_t elements = 0;
        status = detent_check_grid(&item->encoding);
        if (status == DETENT_OK) status = detent_check_values(item->x, item->y, dtype, item->shape, &elements);
        if (status == DETENT_OK) status = check_math(dtype, item->encoding.grid, i, wide);
        if (status != DETENT_OK) return status;
        if (groups > 0 && (item->min == NULL || item->max == NULL)) return DETENT_BAD_ARGUMENT;
        if (item->clip != NULL && item->clip_count != 1 && item->clip_count != groups) return DETENT_BAD_ARGUMENT;
    }
    if (status == DETENT_OK) status = DETENT_ITEMS_WORKSPACE(items, count, workspace_of, &needed);
    return status == DETENT_OK ? detent_check_workspace(workspace, workspace_bytes, needed) : status;
}

detent_status detent_check_bwd_items(const detent_fake_quantize_bwd_item *items, size_t count, detent_dtype dtype,
                                     detent_workspace_of workspace_of, const void *workspace, size_t workspace_bytes,
                                     int *wide)
{
    size_t needed = 0;
    detent_status status = check_list(items, count);
    for (size_t i = 0; i < count && status == DETENT_OK; ++i) {
        const detent_fake_quantize_bwd_item *item = &items[i];
        size_t elements = 0;
        status = detent_check_encoding(&item->encoding);
        if (status == DETENT_OK) status = detent_check_values(item->grad_y, item->x, dtype, item->shape, &elements);
        if (status == DETENT_OK) status = check_math(dtype, item->encoding.grid, i, wide);
        if (status == DETENT_OK)
            status =
                detent_check_sums(item->grad_first, item->grad_second, item->shape.groups, &item->encoding, NULL, 0, 0);
    }
    if (status == DETENT_OK) status = DETENT_ITEMS_WORKSPACE(items, count, workspace_of, &needed);
    return status == DETENT_OK ? detent_check_workspace(workspace, workspace_bytes, needed) : status;
}

detent_status detent_check_mask_bwd_items(const detent_fake_quantize_mask_bwd_item *items, size_t count,
                                          detent_dtype dtype)
{
    detent_status status = check_list(items, count);
    for (size_t i = 0; i < count && status == DETENT_OK; ++i) {
        size_t elements = 0;
        status =
            detent_check_values(items[i].grad_y, items[i].grad_x, dtype, (detent_shape3){1, 1, items[i].n}, &elements);
        if (status == DETENT_OK && elements > 0 && items[i].mask == NULL) status = DETENT_BAD_ARGUMENT;
    }
    return status;
}
