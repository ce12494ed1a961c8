#include "detent/fake_quantize_many.h"

#include "fake_quantize.h"
#include "many.h"
#include "many_check.h"
#include "observe.h"

/* --- what an item is to the loops for one tensor ------------------------------------------------------------------ */

static detent_encoding derived_of(const detent_fake_quantize_dynamic_item *item)
{
    detent_encoding derived = item->encoding;
    derived.scale = derived.zero_point = NULL;
    derived.min = item->min;
    derived.max = item->max;
    return derived;
}

/* The workspace of an item: that of detent_fake_quantize_dynamic_cpu. */
static detent_observation observation_of(const detent_fake_quantize_dynamic_item *item, detent_dtype dtype,
                                         void *workspace)
{
    size_t bytes = 0;
    (void)detent_observe_min_max_workspace(item->shape, &bytes);
    int64_t *ignored = (int64_t *)((char *)workspace + bytes);
    double *lo = (double *)(ignored + item->shape.groups);
    return (detent_observation){.x = item->x,
                                .dtype = dtype,
                                .shape = item->shape,
                                .partials = workspace,
                                .min = lo,
                                .max = lo + item->shape.groups,
                                .ignored = ignored,
                                .mode = DETENT_OBSERVE_REPLACE};
}

#define DETENT_FORMULAS "../cpu/fake_quantize_many.inl"
#include "../math/for_each_real.h"

/* --- how many pieces ---------------------------------------------------------------------------------------------- */

static size_t elements_of(detent_shape3 shape)
{
    return shape.outer * shape.groups * shape.inner;
}

static size_t blocks_of(size_t elements)
{
    return detent_ceil_div(elements, DETENT_BLOCK);
}

static size_t tiles_of(detent_shape3 shape)
{
    const detent_tiles tiles = detent_tiles_of(shape);
    return detent_tile_count(&tiles);
}

static detent_share share_blocks(const detent_many *many, size_t item)
{
    return (detent_share){blocks_of(elements_of(((const detent_fake_quantize_item *)many->items)[item].shape)), 0};
}

static detent_share share_selected_blocks(const detent_many *many, size_t item)
{
    return (detent_share){blocks_of(((const detent_fake_quantize_mask_bwd_item *)many->items)[item].n), 0};
}

static detent_share share_dynamic(const detent_many *many, size_t item, size_t pieces)
{
    size_t bytes = 0;
    (void)detent_fake_quantize_dynamic_workspace(((const detent_fake_quantize_dynamic_item *)many->items)[item].shape,
                                                 &bytes);
    return (detent_share){pieces, bytes};
}

static detent_share share_dynamic_blocks(const detent_many *many, size_t item)
{
    const detent_shape3 shape = ((const detent_fake_quantize_dynamic_item *)many->items)[item].shape;
    return share_dynamic(many, item, blocks_of(elements_of(shape)));
}

static detent_share share_dynamic_tiles(const detent_many *many, size_t item)
{
    return share_dynamic(many, item, tiles_of(((const detent_fake_quantize_dynamic_item *)many->items)[item].shape));
}

static detent_share share_dynamic_groups(const detent_many *many, size_t item)
{
    return share_dynamic(many, item, ((const detent_fake_quantize_dynamic_item *)many->items)[item].shape.groups);
}

static detent_share share_tiles(const detent_many *many, size_t item)
{
    const detent_shape3 shape = ((const detent_fake_quantize_bwd_item *)many->items)[item].shape;
    detent_share share = {tiles_of(shape), 0};
    (void)detent_reduce_workspace(shape, &share.bytes);
    return share;
}

static detent_share share_groups(const detent_many *many, size_t item)
{
    detent_share share = share_tiles(many, item);
    share.pieces = ((const detent_fake_quantize_bwd_item *)many->items)[item].shape.groups;
    return share;
}

/* --- the calls ---------------------------------------------------------------------------------------------------- */

detent_status detent_fake_quantize_many_cpu(const detent_fake_quantize_item *items, size_t count, detent_dtype dtype,
                                            detent_parallel_for parallel)
{
    int wide = 0;
    const detent_status status = detent_check_items(items, count, dtype, &wide);
    if (status != DETENT_OK) return status;
    const detent_many many = {items, count, dtype, NULL, share_blocks, wide ? map_item_f64 : map_item_f32};
    detent_run_many(&many, DETENT_BLOCKS_A_THREAD, parallel);
    return DETENT_OK;
}

detent_status detent_fake_quantize_dynamic_many_workspace(const detent_fake_quantize_dynamic_item *items, size_t count,
                                                          size_t *bytes)
{
    return DETENT_ITEMS_WORKSPACE(items, count, &detent_fake_quantize_dynamic_workspace, bytes);
}

detent_status detent_fake_quantize_dynamic_many_cpu(const detent_fake_quantize_dynamic_item *items, size_t count,
                                                    detent_dtype dtype, void *workspace, size_t workspace_bytes,
                                                    detent_parallel_for parallel)
{
    int wide = 0;
    const detent_status status = detent_check_dynamic_items(
        items, count, dtype, &detent_fake_quantize_dynamic_workspace, workspace, workspace_bytes, &wide);
    if (status != DETENT_OK) return status;
    const int data = dtype == DETENT_F64;
    detent_many many = {items,
                        count,
                        dtype,
                        workspace,
                        share_dynamic_tiles,
                        data ? observe_dynamic_item_f64 : observe_dynamic_item_f32};
    detent_run_many(&many, 1, parallel);
    many.share = share_dynamic_groups;
    many.work = data ? join_observed_item_f64 : join_observed_item_f32;
    detent_run_many(&many, DETENT_BLOCK, parallel);
    many.work = wide ? range_dynamic_item_f64 : range_dynamic_item_f32;
    detent_run_many(&many, DETENT_BLOCK, parallel);
    many.share = share_dynamic_blocks;
    many.work = wide ? map_dynamic_item_f64 : map_dynamic_item_f32;
    detent_run_many(&many, DETENT_BLOCKS_A_THREAD, parallel);
    return DETENT_OK;
}

detent_status detent_fake_quantize_many_bwd_workspace(const detent_fake_quantize_bwd_item *items, size_t count,
                                                      size_t *bytes)
{
    return DETENT_ITEMS_WORKSPACE(items, count, &detent_fake_quantize_bwd_workspace, bytes);
}

detent_status detent_fake_quantize_many_bwd_cpu(const detent_fake_quantize_bwd_item *items, size_t count,
                                                detent_dtype dtype, void *workspace, size_t workspace_bytes,
                                                detent_parallel_for parallel)
{
    int wide = 0;
    const detent_status status = detent_check_bwd_items(items, count, dtype, &detent_fake_quantize_bwd_workspace,
                                                        workspace, workspace_bytes, &wide);
    if (status != DETENT_OK) return status;
    detent_many many = {items, count, dtype, workspace, share_tiles, wide ? reduce_item_f64 : reduce_item_f32};
    detent_run_many(&many, 1, parallel);
    many.share = share_groups;
    many.work = wide ? finish_item_f64 : finish_item_f32;
    detent_run_many(&many, DETENT_BLOCK, parallel);
    return DETENT_OK;
}

static void select_item(const detent_many *many, size_t item, void *workspace, int64_t begin, int64_t end)
{
    (void)workspace;
    const detent_fake_quantize_mask_bwd_item *it = (const detent_fake_quantize_mask_bwd_item *)many->items + item;
    detent_select select = {it->grad_y, it->mask, it->grad_x, many->dtype, it->n};
    detent_select_blocks(begin, end, &select);
}

detent_status detent_fake_quantize_mask_many_bwd_cpu(const detent_fake_quantize_mask_bwd_item *items, size_t count,
                                                     detent_dtype dtype, detent_parallel_for parallel)
{
    const detent_status status = detent_check_mask_bwd_items(items, count, dtype);
    if (status != DETENT_OK) return status;
    const detent_many many = {items, count, dtype, NULL, share_selected_blocks, select_item};
    detent_run_many(&many, DETENT_BLOCKS_A_THREAD, parallel);
    return DETENT_OK;
}
