/* The checks of fake_quantize_many at the door, on either device: those of each item, all before anything is done. */
#ifndef DETENT_CPU_MANY_CHECK_H
#define DETENT_CPU_MANY_CHECK_H

#include "detent/fake_quantize_many.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What one item needs; the sum is what all need. */
typedef detent_status (*detent_workspace_of)(detent_shape3 shape, size_t *bytes);

/* *wide: whether the arithmetic is float64. */
detent_status detent_check_items(const detent_fake_quantize_item *items, size_t count, detent_dtype dtype, int *wide);
/* Of items that lie `stride` bytes apart, the first of whose shapes is at `first`. */
detent_status detent_items_workspace(const detent_shape3 *first, size_t stride, size_t count,
                                     detent_workspace_of workspace_of, size_t *bytes);
#define DETENT_ITEMS_WORKSPACE(items, count, workspace_of, bytes)                                                      \
    detent_items_workspace((items) == NULL ? NULL : &(items)->shape, sizeof *(items), count, workspace_of, bytes)
detent_status detent_check_dynamic_items(const detent_fake_quantize_dynamic_item *items, size_t count,
                                         detent_dtype dtype, detent_workspace_of workspace_of, const void *workspace,
                                         size_t workspace_bytes, int *wide);
detent_status detent_check_bwd_items(const detent_fake_quantize_bwd_item *items, size_t count, detent_dtype dtype,
                                     detent_workspace_of workspace_of, const void *workspace, size_t workspace_bytes,
                                     int *wide);
detent_status detent_check_mask_bwd_items(const detent_fake_quantize_mask_bwd_item *items, size_t count,
                                          detent_dtype dtype);

#ifdef __cplusplus
}
#endif
#endif
