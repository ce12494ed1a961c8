#include "detent/block_cast.h"

#include <math.h>
#include <string.h>

#include "../math/block_cast.h"
#include "block.h"
#include "check.h"

/* Elements that pay for a start of a thread. */
enum { GRAIN = 16384 };

/* Bits at .. at + n of a mask of zeros; the first and the last byte may be shared with other threads. inside holds the
 * n bytes from place at % 8 on, and zeros before them. */
static void put_bits(uint8_t *mask, size_t at, const uint8_t *inside, size_t n)
{
    uint8_t packed[DETENT_BLOCK / 8 + 1];
    const size_t bits = at % 8 + n, last = (bits - 1) / 8;
    detent_pack_bits(inside, bits, packed);
    mask += at / 8;
    __atomic_fetch_or(&mask[0], packed[0], __ATOMIC_RELAXED);
    if (last == 0) return;
    memcpy(mask + 1, packed + 1, last - 1);
    __atomic_fetch_or(&mask[last], packed[last], __ATOMIC_RELAXED);
}

#define DETENT_FORMULAS "../cpu/block_cast.inl"
#include "../math/for_each_real.h"

detent_status detent_block_cast_cpu(const void *x, void *y, uint8_t *mask, detent_dtype dtype, detent_shape3 shape,
                                    size_t block_size, detent_float_format format, const void *tensor_scale,
                                    detent_parallel_for parallel)
{
    size_t elements = 0;
    const detent_status status = detent_check_block_cast(x, y, dtype, shape, block_size, format, &elements);
    if (status != DETENT_OK || elements == 0) return status;
    if (mask != NULL) memset(mask, 0, detent_ceil_div(elements, 8));
    if (dtype == DETENT_F64)
        block_cast_f64(x, y, mask, dtype, shape, block_size, format, tensor_scale, parallel);
    else
        block_cast_f32(x, y, mask, dtype, shape, block_size, format, tensor_scale, parallel);
    return DETENT_OK;
}
