/* What a call of the family is, before it is shared out to threads: for one tensor, or for many at once. */
#ifndef DETENT_CPU_FAKE_QUANTIZE_H
#define DETENT_CPU_FAKE_QUANTIZE_H

#include "detent/fake_quantize.h"
#include "walk.h"

#define DETENT_DECLARE_FAKE_QUANTIZE(SUFFIX)                                                                           \
    detent_map_##SUFFIX detent_fake_quantize_map_##SUFFIX(const void *x, void *y, uint8_t *mask, detent_dtype dtype,   \
                                                          detent_shape3 shape, const detent_encoding *encoding,        \
                                                          const detent_activation *activation);                        \
    detent_reduce_##SUFFIX detent_fake_quantize_reduce_##SUFFIX(                                                       \
        const void *grad_y, const void *x, void *grad_x, void *grad_first, void *grad_second, detent_dtype dtype,      \
        detent_shape3 shape, const detent_encoding *encoding, const detent_activation *activation,                     \
        double gradient_scale, void *workspace);                                                                       \
    /* The range of `groups` groups: lo, hi as the observer left them, float32, or float64 where the data is; clip     \
     * NULL means 1. */                                                                                                \
    void detent_range_of_clipped_##SUFFIX(const void *lo, const void *hi, detent_dtype dtype, const void *clip,        \
                                          size_t clip_count, void *min, void *max, size_t groups,                      \
                                          const detent_encoding *encoding);

DETENT_DECLARE_FAKE_QUANTIZE(f32)
DETENT_DECLARE_FAKE_QUANTIZE(f64)

typedef struct detent_select {
    const void *grad_y;
    const uint8_t *mask;
    void *grad_x;
    detent_dtype dtype;
    size_t n;
} detent_select;

/* Blocks begin .. end of a detent_select. */
void detent_select_blocks(int64_t begin, int64_t end, void *select);

#endif
