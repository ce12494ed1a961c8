/* How the CPU goes through a tensor [outer, groups, inner] with one encoding per group.
 *
 * map     one output per input: flat blocks of DETENT_BLOCK elements, any of which may cross groups
 * reduce  one output per input and two sums per group: tiles of whole groups, each tile leaving partial sums at a place
 *         that depends on the shape alone, added up in order afterwards; so threads cannot change a bit
 *
 * Families bring the loops (loops.h): `rows` over whole groups or a piece of one, `varying` where each element has its
 * own scale (groups shorter than sixteen, whose encodings are laid out side by side first: all of them at once, if they
 * are not too many). */
#ifndef DETENT_CPU_WALK_H
#define DETENT_CPU_WALK_H

#include "../math/encode.h"
#include "loops.h"

/* Elements of groups shorter than sixteen that have their encodings side by side, and that a tile of such groups sums
 * up as columns. */
enum { DETENT_COLUMNS = 2048 };

/* The tiles of a reduction. Steps are the extent of one tile, counts how many there are; with `narrow`, for groups
 * shorter than sixteen, a tile's group_step * inner columns are at most DETENT_COLUMNS. */
typedef struct detent_tiles {
    size_t outer_step, group_step, inner_step;
    size_t outer_count, group_count, inner_count;
    int narrow;
} detent_tiles;

typedef struct detent_tile {
    size_t outer_begin, outer_end, group_begin, group_end, inner_begin, inner_end;
    size_t partial; /* row of `groups` partials this tile writes into */
} detent_tile;

/* Blocks of a map that are worth a thread. */
enum { DETENT_BLOCKS_A_THREAD = 32 };

detent_tiles detent_tiles_of(detent_shape3 shape);
detent_tile detent_tile_at(const detent_tiles *tiles, detent_shape3 shape, size_t index);
static inline size_t detent_tile_count(const detent_tiles *tiles)
{
    return tiles->outer_count * tiles->group_count * tiles->inner_count;
}
static inline size_t detent_partial_rows(const detent_tiles *tiles)
{
    return tiles->outer_count * tiles->inner_count;
}

/* How a narrow tile is gone through: `width` elements at a time, the columns of `fold` rows, which follow each other in
 * memory where there is more than one. */
typedef struct detent_columns {
    size_t each, fold, width;
} detent_columns;

static inline detent_columns detent_columns_of(const detent_tile *tile, detent_shape3 shape)
{
    const size_t each = (tile->group_end - tile->group_begin) * shape.inner;
    const int whole = tile->group_end - tile->group_begin == shape.groups;
    const size_t rows = tile->outer_end - tile->outer_begin;
    const size_t fold = whole ? detent_min_size(rows, detent_max_size(1, DETENT_BLOCK / each)) : 1;
    return (detent_columns){each, fold, fold * each};
}
/* The same from row `outer` on: fewer rows may be left. */
static inline size_t detent_width_at(const detent_columns *columns, const detent_tile *tile, size_t outer)
{
    return detent_min_size(columns->fold, tile->outer_end - outer) * columns->each;
}

/* 16 bytes a group and partial row: the workspace of every reduction over two doubles. */
detent_status detent_reduce_workspace(detent_shape3 shape, size_t *bytes);

#define DETENT_DECLARE_WALK(SUFFIX, REAL)                                                                              \
    typedef struct detent_map_##SUFFIX {                                                                               \
        void (*rows)(const REAL *x, REAL *y, size_t rows, size_t n, const REAL *scale, const REAL *zero_point,         \
                     REAL qmin, REAL qmax, detent_interval_##SUFFIX activation);                                       \
        void (*varying)(const REAL *x, REAL *y, size_t n, const REAL *scale, const REAL *zero_point, REAL qmin,        \
                        REAL qmax, detent_interval_##SUFFIX activation);                                               \
        void (*masked_rows)(const REAL *x, REAL *y, uint8_t *inside, size_t rows, size_t n, const REAL *scale,         \
                            const REAL *zero_point, REAL qmin, REAL qmax, detent_interval_##SUFFIX activation);        \
        void (*masked_varying)(const REAL *x, REAL *y, uint8_t *inside, size_t n, const REAL *scale,                   \
                               const REAL *zero_point, REAL qmin, REAL qmax, detent_interval_##SUFFIX activation);     \
        const void *x;                                                                                                 \
        const void *residual; /* the loops are given x + residual; NULL: x */                                          \
        void *sum;            /* and where that is kept; may be NULL */                                                \
        void *y;                                                                                                       \
        uint8_t *mask;                                                                                                 \
        detent_dtype x_dtype, y_dtype;                                                                                 \
        detent_shape3 shape;                                                                                           \
        const detent_encoding *encoding;                                                                               \
        detent_real_grid_##SUFFIX grid; /* its ends go to the loops; a float format's are 2^min_exponent and max */    \
        REAL absent;                    /* what the loops get where the encoding has no zero point */                  \
        detent_interval_##SUFFIX activation; /* for loops that have one */                                             \
        /* What the loops find in y, for elements at .. at + n; NULL: nothing. Then y must not be x. */                \
        void (*before)(REAL * y, size_t at, size_t n, const void *context);                                            \
        const void *before_context;                                                                                    \
    } detent_map_##SUFFIX;                                                                                             \
    void detent_map_run_##SUFFIX(const detent_map_##SUFFIX *map, detent_parallel_for parallel);                        \
    /* Blocks begin .. end of a map. */                                                                                \
    void detent_map_blocks_##SUFFIX(int64_t begin, int64_t end, void *map);                                            \
                                                                                                                       \
    /* Both store grad_x; `rows` the sums of each row, `varying` the terms of both sums. Where second is NULL there is \
     * one sum. */                                                                                                     \
    typedef struct detent_reduce_##SUFFIX {                                                                            \
        void (*rows)(const REAL *grad_y, const REAL *x, REAL *grad_x, REAL *first, REAL *second, size_t rows,          \
                     size_t n, const REAL *scale, const REAL *zero_point, REAL qmin, REAL qmax,                        \
                     detent_interval_##SUFFIX activation);                                                             \
        void (*varying)(const REAL *grad_y, const REAL *x, REAL *grad_x, REAL *first, REAL *second, size_t n,          \
                        const REAL *scale, const REAL *zero_point, REAL qmin, REAL qmax,                               \
                        detent_interval_##SUFFIX activation);                                                          \
        const void *grad_y, *x;                                                                                        \
        void *grad_x;                                                                                                  \
        REAL *grad_first, *grad_second;                                                                                \
        detent_dtype grad_dtype, x_dtype;                                                                              \
        detent_shape3 shape;                                                                                           \
        const detent_encoding *encoding;                                                                               \
        detent_interval_##SUFFIX activation; /* for loops that have one */                                             \
        double gradient_scale;                                                                                         \
        int with_second; /* there is a zero point to differentiate by */                                               \
        double *partials;                                                                                              \
    } detent_reduce_##SUFFIX;                                                                                          \
    void detent_reduce_run_##SUFFIX(const detent_reduce_##SUFFIX *reduce, detent_parallel_for parallel);               \
    /* Tiles begin .. end of a reduction, and when all are done its groups begin .. end. */                            \
    void detent_reduce_tiles_##SUFFIX(int64_t begin, int64_t end, void *reduce);                                       \
    void detent_reduce_groups_##SUFFIX(int64_t begin, int64_t end, void *reduce);

DETENT_DECLARE_WALK(f32, float)
DETENT_DECLARE_WALK(f64, double)

#endif
