/* Observing minimum, maximum and moments, before it is shared out to threads. */
#ifndef DETENT_CPU_OBSERVE_H
#define DETENT_CPU_OBSERVE_H

#include "detent/observe.h"

/* Of one group in one tile: the sums of |x|, x and x^2. */
typedef struct detent_sums {
    double size, total, square;
} detent_sums;

typedef struct detent_observation {
    const void *x;
    detent_dtype dtype;
    detent_shape3 shape;
    void *partials, *min, *max;
    int64_t *ignored;
    detent_observe_mode mode;
    double momentum;
    detent_sums *sums; /* laid out as the partials; NULL where no moments are wanted */
    double *moments;
} detent_observation;

/* Tiles (detent_tiles_of) begin .. end of a detent_observation, and when all are done its groups begin .. end. */
void detent_observe_tiles_f32(int64_t begin, int64_t end, void *observation);
void detent_observe_tiles_f64(int64_t begin, int64_t end, void *observation);
void detent_observe_groups_f32(int64_t begin, int64_t end, void *observation);
void detent_observe_groups_f64(int64_t begin, int64_t end, void *observation);

#endif
