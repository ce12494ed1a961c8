/* block_cast.c for one real type. */
#define JOB DETENT_REAL(block_cast_job)
#define BITS DETENT_REAL_TYPE(detent_bits)

DETENT_CLONES static void DETENT_REAL(cast)(const real *restrict x, real *restrict y, size_t n,
                                            const real *restrict scale, DETENT_REAL_TYPE(detent_elements) to)
{
    for (size_t i = 0; i < n; ++i)
        y[i] = DETENT_REAL(detent_float_cast_one)(x[i], scale[i], to.ulp, to.smallest, to.max);
}

DETENT_CLONES static void DETENT_REAL(find_inside)(const real *restrict x, uint8_t *restrict inside, size_t n,
                                                   const real *restrict scale, DETENT_REAL_TYPE(detent_elements) of)
{
    for (size_t i = 0; i < n; ++i) inside[i] = (uint8_t)DETENT_REAL(detent_block_cast_mask_one)(x[i], scale[i], of);
}

typedef struct JOB {
    const void *x;
    void *y;
    uint8_t *mask;
    detent_dtype dtype;
    size_t length, inner; /* of the dimension that is cut into blocks, and of what lies inside it */
    size_t block, blocks, strips;
    DETENT_REAL_TYPE(detent_elements) elements;
    const real *tensor_scale;
} JOB;

/* The largest magnitude of each column over rows of them, joined with what is there. */
DETENT_CLONES static void DETENT_REAL(join_columns)(const real *restrict x, size_t rows, size_t columns,
                                                    BITS *restrict largest)
{
    for (size_t row = 0; row < rows; ++row, x += columns)
        for (size_t i = 0; i < columns; ++i) {
            const BITS bits = DETENT_REAL(detent_finite_magnitude)(x[i]);
            largest[i] = bits > largest[i] ? bits : largest[i];
        }
}

/* The same for a column that is contiguous. */
static inline __attribute__((always_inline)) BITS DETENT_REAL(largest_of_run)(const real *restrict x, size_t n,
                                                                              BITS largest)
{
    for (size_t i = 0; i < n; ++i) {
        const BITS bits = DETENT_REAL(detent_finite_magnitude)(x[i]);
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

DETENT_CLONES static void DETENT_REAL(join_run)(const real *restrict x, size_t n, BITS *restrict largest)
{
    *largest = DETENT_REAL(largest_of_run)(x, n, *largest);
}

static void DETENT_REAL(join)(const real *x, size_t rows, size_t columns, BITS *largest)
{
    if (columns == 1)
        DETENT_REAL(join_run)(x, rows, largest);
    else
        DETENT_REAL(join_columns)(x, rows, columns, largest);
}

static inline __attribute__((always_inline)) real
DETENT_REAL(scale_of)(BITS largest, DETENT_REAL_TYPE(detent_elements) elements, const real *tensor_scale)
{
    const real most = DETENT_REAL(detent_magnitude_of)(largest);
    return tensor_scale == NULL ? DETENT_REAL(detent_mx_scale)(most, elements)
                                : DETENT_REAL(detent_two_level_scale)(most, elements, *tensor_scale);
}

/* The scales of contiguous blocks of n elements, the last perhaps shorter, each beside its elements. */
DETENT_CLONES static void DETENT_REAL(lay_scales_of_runs)(const real *restrict x, size_t n, size_t block,
                                                          DETENT_REAL_TYPE(detent_elements) elements,
                                                          const real *tensor_scale, real *restrict scale)
{
    for (size_t first = 0; first < n; first += block) {
        const size_t end = detent_min_size(n, first + block);
        const BITS largest = DETENT_REAL(largest_of_run)(x + first, end - first, 0);
        const real all = DETENT_REAL(scale_of)(largest, elements, tensor_scale);
        for (size_t i = first; i < end; ++i) scale[i] = all;
    }
}

/* The scales of `columns` blocks, laid beside the elements of each of the rows. */
static void DETENT_REAL(lay_scales)(const JOB *job, const BITS *largest, size_t rows, size_t columns, real *scale)
{
    for (size_t i = 0; i < columns; ++i) scale[i] = DETENT_REAL(scale_of)(largest[i], job->elements, job->tensor_scale);
    if (columns == 1)
        for (size_t i = 1; i < rows; ++i) scale[i] = scale[0];
    else
        for (size_t row = 1; row < rows; ++row) memcpy(scale + row * columns, scale, columns * sizeof *scale);
}

static void DETENT_REAL(cast_piece)(const JOB *job, size_t at, size_t n, const real *x, const real *scale)
{
    real buffer[DETENT_BLOCK];
    real *y = DETENT_REAL(detent_target)(job->y, job->dtype, at, buffer);
    DETENT_REAL(cast)(x, y, n, scale, job->elements);
    DETENT_REAL(detent_write)(job->y, job->dtype, at, n, y);
    if (job->mask == NULL) return;
    uint8_t inside[DETENT_BLOCK + 8] = {0};
    DETENT_REAL(find_inside)(x, inside + at % 8, n, scale, job->elements);
    put_bits(job->mask, at, inside, n);
}

/* As many whole blocks of a row as a piece holds; returns how many. */
static size_t DETENT_REAL(cast_whole)(const JOB *job, size_t outer, size_t block, size_t most)
{
    const size_t blocks =
        detent_min_size(detent_min_size(DETENT_BLOCK / (job->block * job->inner), most), job->blocks - block);
    const size_t first = block * job->block, rows = detent_min_size(job->length - first, blocks * job->block);
    const size_t at = (outer * job->length + first) * job->inner, n = rows * job->inner;
    real x_buffer[DETENT_BLOCK], scale[DETENT_BLOCK];
    BITS largest[DETENT_BLOCK];
    const real *x = DETENT_REAL(detent_read)(job->x, job->dtype, at, n, x_buffer);
    if (job->inner == 1)
        DETENT_REAL(lay_scales_of_runs)(x, n, job->block, job->elements, job->tensor_scale, scale);
    else
        for (size_t row = 0; row < rows; row += job->block) {
            const size_t own = detent_min_size(job->block, rows - row);
            memset(largest, 0, job->inner * sizeof *largest);
            DETENT_REAL(join)(x + row * job->inner, own, job->inner, largest);
            DETENT_REAL(lay_scales)(job, largest, own, job->inner, scale + row * job->inner);
        }
    DETENT_REAL(cast_piece)(job, at, n, x, scale);
    return blocks;
}

/* A strip of columns of one block, which is read twice: once for the scales. */
static void DETENT_REAL(cast_strip)(const JOB *job, size_t outer, size_t block, size_t strip)
{
    const size_t column = strip * DETENT_BLOCK, columns = detent_min_size(DETENT_BLOCK, job->inner - column);
    const size_t step = job->strips > 1 ? 1 : DETENT_BLOCK / columns; /* rows in one piece */
    const size_t first = block * job->block, rows = detent_min_size(job->block, job->length - first);
    const size_t begin = (outer * job->length + first) * job->inner + column;
    real x_buffer[DETENT_BLOCK], scale[DETENT_BLOCK];
    BITS largest[DETENT_BLOCK] = {0};
    for (size_t row = 0; row < rows; row += step) {
        const size_t own = detent_min_size(step, rows - row);
        DETENT_REAL(join)
        (DETENT_REAL(detent_read)(job->x, job->dtype, begin + row * job->inner, own * columns, x_buffer), own, columns,
         largest);
    }
    DETENT_REAL(lay_scales)(job, largest, detent_min_size(step, rows), columns, scale);
    for (size_t row = 0; row < rows; row += step) {
        const size_t at = begin + row * job->inner, n = detent_min_size(step, rows - row) * columns;
        DETENT_REAL(cast_piece)
        (job, at, n, DETENT_REAL(detent_read)(job->x, job->dtype, at, n, x_buffer), scale);
    }
}

static void DETENT_REAL(cast_items)(int64_t begin, int64_t end, void *context)
{
    const JOB *job = context;
    const int whole = job->inner <= DETENT_BLOCK / job->block;
    for (size_t item = (size_t)begin; item < (size_t)end;) {
        const size_t block = item / job->strips % job->blocks, outer = item / job->strips / job->blocks;
        if (whole)
            item += DETENT_REAL(cast_whole)(job, outer, block, (size_t)end - item);
        else
            DETENT_REAL(cast_strip)(job, outer, block, item++ % job->strips);
    }
}

static void DETENT_REAL(block_cast)(const void *x, void *y, uint8_t *mask, detent_dtype dtype, detent_shape3 shape,
                                    size_t block_size, detent_float_format format, const void *tensor_scale,
                                    detent_parallel_for parallel)
{
    JOB job = {
        .x = x,
        .y = y,
        .mask = mask,
        .dtype = dtype,
        .length = shape.groups,
        .inner = shape.inner,
        .block = detent_min_size(block_size, shape.groups),
        .elements = {(real)ldexp(1.0, -format.mantissa_bits), (real)ldexp(1.0, format.min_exponent), (real)format.max,
                     (real)ldexp(1.0, ilogb(format.max) + 1)},
        .tensor_scale = tensor_scale,
    };
    job.blocks = detent_ceil_div(job.length, job.block);
    job.strips = detent_ceil_div(job.inner, DETENT_BLOCK);
    const size_t of_item = job.block * detent_min_size(job.inner, DETENT_BLOCK);
    detent_run(parallel, shape.outer * job.blocks * job.strips, detent_max_size(1, GRAIN / of_item),
               DETENT_REAL(cast_items), &job);
}

#undef JOB
#undef BITS
