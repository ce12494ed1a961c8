/* The checks at the door of every CPU and CUDA entry point. */
#ifndef DETENT_CPU_CHECK_H
#define DETENT_CPU_CHECK_H

#include "detent/encode.h"
#include "detent/fake_quantize.h"
#include "detent/float_cast.h"

#ifdef __cplusplus
extern "C" {
#endif

detent_status detent_check_shape(detent_shape3 shape, size_t *elements);
detent_status detent_check_grid(const detent_encoding *encoding);     /* the grid alone */
detent_status detent_check_encoding(const detent_encoding *encoding); /* the grid, and exactly one parametrization */
detent_status detent_check_affine(const detent_encoding *encoding);   /* scale is given; the grid is not looked at */
detent_status detent_check_format(detent_float_format format);
detent_status detent_check_activation(const detent_activation *activation); /* NULL is none */
double detent_stored(double value, detent_dtype dtype); /* value as a tensor of that float type holds it */
int detent_is_float(detent_dtype dtype);
int detent_are_bins(size_t bins); /* a number of bins that a histogram may have */
/* Half the largest number of a float type: magnitudes from here on are masks, not data. */
double detent_counting_limit(detent_dtype dtype);

/* The two tensors of a call: neither NULL unless empty. *elements is 0 for an empty tensor. */
detent_status detent_check_arrays(const void *from, const void *to, detent_shape3 shape, size_t *elements);
/* The same for values of a float type. */
detent_status detent_check_values(const void *from, const void *to, detent_dtype dtype, detent_shape3 shape,
                                  size_t *elements);
/* The arguments of a cast to a block format. */
detent_status detent_check_block_cast(const void *x, const void *y, detent_dtype dtype, detent_shape3 shape,
                                      size_t block_size, detent_float_format format, size_t *elements);
/* Codes are integers, or floats of the type of the values they stand for; in backward not packed ones. */
detent_status detent_check_code_types(detent_dtype x_dtype, detent_dtype q_dtype);
detent_status detent_check_code_types_bwd(detent_dtype x_dtype, detent_dtype q_dtype);
/* Where the sums of a backward go, and the workspace they need. */
detent_status detent_check_workspace(const void *workspace, size_t workspace_bytes, size_t needed_bytes);

detent_status detent_check_sums(const void *grad_first, const void *grad_second, size_t groups,
                                const detent_encoding *encoding, const void *workspace, size_t workspace_bytes,
                                size_t needed_bytes);
/* The arguments of a histogram's update, of a merge of two, and of a search. */
detent_status detent_check_histogram(const void *x, const void *min, const void *max, const int64_t *ignored,
                                     const int64_t *counts, detent_dtype dtype, detent_shape3 shape, size_t bins,
                                     const void *workspace, size_t workspace_bytes, size_t needed_bytes);
detent_status detent_check_merge(const void *other_min, const void *other_max, const int64_t *other_ignored,
                                 const int64_t *other_counts, const void *min, const void *max, const int64_t *ignored,
                                 const int64_t *counts, detent_dtype real, size_t groups, size_t bins);
detent_status detent_check_search(const void *lo, const void *hi, const int64_t *counts, const void *min,
                                  const void *max, detent_dtype real, size_t groups, size_t bins,
                                  const detent_search *search, const detent_encoding *encoding);
int detent_codes_fit(detent_dtype codes, detent_grid grid); /* every integer of the grid is exact in that type */

#ifdef __cplusplus
}
#endif
#endif
