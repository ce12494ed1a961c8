/* walk.c for one real type. */
#define ENCODING_READER DETENT_REAL(encoding_reader)
#define MAP DETENT_REAL(detent_map)
#define REDUCE DETENT_REAL(detent_reduce)

/* Scale and zero point of a group, whichever way the encoding is held; the last one derived is kept. */
typedef struct ENCODING_READER {
    const detent_encoding *encoding;
    DETENT_REAL(detent_real_grid) grid;
    size_t group;
    real scale, zero_point;
} ENCODING_READER;

static ENCODING_READER DETENT_REAL(reader_of)(const detent_encoding *encoding)
{
    return (ENCODING_READER){
        .encoding = encoding,
        .grid = {(real)encoding->grid.qmin, (real)encoding->grid.qmax, (real)encoding->centre, encoding->symmetric},
        .group = SIZE_MAX,
    };
}

static inline void DETENT_REAL(read_group)(ENCODING_READER *reader, size_t group)
{
    const detent_encoding *encoding = reader->encoding;
    if (group == reader->group) return;
    reader->group = group;
    if (encoding->scale != NULL) {
        const real *zero_point = encoding->zero_point;
        reader->scale = ((const real *)encoding->scale)[group];
        reader->zero_point = zero_point != NULL ? DETENT_RINT(zero_point[group]) : 0;
    } else {
        const real min = ((const real *)encoding->min)[group], max = ((const real *)encoding->max)[group];
        reader->scale = DETENT_REAL(detent_scale_of_range)(min, max, reader->grid);
        reader->zero_point = DETENT_REAL(detent_zero_point_of_range)(min, reader->scale, reader->grid);
    }
}

/* Scale and zero point of n groups in a row. */
DETENT_CLONES static void DETENT_REAL(read_groups)(const detent_encoding *encoding, DETENT_REAL(detent_real_grid) grid,
                                                   size_t group, size_t n, real *restrict scale,
                                                   real *restrict zero_point)
{
    if (encoding->scale != NULL) {
        const real *from = (const real *)encoding->scale + group;
        for (size_t i = 0; i < n; ++i) scale[i] = from[i];
        from = encoding->zero_point;
        for (size_t i = 0; i < n; ++i) zero_point[i] = from != NULL ? DETENT_RINT(from[group + i]) : 0;
    } else {
        const real *min = (const real *)encoding->min + group, *max = (const real *)encoding->max + group;
        for (size_t i = 0; i < n; ++i) {
            scale[i] = DETENT_REAL(detent_scale_of_range)(min[i], max[i], grid);
            zero_point[i] = DETENT_REAL(detent_zero_point_of_range)(min[i], scale[i], grid);
        }
    }
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
        DETENT_REAL(read_groups)(reader->encoding, reader->grid, group, run, scales + done, zero_points + done);
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
    const int narrow = shape.inner < DETENT_NARROW && shape.groups > 1;
    ENCODING_READER reader = DETENT_REAL(reader_of)(map->encoding);
    const real qmin = reader.grid.qmin, qmax = reader.grid.qmax;
    real x_buffer[DETENT_BLOCK], y_buffer[DETENT_BLOCK], scale[DETENT_BLOCK], zero_point[DETENT_BLOCK];
    uint8_t inside[DETENT_BLOCK];

    for (size_t at = (size_t)begin * DETENT_BLOCK; at < detent_min_size(total, (size_t)end * DETENT_BLOCK);
         at += DETENT_BLOCK) {
        const size_t n = detent_min_size(DETENT_BLOCK, total - at);
        const real *x = DETENT_REAL(detent_read)(map->x, map->x_dtype, at, n, x_buffer);
        real *y = DETENT_REAL(detent_target)(map->y, map->y_dtype, at, y_buffer);
        if (narrow) {
            DETENT_REAL(spread)(&reader, shape, at, n, scale, zero_point);
            map->varying(x, y, n, scale, zero_point, qmin, qmax);
            if (map->mask != NULL) map->mask_varying(x, inside, n, scale, zero_point, qmin, qmax);
        } else {
            for (size_t done = 0; done < n;) {
                const size_t row = (at + done) / shape.inner;
                const size_t run = detent_min_size(n - done, (row + 1) * shape.inner - (at + done));
                DETENT_REAL(read_group)(&reader, row % shape.groups);
                map->uniform(x + done, y + done, run, &reader.scale, &reader.zero_point, qmin, qmax);
                if (map->mask != NULL)
                    map->mask_uniform(x + done, inside + done, run, &reader.scale, &reader.zero_point, qmin, qmax);
                done += run;
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

/* Thirty-two lanes, enough to hide the latency of an addition, then a tree: the same order whatever the instruction
 * set. */
DETENT_CLONES static real DETENT_REAL(sum_of_block)(const real *restrict terms, size_t n)
{
    real lanes[32] = {0};
    size_t i = 0;
    for (; i + 32 <= n; i += 32)
        for (size_t lane = 0; lane < 32; ++lane) lanes[lane] += terms[i + lane];
    for (size_t lane = 0; i + lane < n; ++lane) lanes[lane] += terms[i + lane];
    for (size_t half = 16; half > 0; half /= 2)
        for (size_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

/* sums[i] += terms[i]: the columns of a narrow tile. */
DETENT_CLONES static void DETENT_REAL(add_columns)(const real *restrict terms, double *restrict sums, size_t n)
{
    for (size_t i = 0; i < n; ++i) sums[i] += (double)terms[i];
}

typedef struct DETENT_REAL(terms_block) {
    real grad_y[DETENT_BLOCK], x[DETENT_BLOCK], grad_x[DETENT_BLOCK], first[DETENT_BLOCK], second[DETENT_BLOCK];
} DETENT_REAL(terms_block);

/* Terms of n elements at a flat index, grad_x stored. scale has one entry (uniform) or n (varying). */
static void DETENT_REAL(terms_of_block)(const REDUCE *reduce, DETENT_REAL(terms_block) * block,
                                        DETENT_REAL(detent_terms_loop) loop, size_t at, size_t n, const real *scale,
                                        const real *zero_point)
{
    const real qmin = (real)reduce->encoding->grid.qmin, qmax = (real)reduce->encoding->grid.qmax;
    const real *grad_y = DETENT_REAL(detent_read)(reduce->grad_y, reduce->grad_dtype, at, n, block->grad_y);
    const real *x = DETENT_REAL(detent_read)(reduce->x, reduce->x_dtype, at, n, block->x);
    real *grad_x = reduce->grad_x == NULL
                       ? block->grad_x
                       : DETENT_REAL(detent_target)(reduce->grad_x, reduce->grad_dtype, at, block->grad_x);
    loop(grad_y, x, grad_x, block->first, reduce->with_second ? block->second : NULL, n, scale, zero_point, qmin, qmax);
    if (reduce->grad_x != NULL) DETENT_REAL(detent_write)(reduce->grad_x, reduce->grad_dtype, at, n, grad_x);
}

static void DETENT_REAL(reduce_wide)(const REDUCE *reduce, const detent_tile *tile, DETENT_REAL(terms_block) * block)
{
    const detent_shape3 shape = reduce->shape;
    double *partials = reduce->partials + tile->partial * shape.groups * 2;
    ENCODING_READER reader = DETENT_REAL(reader_of)(reduce->encoding);

    for (size_t group = tile->group_begin; group < tile->group_end; ++group) {
        double first = 0, second = 0;
        DETENT_REAL(read_group)(&reader, group);
        for (size_t outer = tile->outer_begin; outer < tile->outer_end; ++outer) {
            const size_t row = (outer * shape.groups + group) * shape.inner;
            for (size_t inner = tile->inner_begin; inner < tile->inner_end; inner += DETENT_BLOCK) {
                const size_t n = detent_min_size(DETENT_BLOCK, tile->inner_end - inner);
                DETENT_REAL(terms_of_block)
                (reduce, block, reduce->uniform, row + inner, n, &reader.scale, &reader.zero_point);
                first += (double)DETENT_REAL(sum_of_block)(block->first, n);
                if (reduce->with_second) second += (double)DETENT_REAL(sum_of_block)(block->second, n);
            }
        }
        partials[2 * group] = first;
        partials[2 * group + 1] = second;
    }
}

/* Columns are summed over the rows of the tile first, in double; a tile of one row has nothing to sum. */
static void DETENT_REAL(reduce_narrow)(const REDUCE *reduce, const detent_tile *tile, DETENT_REAL(terms_block) * block)
{
    const detent_shape3 shape = reduce->shape;
    const size_t columns = (tile->group_end - tile->group_begin) * shape.inner;
    double *partials = reduce->partials + tile->partial * shape.groups * 2;
    ENCODING_READER reader = DETENT_REAL(reader_of)(reduce->encoding);
    real scale[DETENT_BLOCK], zero_point[DETENT_BLOCK];
    double first[DETENT_BLOCK], second[DETENT_BLOCK];
    const int one_row = tile->outer_end - tile->outer_begin == 1;

    for (size_t i = 0; i < columns && !one_row; ++i) first[i] = second[i] = 0;
    DETENT_REAL(spread)(&reader, shape, tile->group_begin * shape.inner, columns, scale, zero_point);
    for (size_t outer = tile->outer_begin; outer < tile->outer_end; ++outer) {
        const size_t at = (outer * shape.groups + tile->group_begin) * shape.inner;
        DETENT_REAL(terms_of_block)(reduce, block, reduce->varying, at, columns, scale, zero_point);
        if (one_row) break;
        DETENT_REAL(add_columns)(block->first, first, columns);
        if (reduce->with_second) DETENT_REAL(add_columns)(block->second, second, columns);
    }
    for (size_t group = tile->group_begin; group < tile->group_end; ++group) {
        const size_t at = (group - tile->group_begin) * shape.inner;
        double first_of_group = 0, second_of_group = 0;
        if (one_row) {
            first_of_group = (double)DETENT_REAL(sum_of_block)(block->first + at, shape.inner);
            if (reduce->with_second)
                second_of_group = (double)DETENT_REAL(sum_of_block)(block->second + at, shape.inner);
        }
        for (size_t inner = 0; inner < shape.inner && !one_row; ++inner) {
            first_of_group += first[at + inner];
            second_of_group += second[at + inner];
        }
        partials[2 * group] = first_of_group;
        partials[2 * group + 1] = second_of_group;
    }
}

static void DETENT_REAL(reduce_tiles)(int64_t begin, int64_t end, void *context)
{
    const REDUCE *reduce = context;
    const detent_tiles tiles = detent_tiles_of(reduce->shape);
    DETENT_REAL(terms_block) block;
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
    const ENCODING_READER reader = DETENT_REAL(reader_of)(encoding);
    for (size_t group = (size_t)begin; group < (size_t)end; ++group) {
        double first = 0, second = 0;
        for (size_t row = 0; row < detent_partial_rows(&tiles); ++row) {
            first += reduce->partials[2 * (row * reduce->shape.groups + group)];
            second += reduce->partials[2 * (row * reduce->shape.groups + group) + 1];
        }
        if (encoding->scale == NULL)
            DETENT_REAL(detent_range_bwd)
            (first, second, ((const real *)encoding->min)[group], ((const real *)encoding->max)[group], reader.grid,
             &first, &second);
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
