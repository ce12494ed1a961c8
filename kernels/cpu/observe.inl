/* observe.c for one real type. */
#define STATISTICS DETENT_REAL(statistics)

typedef struct STATISTICS {
    union {
        real value;
        double room;
    } min, max;
    int64_t ignored;
} STATISTICS;

/* What n elements add to as many columns, but for the first `seen`. Two loops: in one, the compiler branches on what
 * does not count. */
static inline __attribute__((always_inline)) void DETENT_REAL(add)(const real *restrict x, size_t n, size_t seen,
                                                                   real limit, real *restrict min, real *restrict max,
                                                                   int32_t *restrict ignored)
{
    real low[DETENT_LANES], high[DETENT_LANES];
#pragma GCC unroll 1 /* unrolled, it is no longer vectorized */
    for (size_t i = 0; i < n; ++i) {
        const int counts = DETENT_REAL(detent_observe_counts)(x[i], limit);
        low[i] = counts ? x[i] : (real)INFINITY;
        high[i] = counts ? x[i] : -(real)INFINITY;
        ignored[i] += !counts & (i >= seen);
    }
#pragma GCC unroll 1
    for (size_t i = 0; i < n; ++i) {
        min[i] = DETENT_REAL(detent_smaller)(min[i], low[i]);
        max[i] = DETENT_REAL(detent_larger)(max[i], high[i]);
    }
}

/* Each column's own minimum, maximum and count; a block seen as one row. */
DETENT_CLONES static void DETENT_REAL(add_row)(const real *restrict x, size_t n, real limit, real *restrict min,
                                               real *restrict max, int32_t *restrict ignored)
{
    size_t i = 0;
    for (; i + DETENT_LANES <= n; i += DETENT_LANES)
        DETENT_REAL(add)(x + i, DETENT_LANES, 0, limit, min + i, max + i, ignored + i);
    DETENT_REAL(add)(x + i, n - i, 0, limit, min + i, max + i, ignored + i);
}

/* Sixteen elements; what does not count adds 0. */
static inline __attribute__((always_inline)) void DETENT_REAL(add_terms)(const real *restrict x, real limit,
                                                                         detent_lanes_f64 *size,
                                                                         detent_lanes_f64 *total,
                                                                         detent_lanes_f64 *square)
{
    real kept[DETENT_LANES];
    double terms[DETENT_LANES], sizes[DETENT_LANES], squares[DETENT_LANES];
    for (size_t k = 0; k < DETENT_LANES; ++k) kept[k] = DETENT_REAL(detent_observe_counts)(x[k], limit) ? x[k] : 0;
    for (size_t k = 0; k < DETENT_LANES; ++k) {
        terms[k] = (double)kept[k];
        sizes[k] = fabs(terms[k]);
        squares[k] = terms[k] * terms[k];
    }
    detent_add_lanes_f64(size, sizes);
    detent_add_lanes_f64(total, terms);
    detent_add_lanes_f64(square, squares);
}

/* Sums over rows of n elements, in double: sixteen lanes, then a tree. */
DETENT_CLONES static void DETENT_REAL(sum_rows)(const real *restrict x, size_t rows, size_t n, real limit,
                                                detent_sums *restrict sums)
{
    for (size_t row = 0; row < rows; ++row, x += n) {
        detent_lanes_f64 size = {0}, total = {0}, square = {0};
        size_t i = 0;
        for (; i + DETENT_LANES <= n; i += DETENT_LANES) DETENT_REAL(add_terms)(x + i, limit, &size, &total, &square);
        if (i < n) {
            real last[DETENT_LANES] = {0};
            memcpy(last, x + i, (n - i) * sizeof *last);
            DETENT_REAL(add_terms)(last, limit, &size, &total, &square);
        }
        sums[row] = (detent_sums){detent_sum_of_lanes_f64(&size), detent_sum_of_lanes_f64(&total),
                                  detent_sum_of_lanes_f64(&square)};
    }
}

/* Each column's own sums. */
DETENT_CLONES static void DETENT_REAL(sum_columns)(const real *restrict x, size_t n, real limit,
                                                   detent_sums *restrict sums)
{
    for (size_t i = 0; i < n; ++i) {
        const double term = DETENT_REAL(detent_observe_counts)(x[i], limit) ? (double)x[i] : 0;
        sums[i].size += fabs(term);
        sums[i].total += term;
        sums[i].square += term * term;
    }
}

/* By member: a copied struct would be read wider than it was written, which stalls. */
static void DETENT_REAL(clear)(STATISTICS *seen)
{
    seen->min.value = (real)INFINITY;
    seen->max.value = -(real)INFINITY;
    seen->ignored = 0;
}

static void DETENT_REAL(join)(STATISTICS *into, real min, real max, int64_t ignored)
{
    into->min.value = DETENT_REAL(detent_smaller)(into->min.value, min);
    into->max.value = DETENT_REAL(detent_larger)(into->max.value, max);
    into->ignored += ignored;
}

/* Of each row's 2 * half lanes, the second half joins the first. All rows at a time: only so is it vectorized. */
static inline __attribute__((always_inline)) void DETENT_REAL(fold)(real *restrict min, real *restrict max,
                                                                    int32_t *restrict ignored, size_t rows, size_t half)
{
    for (size_t row = 0; row < rows; ++row)
        for (size_t lane = 0; lane < half; ++lane) {
            const size_t to = row * half + lane, from = 2 * row * half + lane;
            min[to] = DETENT_REAL(detent_smaller)(min[from], min[from + half]);
            max[to] = DETENT_REAL(detent_larger)(max[from], max[from + half]);
            ignored[to] = ignored[from] + ignored[from + half];
        }
}

/* Minimum, maximum and count of rows of n elements: sixteen lanes, then a tree. The last sixteen elements of a row may
 * begin among those before, which are not counted again. */
DETENT_CLONES static void DETENT_REAL(observe_rows)(const real *restrict x, size_t rows, size_t n, real limit,
                                                    real *restrict min, real *restrict max, int32_t *restrict ignored)
{
    real *least = min, *most = max;
    int32_t *count = ignored;
    for (size_t row = 0; row < rows;
         ++row, x += n, least += DETENT_LANES, most += DETENT_LANES, count += DETENT_LANES) {
        for (size_t lane = 0; lane < DETENT_LANES; ++lane) {
            least[lane] = (real)INFINITY;
            most[lane] = -(real)INFINITY;
            count[lane] = 0;
        }
        size_t i = 0;
        for (; i + DETENT_LANES <= n; i += DETENT_LANES)
            DETENT_REAL(add)(x + i, DETENT_LANES, 0, limit, least, most, count);
        if (i < n && i > 0) {
            const size_t last = n - DETENT_LANES;
            DETENT_REAL(add)(x + last, DETENT_LANES, i - last, limit, least, most, count);
        } else if (i < n)
            DETENT_REAL(add)(x, n, 0, limit, least, most, count);
    }
    DETENT_REAL(fold)(min, max, ignored, rows, 8);
    DETENT_REAL(fold)(min, max, ignored, rows, 4);
    DETENT_REAL(fold)(min, max, ignored, rows, 2);
    DETENT_REAL(fold)(min, max, ignored, rows, 1);
}

/* Of a narrow tile, what its columns saw; of a wide one, what the rows of a block did. */
typedef struct DETENT_REAL(columns) {
    real min[DETENT_COLUMNS], max[DETENT_COLUMNS];
    int32_t ignored[DETENT_COLUMNS];
} DETENT_REAL(columns);

static void DETENT_REAL(observe_narrow)(const detent_observation *job, const detent_tile *tile, STATISTICS *row,
                                        detent_sums *sums)
{
    const detent_shape3 shape = job->shape;
    const detent_columns columns = detent_columns_of(tile, shape);
    const real limit = (real)detent_counting_limit(job->dtype);
    DETENT_REAL(columns) seen;
    detent_sums of_column[DETENT_COLUMNS];
    real buffer[DETENT_BLOCK];
    if (sums != NULL) memset(of_column, 0, columns.width * sizeof *of_column);
    for (size_t i = 0; i < columns.width; ++i) {
        seen.min[i] = (real)INFINITY;
        seen.max[i] = -(real)INFINITY;
        seen.ignored[i] = 0;
    }
    for (size_t outer = tile->outer_begin; outer < tile->outer_end; outer += columns.fold) {
        const size_t at = (outer * shape.groups + tile->group_begin) * shape.inner;
        const size_t width = detent_width_at(&columns, tile, outer);
        for (size_t i = 0; i < width; i += DETENT_BLOCK) {
            const size_t n = detent_min_size(DETENT_BLOCK, width - i);
            const real *x = DETENT_REAL(detent_read)(job->x, job->dtype, at + i, n, buffer);
            DETENT_REAL(add_row)(x, n, limit, seen.min + i, seen.max + i, seen.ignored + i);
            if (sums != NULL) DETENT_REAL(sum_columns)(x, n, limit, of_column + i);
        }
    }
    const size_t groups = tile->group_end - tile->group_begin;
    for (size_t i = 0, group = 0; i < columns.width; group = group + 1 == groups ? 0 : group + 1)
        for (const size_t end = i + shape.inner; i < end; ++i) {
            DETENT_REAL(join)(&row[tile->group_begin + group], seen.min[i], seen.max[i], seen.ignored[i]);
            if (sums != NULL) join_sums(&sums[tile->group_begin + group], &of_column[i]);
        }
}

static void DETENT_REAL(observe_wide)(const detent_observation *job, const detent_tile *tile, STATISTICS *row,
                                      detent_sums *sums)
{
    const detent_shape3 shape = job->shape;
    const size_t most_rows = detent_max_size(1, DETENT_BLOCK / shape.inner);
    const real limit = (real)detent_counting_limit(job->dtype);
    DETENT_REAL(columns) seen;
    detent_sums of_row[DETENT_ROWS];
    real buffer[DETENT_BLOCK];
    for (size_t outer = tile->outer_begin; outer < tile->outer_end; ++outer)
        for (size_t group = tile->group_begin; group < tile->group_end; group += most_rows) {
            const size_t rows = detent_min_size(most_rows, tile->group_end - group);
            for (size_t inner = tile->inner_begin; inner < tile->inner_end; inner += DETENT_BLOCK) {
                const size_t run = detent_min_size(DETENT_BLOCK, tile->inner_end - inner);
                const real *x = DETENT_REAL(detent_read)(
                    job->x, job->dtype, (outer * shape.groups + group) * shape.inner + inner, rows * run, buffer);
                DETENT_REAL(observe_rows)(x, rows, run, limit, seen.min, seen.max, seen.ignored);
                for (size_t i = 0; i < rows; ++i)
                    DETENT_REAL(join)(&row[group + i], seen.min[i], seen.max[i], seen.ignored[i]);
                if (sums == NULL) continue;
                DETENT_REAL(sum_rows)(x, rows, run, limit, of_row);
                for (size_t i = 0; i < rows; ++i) join_sums(&sums[group + i], &of_row[i]);
            }
        }
}

void DETENT_REAL(detent_observe_tiles)(int64_t begin, int64_t end, void *observation)
{
    const detent_observation *job = observation;
    const detent_tiles tiles = detent_tiles_of(job->shape);
    for (int64_t index = begin; index < end; ++index) {
        const detent_tile tile = detent_tile_at(&tiles, job->shape, (size_t)index);
        STATISTICS *row = (STATISTICS *)job->partials + tile.partial * job->shape.groups;
        detent_sums *sums = job->sums == NULL ? NULL : job->sums + tile.partial * job->shape.groups;
        for (size_t group = tile.group_begin; group < tile.group_end; ++group) {
            DETENT_REAL(clear)(&row[group]);
            if (sums != NULL) sums[group] = (detent_sums){0, 0, 0};
        }
        (tiles.narrow ? DETENT_REAL(observe_narrow) : DETENT_REAL(observe_wide))(job, &tile, row, sums);
    }
}

void DETENT_REAL(detent_observe_groups)(int64_t begin, int64_t end, void *observation)
{
    const detent_observation *job = observation;
    const detent_tiles tiles = detent_tiles_of(job->shape);
    real *const min = job->min, *const max = job->max;
    for (size_t group = (size_t)begin; group < (size_t)end; ++group) {
        STATISTICS all;
        DETENT_REAL(clear)(&all);
        for (size_t row = 0; row < detent_partial_rows(&tiles); ++row) {
            const STATISTICS *part = (const STATISTICS *)job->partials + row * job->shape.groups + group;
            DETENT_REAL(join)(&all, part->min.value, part->max.value, part->ignored);
        }
        if (job->sums != NULL)
            add_moments(job->sums, detent_partial_rows(&tiles), job->shape, all.ignored, group, job->moments);
        switch (job->mode) {
        case DETENT_OBSERVE_RUNNING: DETENT_REAL(join)(&all, min[group], max[group], job->ignored[group]); break;
        case DETENT_OBSERVE_MOVING_AVERAGE:
            all.min.value = DETENT_REAL(detent_moving_average)(min[group], all.min.value, (real)job->momentum);
            all.max.value = DETENT_REAL(detent_moving_average)(max[group], all.max.value, (real)job->momentum);
            all.ignored += job->ignored[group];
            break;
        default: break;
        }
        min[group] = all.min.value;
        max[group] = all.max.value;
        job->ignored[group] = all.ignored;
    }
}

#undef STATISTICS
