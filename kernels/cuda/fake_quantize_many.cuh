/* Many tensors whose arguments are checked and whose arithmetic is float32; select is of any type. */
#ifndef DETENT_CUDA_FAKE_QUANTIZE_MANY_CUH
#define DETENT_CUDA_FAKE_QUANTIZE_MANY_CUH

#include "detent/fake_quantize_many.h"

namespace detent_cuda
{

detent_status run_forward_many(const detent_fake_quantize_item *items, size_t count, detent_dtype dtype,
                               detent_stream stream);
detent_status run_dynamic_many(const detent_fake_quantize_dynamic_item *items, size_t count, detent_dtype dtype,
                               void *workspace, detent_stream stream);
detent_status run_backward_many(const detent_fake_quantize_bwd_item *items, size_t count, detent_dtype dtype,
                                void *workspace, detent_stream stream);
detent_status run_select_many(const detent_fake_quantize_mask_bwd_item *items, size_t count, detent_dtype dtype,
                              detent_stream stream);

} // namespace detent_cuda

#endif
