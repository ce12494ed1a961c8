#include "walk.h"

#include <math.h>

#include "check.h"

/* Elements a tile should hold: enough to pay for its start, few enough that two cores share a layer evenly. */
enum { TILE = 16384 };

/* Rows a narrow tile should have: its columns leave two sums each, whatever the number of rows. */
enum { NARROW_ROWS = 32 };

detent_tiles detent_tiles_of(detent_shape3 shape)
{
    detent_tiles tiles = {0};
    if (shape.outer == 0 || shape.groups == 0 || shape.inner == 0) return tiles;
    tiles.narrow = shape.inner < DETENT_LANES;
    const size_t wanted = tiles.narrow ? DETENT_COLUMNS : TILE;
    tiles.inner_step = detent_min_size(shape.inner, wanted);
    tiles.group_step = shape.inner > wanted ? 1 : detent_min_size(shape.groups, wanted / tiles.inner_step);
    tiles.group_step = detent_min_size(tiles.group_step, tiles.narrow ? DETENT_COLUMNS : DETENT_BLOCK);
    const size_t rows = TILE / (tiles.group_step * tiles.inner_step);
    tiles.outer_step = detent_min_size(shape.outer, detent_max_size(tiles.narrow ? NARROW_ROWS : 1, rows));
    tiles.outer_count = detent_ceil_div(shape.outer, tiles.outer_step);
    tiles.group_count = detent_ceil_div(shape.groups, tiles.group_step);
    tiles.inner_count = detent_ceil_div(shape.inner, tiles.inner_step);
    return tiles;
}

detent_tile detent_tile_at(const detent_tiles *tiles, detent_shape3 shape, size_t index)
{
    const size_t inner = index % tiles->inner_count;
    const size_t group = index / tiles->inner_count % tiles->group_count;
    const size_t outer = index / tiles->inner_count / tiles->group_count;
    return (detent_tile){
        .outer_begin = outer * tiles->outer_step,
        .outer_end = detent_min_size(shape.outer, (outer + 1) * tiles->outer_step),
        .group_begin = group * tiles->group_step,
        .group_end = detent_min_size(shape.groups, (group + 1) * tiles->group_step),
        .inner_begin = inner * tiles->inner_step,
        .inner_end = detent_min_size(shape.inner, (inner + 1) * tiles->inner_step),
        .partial = outer * tiles->inner_count + inner,
    };
}

detent_status detent_reduce_workspace(detent_shape3 shape, size_t *bytes)
{
    size_t elements = 0;
    if (bytes == NULL) return DETENT_BAD_ARGUMENT;
    const detent_status status = detent_check_shape(shape, &elements);
    if (status != DETENT_OK) return status;
    const detent_tiles tiles = detent_tiles_of(shape);
    *bytes = detent_partial_rows(&tiles) * shape.groups * 2 * sizeof(double);
    return DETENT_OK;
}

#define DETENT_FORMULAS "../cpu/walk.inl"
#include "../math/for_each_real.h"
