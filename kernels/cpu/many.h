/* One loop over the pieces of several items, one item after the other, as if they were one tensor. */
#ifndef DETENT_CPU_MANY_H
#define DETENT_CPU_MANY_H

#include "block.h"

/* How many pieces an item has, and how many bytes of the workspace. */
typedef struct detent_share {
    size_t pieces, bytes;
} detent_share;

typedef struct detent_many {
    const void *items;
    size_t count;
    detent_dtype dtype;
    void *workspace;
    detent_share (*share)(const struct detent_many *many, size_t item);
    /* Pieces begin .. end of an item; workspace is the item's part. */
    void (*work)(const struct detent_many *many, size_t item, void *workspace, int64_t begin, int64_t end);
} detent_many;

void detent_run_many(const detent_many *many, size_t grain, detent_parallel_for parallel);

#endif
