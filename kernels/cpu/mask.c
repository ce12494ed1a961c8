#include "detent/mask.h"

#include <string.h>

#include "../math/mask.h"
#include "block.h"

#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define IN_ORDER(eight) __builtin_bswap64(eight)
#else
#define IN_ORDER(eight) (eight)
#endif

DETENT_CLONES void detent_pack_bits(const uint8_t *restrict inside, size_t n, uint8_t *restrict mask)
{
    for (size_t i = 0; i < n / 8; ++i) {
        uint64_t eight = 0;
        memcpy(&eight, inside + 8 * i, 8);
        mask[i] = detent_pack_eight(IN_ORDER(eight));
    }
    if (n % 8 != 0) {
        uint8_t last = 0;
        for (size_t k = 0; k < n % 8; ++k) last = (uint8_t)(last | inside[n / 8 * 8 + k] << k);
        mask[n / 8] = last;
    }
}

DETENT_CLONES void detent_unpack_bits(const uint8_t *restrict mask, size_t n, uint8_t *restrict inside)
{
    for (size_t i = 0; i < n / 8; ++i) {
        const uint64_t eight = IN_ORDER(detent_unpack_eight(mask[i]));
        memcpy(inside + 8 * i, &eight, 8);
    }
    for (size_t k = 0; k < n % 8; ++k) inside[n / 8 * 8 + k] = mask[n / 8] >> k & 1;
}

/* Elements that are worth a thread of their own, a multiple of 8. */
enum { PIECE = 1 << 16 };

typedef struct mask_job {
    const uint8_t *from;
    uint8_t *to;
    size_t n;
} mask_job;

static void pack_pieces(int64_t begin, int64_t end, void *context)
{
    const mask_job *job = context;
    const size_t first = (size_t)begin * PIECE, last = detent_min_size(job->n, (size_t)end * PIECE);
    detent_pack_bits(job->from + first, last - first, job->to + first / 8);
}

static void unpack_pieces(int64_t begin, int64_t end, void *context)
{
    const mask_job *job = context;
    const size_t first = (size_t)begin * PIECE, last = detent_min_size(job->n, (size_t)end * PIECE);
    detent_unpack_bits(job->from + first / 8, last - first, job->to + first);
}

static detent_status run(const uint8_t *from, uint8_t *to, size_t n, detent_parallel_body body,
                         detent_parallel_for parallel)
{
    if (n == 0) return DETENT_OK;
    if (from == NULL || to == NULL) return DETENT_BAD_ARGUMENT;
    mask_job job = {from, to, n};
    detent_run(parallel, detent_ceil_div(n, PIECE), 1, body, &job);
    return DETENT_OK;
}

detent_status detent_pack_mask_cpu(const uint8_t *inside, uint8_t *mask, size_t n, detent_parallel_for parallel)
{
    return run(inside, mask, n, pack_pieces, parallel);
}

detent_status detent_unpack_mask_cpu(const uint8_t *mask, uint8_t *inside, size_t n, detent_parallel_for parallel)
{
    return run(mask, inside, n, unpack_pieces, parallel);
}
