/* The packed mask of a fixed range's backward: one bit per element, bit i % 8 of byte i / 8 for element i.
 *
 *   inside    n bytes of 0 or 1 (promised)
 *   mask      (n + 7) / 8 bytes; bits beyond n are written 0 and not read
 *   parallel  NULL, or how to use several threads (CPU)
 *
 * No overlap. n = 0 is DETENT_OK. DETENT_BAD_ARGUMENT: nothing was written or queued. */
#ifndef DETENT_MASK_H
#define DETENT_MASK_H

#include "detent/base.h"

#ifdef __cplusplus
extern "C" {
#endif

DETENT_API detent_status detent_pack_mask_cpu(const uint8_t *inside, uint8_t *mask, size_t n,
                                              detent_parallel_for parallel);
DETENT_API detent_status detent_pack_mask_cuda(const uint8_t *inside, uint8_t *mask, size_t n, detent_stream stream);

DETENT_API detent_status detent_unpack_mask_cpu(const uint8_t *mask, uint8_t *inside, size_t n,
                                                detent_parallel_for parallel);
DETENT_API detent_status detent_unpack_mask_cuda(const uint8_t *mask, uint8_t *inside, size_t n, detent_stream stream);

#ifdef __cplusplus
}
#endif
#endif
