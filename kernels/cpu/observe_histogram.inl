/* observe_histogram.c for one real type. */
#define JOB DETENT_REAL(histogram_job)

typedef struct JOB {
    const void *x;
    detent_dtype dtype;
    detent_shape3 shape;
    const real *min, *max; /* with this batch */
    int64_t *counts;
    size_t bins;
    const int32_t *before; /* exponents without it */
    size_t strip, pieces;  /* groups counted together; pieces that a group is divided into */
} JOB;

static int32_t DETENT_REAL(exponent_of)(real min, real max, size_t bins)
{
    return detent_histogram_exponent((double)min, (double)max, bins);
}

static void DETENT_REAL(note_exponents)(const real *min, const real *max, size_t groups, size_t bins, int32_t *before)
{
    for (size_t group = 0; group < groups; ++group)
        before[group] = min[group] <= max[group] ? DETENT_REAL(exponent_of)(min[group], max[group], bins) : EMPTY;
}

static void DETENT_REAL(widen_groups)(int64_t begin, int64_t end, void *context)
{
    const JOB *job = context;
    for (size_t group = (size_t)begin; group < (size_t)end; ++group)
        widen(job->counts + group * job->bins, job->bins,
              DETENT_REAL(exponent_of)(job->min[group], job->max[group], job->bins) - job->before[group]);
}

/* 1 / width of a group. */
static real DETENT_REAL(inverse_of)(const JOB *job, size_t group)
{
    return (real)ldexp(1.0, -DETENT_REAL(exponent_of)(job->min[group], job->max[group], job->bins));
}

DETENT_CLONES static void DETENT_REAL(bins_of)(const real *restrict x, size_t n, real limit, real inverse, int32_t half,
                                               int32_t *restrict bin)
{
    for (size_t i = 0; i < n; ++i) bin[i] = DETENT_REAL(detent_bin_of)(x[i], limit, inverse, half);
}

/* Strips of groups with few values, each wholly one thread's. */
static void DETENT_REAL(count_strips)(int64_t begin, int64_t end, void *context)
{
    const JOB *job = context;
    const detent_shape3 shape = job->shape;
    const size_t columns = shape.groups * shape.inner;
    const real limit = (real)detent_counting_limit(job->dtype);
    real buffer[DETENT_BLOCK], inverse = 0;
    int32_t bin[DETENT_BLOCK];
    const size_t first = (size_t)begin * job->strip * shape.inner;
    const size_t last = detent_min_size((size_t)end * job->strip * shape.inner, columns);
    for (size_t outer = 0; outer < shape.outer; ++outer)
        for (size_t at = first; at < last;) {
            const size_t n = detent_min_size(DETENT_BLOCK, last - at);
            const real *x = DETENT_REAL(detent_read)(job->x, job->dtype, outer * columns + at, n, buffer);
            for (size_t done = 0; done < n;) {
                const size_t group = (at + done) / shape.inner;
                const size_t run = detent_min_size(n - done, (group + 1) * shape.inner - (at + done));
                int64_t *counts = job->counts + group * job->bins;
                inverse = DETENT_REAL(inverse_of)(job, group);
                DETENT_REAL(bins_of)(x + done, run, limit, inverse, (int32_t)(job->bins / 2), bin);
                for (size_t i = 0; i < run; ++i)
                    if (bin[i] < (int32_t)job->bins) ++counts[bin[i]];
                done += run;
            }
            at += n;
        }
}

/* Elements begin .. end of a group, counted as they lie in [outer, inner]. */
static void DETENT_REAL(count_piece)(const JOB *job, size_t group, size_t begin, size_t end,
                                     uint32_t (*tables)[DETENT_MOST_BINS + 1])
{
    const detent_shape3 shape = job->shape;
    const real limit = (real)detent_counting_limit(job->dtype), inverse = DETENT_REAL(inverse_of)(job, group);
    real buffer[DETENT_BLOCK];
    int32_t bin[DETENT_BLOCK + TABLES];
    while (begin < end) {
        const size_t outer = begin / shape.inner, inner = begin % shape.inner;
        const size_t n = detent_min_size(DETENT_BLOCK, detent_min_size(shape.inner - inner, end - begin));
        const real *x = DETENT_REAL(detent_read)(job->x, job->dtype,
                                                 (outer * shape.groups + group) * shape.inner + inner, n, buffer);
        DETENT_REAL(bins_of)(x, n, limit, inverse, (int32_t)(job->bins / 2), bin);
        for (size_t i = n; i % TABLES != 0; ++i) bin[i] = (int32_t)job->bins;
        for (size_t i = 0; i < n; i += TABLES)
            for (size_t table = 0; table < TABLES; ++table) ++tables[table][bin[i + table]];
        begin += n;
    }
}

static void DETENT_REAL(count_pieces)(int64_t begin, int64_t end, void *context)
{
    const JOB *job = context;
    const size_t elements = job->shape.outer * job->shape.inner, piece = detent_ceil_div(elements, job->pieces);
    uint32_t tables[TABLES][DETENT_MOST_BINS + 1];
    for (size_t index = (size_t)begin; index < (size_t)end; ++index) {
        const size_t group = index / job->pieces, first = index % job->pieces * piece;
        if (first >= elements) continue;
        for (size_t table = 0; table < TABLES; ++table)
            memset(tables[table], 0, (job->bins + 1) * sizeof tables[table][0]);
        DETENT_REAL(count_piece)(job, group, first, detent_min_size(elements, first + piece), tables);
        for (size_t bin = 0; bin < job->bins; ++bin) {
            int64_t count = 0;
            for (size_t table = 0; table < TABLES; ++table) count += tables[table][bin];
            /* Integers: in whatever order the pieces arrive, the sum is the same. */
            if (count != 0) __atomic_fetch_add(&job->counts[group * job->bins + bin], count, __ATOMIC_RELAXED);
        }
    }
}

static void DETENT_REAL(count)(const void *x, const void *min, const void *max, int64_t *counts, detent_dtype dtype,
                               detent_shape3 shape, size_t bins, const int32_t *before, detent_parallel_for parallel)
{
    const size_t elements = shape.outer * shape.inner;
    JOB job = {.x = x,
               .dtype = dtype,
               .shape = shape,
               .min = min,
               .max = max,
               .counts = counts,
               .bins = bins,
               .before = before,
               .strip = detent_max_size(1, FEW / detent_max_size(1, elements)),
               .pieces = detent_max_size(1, detent_ceil_div(elements, MANY))};
    detent_run(parallel, shape.groups, 16, DETENT_REAL(widen_groups), &job);
    if (elements == 0 || shape.groups == 0) return;
    if (elements < FEW || shape.inner < 16) {
        job.strip = detent_max_size(job.strip, detent_ceil_div(16, shape.inner));
        detent_run(parallel, detent_ceil_div(shape.groups, job.strip), 1, DETENT_REAL(count_strips), &job);
    } else {
        detent_run(parallel, shape.groups * job.pieces, 1, DETENT_REAL(count_pieces), &job);
    }
}

typedef struct DETENT_REAL(merge_job) {
    const real *other_min, *other_max;
    const int64_t *other_ignored, *other_counts;
    real *min, *max;
    int64_t *ignored, *counts;
    size_t bins;
} DETENT_REAL(merge_job);

static void DETENT_REAL(merge_groups)(int64_t begin, int64_t end, void *context)
{
    const DETENT_REAL(merge_job) *job = context;
    const size_t bins = job->bins;
    for (size_t group = (size_t)begin; group < (size_t)end; ++group) {
        const real min = DETENT_REAL(detent_smaller)(job->min[group], job->other_min[group]);
        const real max = DETENT_REAL(detent_larger)(job->max[group], job->other_max[group]);
        const int32_t both = DETENT_REAL(exponent_of)(min, max, bins);
        const int32_t other = DETENT_REAL(exponent_of)(job->other_min[group], job->other_max[group], bins);
        widen(job->counts + group * bins, bins,
              both - DETENT_REAL(exponent_of)(job->min[group], job->max[group], bins));
        for (size_t bin = 0; bin < bins; ++bin)
            job->counts[group * bins + bin] +=
                detent_widened_count(job->other_counts + group * bins, bins, both - other, bin);
        job->min[group] = min;
        job->max[group] = max;
        job->ignored[group] += job->other_ignored[group];
    }
}

static void DETENT_REAL(merge)(const real *other_min, const real *other_max, const int64_t *other_ignored,
                               const int64_t *other_counts, real *min, real *max, int64_t *ignored, int64_t *counts,
                               size_t groups, size_t bins, detent_parallel_for parallel)
{
    DETENT_REAL(merge_job)
    job = {other_min, other_max, other_ignored, other_counts, min, max, ignored, counts, bins};
    detent_run(parallel, groups, 16, DETENT_REAL(merge_groups), &job);
}

#undef JOB
