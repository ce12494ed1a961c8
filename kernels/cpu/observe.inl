/* observe.c for one real type. */
#define STATISTICS DETENT_REAL(statistics)
#define JOB DETENT_REAL(observe_job)

typedef struct STATISTICS {
    union {
        real value;
        double room;
    } min, max;
    int64_t ignored;
} STATISTICS;

typedef struct JOB {
    const void *x;
    detent_dtype dtype;
    detent_shape3 shape;
    STATISTICS *partials;
    real *min, *max;
    int64_t *ignored;
    detent_observe_mode mode;
    real momentum;
} JOB;

/* Each column's own minimum, maximum and count; a block seen as one row. */
DETENT_CLONES static void DETENT_REAL(add_row)(const real *restrict x, size_t n, real limit, real *restrict min,
                                               real *restrict max, int32_t *restrict ignored)
{
    for (size_t i = 0; i < n; ++i) {
        const int counts = DETENT_REAL(detent_observe_counts)(x[i], limit);
        min[i] = DETENT_REAL(detent_smaller)(min[i], counts ? x[i] : (real)INFINITY);
        max[i] = DETENT_REAL(detent_larger)(max[i], counts ? x[i] : -(real)INFINITY);
        ignored[i] += !counts;
    }
}

static STATISTICS DETENT_REAL(nothing_seen)(void)
{
    return (STATISTICS){.min.value = (real)INFINITY, .max.value = -(real)INFINITY};
}

static void DETENT_REAL(join)(STATISTICS *into, real min, real max, int64_t ignored)
{
    into->min.value = DETENT_REAL(detent_smaller)(into->min.value, min);
    into->max.value = DETENT_REAL(detent_larger)(into->max.value, max);
    into->ignored += ignored;
}

/* Columns of one tile: of a narrow tile all its groups, of a wide one the elements of a block of one group. */
typedef struct DETENT_REAL(columns) {
    real min[DETENT_BLOCK], max[DETENT_BLOCK];
    int32_t ignored[DETENT_BLOCK];
} DETENT_REAL(columns);

static void DETENT_REAL(clear)(DETENT_REAL(columns) * columns, size_t n)
{
    for (size_t i = 0; i < n; ++i) {
        columns->min[i] = (real)INFINITY;
        columns->max[i] = -(real)INFINITY;
        columns->ignored[i] = 0;
    }
}

/* Sixteen lanes, then a tree. */
DETENT_CLONES static void DETENT_REAL(join_columns)(STATISTICS *into, const DETENT_REAL(columns) * columns,
                                                    size_t begin, size_t end)
{
    real min[16], max[16];
    int32_t ignored[16];
    size_t i = begin;
    for (size_t lane = 0; lane < 16; ++lane) {
        min[lane] = (real)INFINITY;
        max[lane] = -(real)INFINITY;
        ignored[lane] = 0;
    }
    for (; i + 16 <= end; i += 16)
        for (size_t lane = 0; lane < 16; ++lane) {
            min[lane] = DETENT_REAL(detent_smaller)(min[lane], columns->min[i + lane]);
            max[lane] = DETENT_REAL(detent_larger)(max[lane], columns->max[i + lane]);
            ignored[lane] += columns->ignored[i + lane];
        }
    for (; i < end; ++i) DETENT_REAL(join)(into, columns->min[i], columns->max[i], columns->ignored[i]);
    for (size_t half = 8; half > 0; half /= 2)
        for (size_t lane = 0; lane < half; ++lane) {
            min[lane] = DETENT_REAL(detent_smaller)(min[lane], min[lane + half]);
            max[lane] = DETENT_REAL(detent_larger)(max[lane], max[lane + half]);
            ignored[lane] += ignored[lane + half];
        }
    DETENT_REAL(join)(into, min[0], max[0], ignored[0]);
}

/* Lanes of a wide group: short enough that folding them is cheap, long enough to vectorize. */
enum { DETENT_REAL(LANES) = 64 };

static void DETENT_REAL(observe_tile)(const JOB *job, const detent_tile *tile, int narrow)
{
    const detent_shape3 shape = job->shape;
    const real limit = (real)limit_of(job->dtype);
    STATISTICS *row = job->partials + tile->partial * shape.groups;
    DETENT_REAL(columns) columns;
    real buffer[DETENT_BLOCK];

    if (narrow) {
        const size_t n = (tile->group_end - tile->group_begin) * shape.inner;
        DETENT_REAL(clear)(&columns, n);
        for (size_t outer = tile->outer_begin; outer < tile->outer_end; ++outer) {
            const size_t at = (outer * shape.groups + tile->group_begin) * shape.inner;
            DETENT_REAL(add_row)
            (DETENT_REAL(detent_read)(job->x, job->dtype, at, n, buffer), n, limit, columns.min, columns.max,
             columns.ignored);
        }
        for (size_t group = tile->group_begin; group < tile->group_end; ++group) {
            const size_t first = (group - tile->group_begin) * shape.inner;
            row[group] = DETENT_REAL(nothing_seen)();
            DETENT_REAL(join_columns)(&row[group], &columns, first, first + shape.inner);
        }
        return;
    }
    for (size_t group = tile->group_begin; group < tile->group_end; ++group) {
        DETENT_REAL(clear)(&columns, DETENT_REAL(LANES));
        for (size_t outer = tile->outer_begin; outer < tile->outer_end; ++outer) {
            const size_t base = (outer * shape.groups + group) * shape.inner;
            for (size_t inner = tile->inner_begin; inner < tile->inner_end; inner += DETENT_BLOCK) {
                const size_t n = detent_min_size(DETENT_BLOCK, tile->inner_end - inner);
                const real *x = DETENT_REAL(detent_read)(job->x, job->dtype, base + inner, n, buffer);
                for (size_t done = 0; done < n; done += DETENT_REAL(LANES))
                    DETENT_REAL(add_row)
                    (x + done, detent_min_size(DETENT_REAL(LANES), n - done), limit, columns.min, columns.max,
                     columns.ignored);
            }
        }
        row[group] = DETENT_REAL(nothing_seen)();
        DETENT_REAL(join_columns)(&row[group], &columns, 0, DETENT_REAL(LANES));
    }
}

static void DETENT_REAL(observe_tiles)(int64_t begin, int64_t end, void *context)
{
    const JOB *job = context;
    const detent_tiles tiles = detent_tiles_of(job->shape);
    for (int64_t index = begin; index < end; ++index) {
        const detent_tile tile = detent_tile_at(&tiles, job->shape, (size_t)index);
        DETENT_REAL(observe_tile)(job, &tile, tiles.narrow);
    }
}

static void DETENT_REAL(observe_groups)(int64_t begin, int64_t end, void *context)
{
    const JOB *job = context;
    const detent_tiles tiles = detent_tiles_of(job->shape);
    for (size_t group = (size_t)begin; group < (size_t)end; ++group) {
        STATISTICS all = DETENT_REAL(nothing_seen)();
        for (size_t row = 0; row < detent_partial_rows(&tiles); ++row) {
            const STATISTICS *part = &job->partials[row * job->shape.groups + group];
            DETENT_REAL(join)(&all, part->min.value, part->max.value, part->ignored);
        }
        switch (job->mode) {
        case DETENT_OBSERVE_RUNNING:
            DETENT_REAL(join)(&all, job->min[group], job->max[group], job->ignored[group]);
            break;
        case DETENT_OBSERVE_MOVING_AVERAGE:
            all.min.value = DETENT_REAL(detent_moving_average)(job->min[group], all.min.value, job->momentum);
            all.max.value = DETENT_REAL(detent_moving_average)(job->max[group], all.max.value, job->momentum);
            all.ignored += job->ignored[group];
            break;
        default: break;
        }
        job->min[group] = all.min.value;
        job->max[group] = all.max.value;
        job->ignored[group] = all.ignored;
    }
}

static void DETENT_REAL(observe)(const void *x, void *min, void *max, int64_t *ignored, detent_dtype dtype,
                                 detent_shape3 shape, detent_observe_mode mode, double momentum, void *workspace,
                                 detent_parallel_for parallel)
{
    JOB job = {.x = x,
               .dtype = dtype,
               .shape = shape,
               .partials = workspace,
               .min = min,
               .max = max,
               .ignored = ignored,
               .mode = mode,
               .momentum = (real)momentum};
    const detent_tiles tiles = detent_tiles_of(shape);
    detent_run(parallel, detent_tile_count(&tiles), 1, DETENT_REAL(observe_tiles), &job);
    detent_run(parallel, shape.groups, DETENT_BLOCK, DETENT_REAL(observe_groups), &job);
}

#undef STATISTICS
#undef JOB
