#include "observe.h"

#include "../math/observe.h"
#include "check.h"
#include "walk.h"

#define DETENT_FORMULAS "../cpu/observe.inl"
#include "../math/for_each_real.h"

/* A row of partials holds min, max (8 bytes each, so that both reals fit) and a count for every group. */
detent_status detent_observe_min_max_workspace(detent_shape3 shape, size_t *bytes)
{
    size_t two = 0;
    if (bytes == NULL) return DETENT_BAD_ARGUMENT;
    const detent_status status = detent_reduce_workspace(shape, &two);
    if (status == DETENT_OK) *bytes = two / 2 * 3;
    return status;
}

detent_status detent_observe_min_max_cpu(const void *x, void *min, void *max, int64_t *ignored, detent_dtype dtype,
                                         detent_shape3 shape, detent_observe_mode mode, double momentum,
                                         void *workspace, size_t workspace_bytes, detent_parallel_for parallel)
{
    size_t elements = 0, needed = 0;
    detent_status status = detent_check_shape(shape, &elements);
    if (status == DETENT_OK) status = detent_observe_min_max_workspace(shape, &needed);
    if (status != DETENT_OK) return status;
    if (!detent_is_float(dtype)) return DETENT_BAD_DTYPE;
    if (mode < DETENT_OBSERVE_REPLACE || mode > DETENT_OBSERVE_MOVING_AVERAGE) return DETENT_BAD_ARGUMENT;
    if ((elements > 0 && x == NULL) || (shape.groups > 0 && (min == NULL || max == NULL || ignored == NULL)))
        return DETENT_BAD_ARGUMENT;
    if (workspace_bytes < needed || (needed > 0 && workspace == NULL)) return DETENT_WORKSPACE_SMALL;
    detent_observation job = {x, dtype, shape, workspace, min, max, ignored, mode, momentum};
    const int wide = dtype == DETENT_F64;
    const detent_tiles tiles = detent_tiles_of(shape);
    detent_run(parallel, detent_tile_count(&tiles), 1, wide ? detent_observe_tiles_f64 : detent_observe_tiles_f32,
               &job);
    detent_run(parallel, shape.groups, DETENT_BLOCK, wide ? detent_observe_groups_f64 : detent_observe_groups_f32,
               &job);
    return DETENT_OK;
}
