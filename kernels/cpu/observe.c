#include "observe.h"

#include <math.h>
#include <string.h>

#include "../math/observe.h"
#include "check.h"
#include "walk.h"

static void join_sums(detent_sums *into, const detent_sums *more)
{
    into->size += more->size;
    into->total += more->total;
    into->square += more->square;
}

/* Partials of a group, in order. */
static void add_moments(const detent_sums *sums, size_t rows, detent_shape3 shape, int64_t ignored, size_t group,
                        double *moments)
{
    detent_sums all = {0, 0, 0};
    for (size_t row = 0; row < rows; ++row) join_sums(&all, &sums[row * shape.groups + group]);
    moments[group] += (double)(shape.outer * shape.inner) - (double)ignored;
    moments[shape.groups + group] += all.size;
    moments[2 * shape.groups + group] += all.total;
    moments[3 * shape.groups + group] += all.square;
}

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

/* And as many sums. */
detent_status detent_observe_moments_workspace(detent_shape3 shape, size_t *bytes)
{
    const detent_status status = detent_observe_min_max_workspace(shape, bytes);
    if (status == DETENT_OK) *bytes *= 2;
    return status;
}

static detent_status check(const void *x, const void *min, const void *max, const int64_t *ignored, detent_dtype dtype,
                           detent_shape3 shape, const void *workspace, size_t workspace_bytes, size_t needed_bytes)
{
    size_t elements = 0;
    const detent_status status = detent_check_shape(shape, &elements);
    if (status != DETENT_OK) return status;
    if (!detent_is_float(dtype)) return DETENT_BAD_DTYPE;
    if ((elements > 0 && x == NULL) || (shape.groups > 0 && (min == NULL || max == NULL || ignored == NULL)))
        return DETENT_BAD_ARGUMENT;
    return detent_check_workspace(workspace, workspace_bytes, needed_bytes);
}

static void run(detent_observation *job, detent_parallel_for parallel)
{
    const int wide = job->dtype == DETENT_F64;
    const detent_tiles tiles = detent_tiles_of(job->shape);
    detent_run(parallel, detent_tile_count(&tiles), 1, wide ? detent_observe_tiles_f64 : detent_observe_tiles_f32, job);
    detent_run(parallel, job->shape.groups, DETENT_BLOCK, wide ? detent_observe_groups_f64 : detent_observe_groups_f32,
               job);
}

detent_status detent_observe_min_max_cpu(const void *x, void *min, void *max, int64_t *ignored, detent_dtype dtype,
                                         detent_shape3 shape, detent_observe_mode mode, double momentum,
                                         void *workspace, size_t workspace_bytes, detent_parallel_for parallel)
{
    size_t needed = 0;
    detent_status status = detent_observe_min_max_workspace(shape, &needed);
    if (status == DETENT_OK) status = check(x, min, max, ignored, dtype, shape, workspace, workspace_bytes, needed);
    if (status != DETENT_OK) return status;
    if (mode < DETENT_OBSERVE_REPLACE || mode > DETENT_OBSERVE_MOVING_AVERAGE) return DETENT_BAD_ARGUMENT;
    detent_observation job = {.x = x,
                              .dtype = dtype,
                              .shape = shape,
                              .partials = workspace,
                              .min = min,
                              .max = max,
                              .ignored = ignored,
                              .mode = mode,
                              .momentum = momentum};
    run(&job, parallel);
    return DETENT_OK;
}

detent_status detent_observe_moments_cpu(const void *x, void *min, void *max, int64_t *ignored, double *moments,
                                         detent_dtype dtype, detent_shape3 shape, void *workspace,
                                         size_t workspace_bytes, detent_parallel_for parallel)
{
    size_t needed = 0;
    detent_status status = detent_observe_moments_workspace(shape, &needed);
    if (status == DETENT_OK) status = check(x, min, max, ignored, dtype, shape, workspace, workspace_bytes, needed);
    if (status != DETENT_OK) return status;
    if (shape.groups > 0 && moments == NULL) return DETENT_BAD_ARGUMENT;
    detent_observation job = {.x = x,
                              .dtype = dtype,
                              .shape = shape,
                              .partials = workspace,
                              .min = min,
                              .max = max,
                              .ignored = ignored,
                              .mode = DETENT_OBSERVE_RUNNING,
                              .sums = needed > 0 ? (detent_sums *)((char *)workspace + needed / 2) : NULL,
                              .moments = moments};
    run(&job, parallel);
    return DETENT_OK;
}
