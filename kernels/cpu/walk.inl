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
    real scale[DETENT_ROWS], zero_point[DETENT_ROWS];
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
        if (!encoding->trained) return;
        for (size_t i = 0; i < n; ++i) scale[i] = DETENT_REAL(detent_usable_scale)(scale[i], grid);
        if (from == NULL) return;
        for (size_t i = 0; i < n; ++i) zero_point[i] = DETENT_REAL(detent_clamp)(zero_point[i], grid.qmin, grid.qmax);
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

/* Scales and zero points of elements, side by side. Each is written as sixteen, more than any run here, and what is too
 * many written over by the next: hence the room at the end. */
typedef struct DETENT_REAL(spread_encodings) {
    real scale[DETENT_COLUMNS + DETENT_BLOCK + DETENT_LANES], zero_point[DETENT_COLUMNS + DETENT_BLOCK + DETENT_LANES];
} DETENT_REAL(spread_encodings);

DETENT_CLONES static void DETENT_REAL(fill_runs)(const real *restrict values, size_t n, size_t first_run, size_t run,
                                                 real *restrict to)
{
    for (size_t group = 0, at = 0; at < n; at += group == 0 ? first_run : run, ++group)
        for (size_t i = 0; i < DETENT_LANES; ++i) to[at + i] = values[group];
}

/* Those of n elements from flat index `at`, which is 0 where they repeat themselves. */
static void DETENT_REAL(spread)(const ENCODING_READER *reader, detent_shape3 shape, size_t at, size_t n,
                                DETENT_REAL(spread_encodings) * to)
{
    const size_t distinct = detent_min_size(n, shape.groups * shape.inner);
    const size_t row = at / shape.inner, spanned = (at + distinct - 1) / shape.inner - row + 1;
    const int alone = shape.inner == 1;
    real scale[DETENT_COLUMNS / 2 + 2], zero_point[DETENT_COLUMNS / 2 + 2];

    for (size_t done = 0; done < spanned;) {
        const size_t group = (row + done) % shape.groups;
        const size_t run = detent_min_size(spanned - done, shape.groups - group);
        DETENT_REAL(read_groups)
        (reader->encoding, reader->grid, reader->absent, group, run, (alone ? to->scale : scale) + done,
         (alone ? to->zero_point : zero_point) + done);
        done += run;
    }
    if (!alone) {
        const size_t first_run = shape.inner - at % shape.inner;
        DETENT_REAL(fill_runs)(scale, distinct, first_run, shape.inner, to->scale);
        DETENT_REAL(fill_runs)(zero_point, distinct, first_run, shape.inner, to->zero_point);
    }
    for (size_t done = distinct; done < n; done *= 2) {
        const size_t more = detent_min_size(done, n - done);
        memcpy(to->scale + done, to->scale, more * sizeof(real));
        memcpy(to->zero_point + done, to->zero_point, more * sizeof(real));
    }
}

void DETENT_REAL(detent_map_blocks)(int64_t begin, int64_t end, void *context)
{
    const MAP *map = context;
    const detent_shape3 shape = map->shape;
    const size_t total = shape.outer * shape.groups * shape.inner;
    const int narrow = shape.inner < DETENT_LANES && shape.groups > 1;
    ENCODING_READER reader;
    DETENT_REAL(start_reader)(&reader, map->encoding, map->grid, map->absent);
    const real qmin = reader.grid.qmin, qmax = reader.grid.qmax;
    real x_buffer[DETENT_BLOCK], y_buffer[DETENT_BLOCK];
    uint8_t inside[DETENT_BLOCK];
    detent_block room;
    const size_t period = shape.groups * shape.inner;
    DETENT_REAL(spread_encodings) each;
    if (narrow && period <= DETENT_COLUMNS) DETENT_REAL(spread)(&reader, shape, 0, period + DETENT_BLOCK, &each);

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
            if (period > DETENT_COLUMNS) DETENT_REAL(spread)(&reader, shape, at, n, &each);
            const size_t phase = period > DETENT_COLUMNS ? 0 : at % period;
            const real *scale = each.scale + phase, *zero_point = each.zero_point + phase;
            if (map->mask != NULL)
                map->masked_varying(x, y, inside, n, scale, zero_point, qmin, qmax, map->activation);
            else
                map->varying(x, y, n, scale, zero_point, qmin, qmax, map->activation);
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
                if (map->mask != NULL)
                    map->masked_rows(x + done, y + done, inside + done, rows, run, reader.scale, reader.zero_point,
                                     qmin, qmax, map->activation);
                else
                    map->rows(x + done, y + done, rows, run, reader.scale, reader.zero_point, qmin, qmax,
                              map->activation);
                done += rows * run;
            }
        }
        DETENT_REAL(detent_write)(map->y, map->y_dtype, at, n, y);
        if (map->mask != NULL) detent_pack_bits(inside, n, map->mask + at / 8);
    }
}

void DETENT_REAL(detent_map_run)(const MAP *map, detent_parallel_for parallel)
{
    const size_t total = map->shape.outer * map->shape.groups * map->shape.inner;
    detent_run(parallel, detent_ceil_div(total, DETENT_BLOCK), DETENT_BLOCKS_A_THREAD, DETENT_REAL(detent_map_blocks),
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

/* Columns are summed over the rows of the tile first: sixteen times in `real`, as a lane sums, then in double. */
static void DETENT_REAL(reduce_narrow)(const REDUCE *reduce, const detent_tile *tile, DETENT_REAL(reduce_block) * block)
{
    const detent_shape3 shape = reduce->shape;
    const detent_columns columns = detent_columns_of(tile, shape);
    double *sums = reduce->partials + 2 * (tile->partial * shape.groups + tile->group_begin);
    ENCODING_READER reader;
    DETENT_REAL(start_reader)(&reader, reduce->encoding, DETENT_REAL(detent_real_grid_of)(reduce->encoding), 0);
    DETENT_REAL(spread_encodings) each;
    real first_terms[DETENT_COLUMNS], second_terms[DETENT_COLUMNS];
    double first[DETENT_COLUMNS], second[DETENT_COLUMNS];
    for (size_t i = 0; i < columns.width; ++i) first[i] = second[i] = 0;

    DETENT_REAL(spread)(&reader, shape, tile->group_begin * shape.inner, columns.width, &each);
    for (size_t outer = tile->outer_begin; outer < tile->outer_end;) {
        for (size_t i = 0; i < columns.width; ++i) first_terms[i] = second_terms[i] = 0;
        for (size_t turn = 0; turn < DETENT_LANES && outer < tile->outer_end; ++turn, outer += columns.fold) {
            const size_t at = (outer * shape.groups + tile->group_begin) * shape.inner;
            const size_t width = detent_width_at(&columns, tile, outer);
            for (size_t i = 0; i < width; i += DETENT_BLOCK) {
                DETENT_REAL(open_block)(reduce, block, at + i, detent_min_size(DETENT_BLOCK, width - i));
                reduce->varying(block->grad_y, block->x, block->grad_x, first_terms + i,
                                reduce->with_second ? second_terms + i : NULL, block->n, each.scale + i,
                                each.zero_point + i, reader.grid.qmin, reader.grid.qmax, reduce->activation);
                DETENT_REAL(close_block)(reduce, block);
            }
        }
        DETENT_REAL(add_columns)(first_terms, first, columns.width);
        if (reduce->with_second) DETENT_REAL(add_columns)(second_terms, second, columns.width);
    }
    const size_t groups = tile->group_end - tile->group_begin;
    for (size_t i = 0; i < 2 * groups; ++i) sums[i] = 0;
    for (size_t i = 0, group = 0; i < columns.width; group = group + 1 == groups ? 0 : group + 1) {
        double of_first = 0, of_second = 0; /* in registers: sums may be where `first` is, for all a compiler knows */
        for (const size_t end = i + shape.inner; i < end; ++i) {
            of_first += first[i];
            of_second += second[i];
        }
        sums[2 * group] += of_first;
        sums[2 * group + 1] += of_second;
    }
}

void DETENT_REAL(detent_reduce_tiles)(int64_t begin, int64_t end, void *context)
{
    const REDUCE *reduce = context;
    const detent_tiles tiles = detent_tiles_of(reduce->shape);
    DETENT_REAL(reduce_block) block;
    for (int64_t index = begin; index < end; ++index) {
        const detent_tile tile = detent_tile_at(&tiles, reduce->shape, (size_t)index);
        (tiles.narrow ? DETENT_REAL(reduce_narrow) : DETENT_REAL(reduce_wide))(reduce, &tile, &block);
    }
}

/* sums[i] += more[i] */
DETENT_CLONES static void DETENT_REAL(add_partials)(const double *restrict more, double *restrict sums, size_t n)
{
    for (size_t i = 0; i < n; ++i) sums[i] += more[i];
}

/* n groups from the first on: LSQ's factor and, for a range or a trained scale, the chain rule. */
DETENT_CLONES static void DETENT_REAL(store_sums)(const REDUCE *reduce, size_t first, size_t n,
                                                  const double *restrict sums)
{
    const double factor = reduce->gradient_scale;
    real *restrict grad_first = reduce->grad_first + first;
    if (reduce->encoding->scale != NULL) {
        for (size_t i = 0; i < n; ++i) grad_first[i] = (real)(sums[2 * i] * factor);
        if (reduce->encoding->trained) {
            const real *restrict scale = (const real *)reduce->encoding->scale + first;
            for (size_t i = 0; i < n; ++i) grad_first[i] *= DETENT_REAL(detent_usable_scale_slope)(scale[i]);
        }
        if (reduce->grad_second == NULL) return;
        real *restrict grad_second = reduce->grad_second + first;
        for (size_t i = 0; i < n; ++i) grad_second[i] = (real)(sums[2 * i + 1] * factor);
    } else {
        const DETENT_REAL(detent_real_grid) grid = DETENT_REAL(detent_real_grid_of)(reduce->encoding);
        const real *restrict min = (const real *)reduce->encoding->min + first, *restrict max =
                                                                                    (const real *)
                                                                                        reduce->encoding->max +
                                                                                    first;
        real *restrict grad_second = reduce->grad_second + first;
        for (size_t i = 0; i < n; ++i) {
            double grad_min, grad_max;
            DETENT_REAL(detent_range_bwd)(sums[2 * i], sums[2 * i + 1], min[i], max[i], grid, &grad_min, &grad_max);
            grad_first[i] = (real)(grad_min * factor);
            grad_second[i] = (real)(grad_max * factor);
        }
    }
}

/* Partials of each group, in order. */
void DETENT_REAL(detent_reduce_groups)(int64_t begin, int64_t end, void *context)
{
    const REDUCE *reduce = context;
    const detent_tiles tiles = detent_tiles_of(reduce->shape);
    const size_t rows = detent_partial_rows(&tiles);
    double sums[2 * DETENT_BLOCK];
    for (size_t first = (size_t)begin; first < (size_t)end; first += DETENT_BLOCK) {
        const size_t n = detent_min_size(DETENT_BLOCK, (size_t)end - first);
        memset(sums, 0, sizeof sums);
        for (size_t row = 0; row < rows; ++row)
            DETENT_REAL(add_partials)(reduce->partials + 2 * (row * reduce->shape.groups + first), sums, 2 * n);
        DETENT_REAL(store_sums)(reduce, first, n, sums);
    }
}

void DETENT_REAL(detent_reduce_run)(const REDUCE *reduce, detent_parallel_for parallel)
{
    const detent_tiles tiles = detent_tiles_of(reduce->shape);
    detent_run(parallel, detent_tile_count(&tiles), 1, DETENT_REAL(detent_reduce_tiles), (void *)reduce);
    const size_t enough = detent_max_size(DETENT_BLOCK, TILE / detent_max_size(1, detent_partial_rows(&tiles)));
    detent_run(parallel, reduce->shape.groups, enough, DETENT_REAL(detent_reduce_groups), (void *)reduce);
}

#undef ENCODING_READER
#undef MAP
#undef REDUCE
