/* walk.c for one real type. */
#define ENCODING_READER DETENT_REAL(encoding_reader)
#define MAP DETENT_REAL(detent_map)
#define REDUCE DETENT_REAL(detent_reduce)

/* Scale and zero point of the groups of one call, whichever way the encoding is held; the last ones derived are kept.
 */
typedef struct ENCODING_READER {
    const detent_encoding *encoding;
    DETENT_REAL(detent_real_grid) grid;
    real absent; /* stands for a zero point where there is none */
    size_t first, count;
    real scale[ROWS], zero_point[ROWS];
} ENCODING_READER;

/* Scale and zero point of n groups in a row. */
DETENT_CLONES static void DETENT_REAL(read_groups)(const detent_encoding *encoding, DETENT_REAL(detent_real_grid) grid,
                                                   real absent, size_t group, size_t n, real *restrict scale,
                                                   real *restrict zero_point)
{
    if (encoding->scale != NULL) {
        const real *from = (const real *)encoding->scale + group;
        for (size_t i = 0; i < n; ++i) scale[i] = from[i];
        from = encoding->zero_point;
        for (size_t i = 0; i < n; ++i) zero_point[i] = from != NULL ? DETENT_RINT(from[group + i]) : absent;
    } else {
        const real *min = (const real *)encoding->min + group, *max = (const real *)encoding->max + group;
        for (size_t i = 0; i < n; ++i) {
            scale[i] = DETENT_REAL(detent_scale_of_range)(min[i], max[i], grid);
            zero_point[i] = DETENT_REAL(detent_zero_point_of_range)(min[i], scale[i], grid);
        }
    }
}

static void DETENT_REAL(start_reader)(ENCODING_READER *reader, const detent_encoding *encoding,
                                      DETENT_REAL(detent_real_grid) grid, real absent)
{
    reader->encoding = encoding;
    reader->grid = grid;
    reader->absent = absent;
    reader->first = reader->count = 0;
}

static inline void DETENT_REAL(read_rows)(ENCODING_READER *reader, size_t first, size_t count)
{
    if (first == reader->first && count == reader->count) return;
    reader->first = first;
    reader->count = count;
    DETENT_REAL(read_groups)
    (reader->encoding, reader->grid, reader->absent, first, count, reader->scale, reader->zero_point);
}

/* The encodings of n elements from flat index `at`, side by side. */
static void DETENT_REAL(spread)(const ENCODING_READER *reader, detent_shape3 shape, size_t at, size_t n, real *scale,
                                real *zero_point)
{
    real group_scale[DETENT_BLOCK], group_zero_point[DETENT_BLOCK];
    const size_t row = at / shape.inner, spanned = (at + n - 1) / shape.inner - row + 1;
    real *scales = shape.inner == 1 ? scale : group_scale,
         *zero_points = shape.inner == 1 ? zero_point : group_zero_point;

    for (size_t done = 0; done < spanned;) {
        const size_t group = (row + done) % shape.groups;
        const size_t run = detent_min_size(spanned - done, shape.groups - group);
        DETENT_REAL(read_groups)
        (reader->encoding, reader->grid, reader->absent, group, run, scales + done, zero_points + done);
        done += run;
    }
    if (shape.inner == 1) return;
    size_t end = shape.inner - at % shape.inner; /* of the group's run, counted from `at` */
    for (size_t i = 0, group = 0; i < n; end += shape.inner, ++group)
        for (const size_t stop = detent_min_size(n, end); i < stop; ++i) {
            scale[i] = group_scale[group];
            zero_point[i] = group_zero_point[group];
        }
}

static void DETENT_REAL(map_blocks)(int64_t begin, int64_t end, void *context)
{
    const MAP *map = context;
    const detent_shape3 shape = map->shape;
    const size_t total = shape.outer * shape.groups * shape.inner;
    const int narrow = shape.inner < DETENT_LANES && shape.groups > 1;
    ENCODING_READER reader;
    DETENT_REAL(start_reader)(&reader, map->encoding, map->grid, map->absent);
    const real qmin = reader.grid.qmin, qmax = reader.grid.qmax;
    real x_buffer[DETENT_BLOCK], y_buffer[DETENT_BLOCK], scale[DETENT_BLOCK], zero_point[DETENT_BLOCK];
    uint8_t inside[DETENT_BLOCK];
    detent_block room;

    for (size_t at = (size_t)begin * DETENT_BLOCK; at < detent_min_size(total, (size_t)end * DETENT_BLOCK);
         at += DETENT_BLOCK) {
        const size_t n = detent_min_size(DETENT_BLOCK, total - at);
        const real *x =
            map->residual == NULL
                ? DETENT_REAL(detent_read)(map->x, map->x_dtype, at, n, x_buffer)
                : DETENT_REAL(detent_read)(detent_add(map->x, map->residual, map->sum, map->x_dtype, at, n, &room),
                                           map->x_dtype, 0, n, x_buffer);
        real *y = DETENT_REAL(detent_target)(map->y, map->y_dtype, at, y_buffer);
        if (map->before != NULL) map->before(y, at, n, map->before_context);
        if (narrow) {
            DETENT_REAL(spread)(&reader, shape, at, n, scale, zero_point);
            map->varying(x, y, n, scale, zero_point, qmin, qmax, map->activation);
            if (map->mask != NULL) map->mask_varying(x, inside, n, scale, zero_point, qmin, qmax, map->activation);
        } else {
            for (size_t done = 0; done < n;) {
                /* Whole groups, or what is left of one, or of the block. */
                const size_t group = (at + done) / shape.inner % shape.groups;
                size_t run = shape.inner - (at + done) % shape.inner, rows = 1;
                if (run == shape.inner && run <= n - done)
                    rows = detent_min_size((n - done) / run, shape.groups - group);
                else
                    run = detent_min_size(run, n - done);
                DETENT_REAL(read_rows)(&reader, group, rows);
                map->rows(x + done, y + done, rows, run, reader.scale, reader.zero_point, qmin, qmax, map->activation);
                if (map->mask != NULL)
                    map->mask_rows(x + done, inside + done, rows, run, reader.scale, reader.zero_point, qmin, qmax,
                                   map->activation);
                done += rows * run;
            }
        }
        DETENT_REAL(detent_write)(map->y, map->y_dtype, at, n, y);
        if (map->mask != NULL) pack_bits(inside, n, map->mask + at / 8);
    }
}

void DETENT_REAL(detent_map_run)(const MAP *map, detent_parallel_for parallel)
{
    const size_t total = map->shape.outer * map->shape.groups * map->shape.inner;
    detent_run(parallel, detent_ceil_div(total, DETENT_BLOCK), TILE / DETENT_BLOCK, DETENT_REAL(map_blocks),
               (void *)map);
}

/* sums[i] += terms[i]: the columns of a narrow tile. */
DETENT_CLONES static void DETENT_REAL(add_columns)(const real *restrict terms, double *restrict sums, size_t n)
{
    for (size_t i = 0; i < n; ++i) sums[i] += (double)terms[i];
}

/* Where a block of a reduction lies, and room for what it needs: its elements as reals, its terms. */
typedef struct DETENT_REAL(reduce_block) {
    const real *grad_y, *x;
    real *grad_x;
    size_t at, n;
    real grad_y_room[DETENT_BLOCK], x_room[DETENT_BLOCK], grad_x_room[DETENT_BLOCK];
    real first[DETENT_BLOCK], second[DETENT_BLOCK];
} DETENT_REAL(reduce_block);

static void DETENT_REAL(open_block)(const REDUCE *reduce, DETENT_REAL(reduce_block) * block, size_t at, size_t n)
{
    block->at = at;
    block->n = n;
    block->grad_y = DETENT_REAL(detent_read)(reduce->grad_y, reduce->grad_dtype, at, n, block->grad_y_room);
    block->x = DETENT_REAL(detent_read)(reduce->x, reduce->x_dtype, at, n, block->x_room);
    block->grad_x = reduce->grad_x == NULL
                        ? block->grad_x_room
                        : DETENT_REAL(detent_target)(reduce->grad_x, reduce->grad_dtype, at, block->grad_x_room);
}

static void DETENT_REAL(close_block)(const REDUCE *reduce, const DETENT_REAL(reduce_block) * block)
{
    if (reduce->grad_x != NULL)
        DETENT_REAL(detent_write)(reduce->grad_x, reduce->grad_dtype, block->at, block->n, block->grad_x);
}

/* Blocks of whole groups, or of a piece of one. */
static void DETENT_REAL(reduce_wide)(const REDUCE *reduce, const detent_tile *tile, DETENT_REAL(reduce_block) * block)
{
    const detent_shape3 shape = reduce->shape;
    const size_t most_rows = detent_max_size(1, DETENT_BLOCK / shape.inner);
    ENCODING_READER reader;
    DETENT_REAL(start_reader)(&reader, reduce->encoding, DETENT_REAL(detent_real_grid_of)(reduce->encoding), 0);

    for (size_t group = tile->group_begin; group < tile->group_end; group += most_rows) {
        const size_t rows = detent_min_size(most_rows, tile->group_end - group);
        double *sums = reduce->partials + 2 * (tile->partial * shape.groups + group);
        for (size_t i = 0; i < 2 * rows; ++i) sums[i] = 0;
        DETENT_REAL(read_rows)(&reader, group, rows);
        for (size_t outer = tile->outer_begin; outer < tile->outer_end; ++outer)
            for (size_t inner = tile->inner_begin; inner < tile->inner_end; inner += DETENT_BLOCK) {
                const size_t run = detent_min_size(DETENT_BLOCK, tile->inner_end - inner);
                DETENT_REAL(open_block)
                (reduce, block, (outer * shape.groups + group) * shape.inner + inner, rows * run);
                reduce->rows(block->grad_y, block->x, block->grad_x, block->first,
                             reduce->with_second ? block->second : NULL, rows, run, reader.scale, reader.zero_point,
                             reader.grid.qmin, reader.grid.qmax, reduce->activation);
                DETENT_REAL(close_block)(reduce, block);
                for (size_t row = 0; row < rows; ++row) {
                    sums[2 * row] += (double)block->first[row];
                    if (reduce->with_second) sums[2 * row + 1] += (double)block->second[row];
                }
            }
    }
}

/* Columns are summed over the rows of the tile first, in double. */
static void DETENT_REAL(reduce_narrow)(const REDUCE *reduce, const detent_tile *tile, DETENT_REAL(reduce_block) * block)
{
    const detent_shape3 shape = reduce->shape;
    const size_t columns = (tile->group_end - tile->group_begin) * shape.inner;
    double *sums = reduce->partials + 2 * (tile->partial * shape.groups + tile->group_begin);
    ENCODING_READER reader;
    DETENT_REAL(start_reader)(&reader, reduce->encoding, DETENT_REAL(detent_real_grid_of)(reduce->encoding), 0);
    real scale[DETENT_BLOCK], zero_point[DETENT_BLOCK];
    double first[DETENT_BLOCK], second[DETENT_BLOCK];

    for (size_t i = 0; i < columns; ++i) first[i] = second[i] = 0;
    DETENT_REAL(spread)(&reader, shape, tile->group_begin * shape.inner, columns, scale, zero_point);
    for (size_t outer = tile->outer_begin; outer < tile->outer_end; ++outer) {
        DETENT_REAL(open_block)
        (reduce, block, (outer * shape.groups + tile->group_begin) * shape.inner, columns);
        reduce->varying(block->grad_y, block->x, block->grad_x, block->first,
                        reduce->with_second ? block->second : NULL, columns, scale, zero_point, reader.grid.qmin,
                        reader.grid.qmax, reduce->activation);
        DETENT_REAL(close_block)(reduce, block);
        DETENT_REAL(add_columns)(block->first, first, columns);
        if (reduce->with_second) DETENT_REAL(add_columns)(block->second, second, columns);
    }
    for (size_t i = 0; i < columns; ++i) {
        const size_t group = i / shape.inner;
        if (i % shape.inner == 0) sums[2 * group] = sums[2 * group + 1] = 0;
        sums[2 * group] += first[i];
        sums[2 * group + 1] += second[i];
    }
}

static void DETENT_REAL(reduce_tiles)(int64_t begin, int64_t end, void *context)
{
    const REDUCE *reduce = context;
    const detent_tiles tiles = detent_tiles_of(reduce->shape);
    DETENT_REAL(reduce_block) block;
    for (int64_t index = begin; index < end; ++index) {
        const detent_tile tile = detent_tile_at(&tiles, reduce->shape, (size_t)index);
        (tiles.narrow ? DETENT_REAL(reduce_narrow) : DETENT_REAL(reduce_wide))(reduce, &tile, &block);
    }
}

/* Partials of each group, in order, then LSQ's factor and, for a range, the chain rule. */
static void DETENT_REAL(finish_groups)(int64_t begin, int64_t end, void *context)
{
    const REDUCE *reduce = context;
    const detent_tiles tiles = detent_tiles_of(reduce->shape);
    const detent_encoding *encoding = reduce->encoding;
    const DETENT_REAL(detent_real_grid) grid = DETENT_REAL(detent_real_grid_of)(encoding);
    for (size_t group = (size_t)begin; group < (size_t)end; ++group) {
        double first = 0, second = 0;
        for (size_t row = 0; row < detent_partial_rows(&tiles); ++row) {
            first += reduce->partials[2 * (row * reduce->shape.groups + group)];
            second += reduce->partials[2 * (row * reduce->shape.groups + group) + 1];
        }
        if (encoding->scale == NULL) DETENT_REAL(detent_range_bwd)
        (first, second, ((const real *)encoding->min)[group], ((const real *)encoding->max)[group], grid, &first,
         &second);
        reduce->grad_first[group] = (real)(first * reduce->gradient_scale);
        if (reduce->grad_second != NULL) reduce->grad_second[group] = (real)(second * reduce->gradient_scale);
    }
}

void DETENT_REAL(detent_reduce_run)(const REDUCE *reduce, detent_parallel_for parallel)
{
    const detent_tiles tiles = detent_tiles_of(reduce->shape);
    detent_run(parallel, detent_tile_count(&tiles), 1, DETENT_REAL(reduce_tiles), (void *)reduce);
    detent_run(parallel, reduce->shape.groups, TILE, DETENT_REAL(finish_groups), (void *)reduce);
}

#undef ENCODING_READER
#undef MAP
#undef REDUCE
