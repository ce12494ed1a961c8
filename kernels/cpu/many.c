#include "many.h"

static void run_pieces(int64_t begin, int64_t end, void *context)
{
    const detent_many *many = context;
    size_t first = 0;
    char *workspace = many->workspace;
    for (size_t item = 0; item < many->count && first < (size_t)end; ++item) {
        const detent_share share = many->share(many, item);
        const size_t from = detent_max_size((size_t)begin, first),
                     to = detent_min_size((size_t)end, first + share.pieces);
        if (from < to) many->work(many, item, workspace, (int64_t)(from - first), (int64_t)(to - first));
        first += share.pieces;
        if (workspace != NULL) workspace += share.bytes;
    }
}

void detent_run_many(const detent_many *many, size_t grain, detent_parallel_for parallel)
{
    size_t pieces = 0;
    for (size_t item = 0; item < many->count; ++item) pieces += many->share(many, item).pieces;
    if (pieces > 0) detent_run(parallel, pieces, grain, run_pieces, (void *)many);
}
