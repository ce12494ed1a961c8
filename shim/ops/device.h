// What differs between the devices: which C functions, which queue to hand them, where scratch memory comes from.
// The operators of a family are templates over such a policy, written once in <family>.h.
#pragma once

#include "detent/block_cast.h"
#include "detent/encode.h"
#include "detent/fake_quantize.h"
#include "detent/fake_quantize_many.h"
#include "detent/float_cast.h"
#include "detent/mask.h"
#include "detent/observe.h"
#include "detent/quantize.h"
#include "detent/stochastic.h"
#include "tensor.h"

namespace detent_shim {

inline void torch_threads(int64_t begin, int64_t end, int64_t grain, detent_parallel_body body, void *context) {
  TORCH_ERROR_CODE_CHECK(torch_parallel_for(begin, end, grain, body, context));
}

struct Cpu {
  // Makes the tensor's device current while it lives, and names the queue of its work.
  struct Scope {
    explicit Scope(const Tensor &) {}
    detent_parallel_for queue = &torch_threads;
  };

  // Small scratch lives on the stack.
  class Workspace {
   public:
    Workspace(const Tensor &device_of, size_t bytes) : bytes_(bytes) {
      if (bytes > sizeof room_) heap_ = empty_1d(device_of, static_cast<int64_t>(bytes), torch_of(DETENT_U8));
    }
    void *data() { return heap_.has_value() ? heap_->mutable_data_ptr() : room_; }
    size_t bytes() const { return bytes_; }

   private:
    alignas(16) char room_[512];
    size_t bytes_;
    std::optional<Tensor> heap_;
  };

  static constexpr auto fake_quantize = &detent_fake_quantize_cpu;
  static constexpr auto fake_quantize_sum = &detent_fake_quantize_sum_cpu;
  static constexpr auto fake_quantize_bwd_workspace = &detent_fake_quantize_bwd_workspace;
  static constexpr auto fake_quantize_bwd = &detent_fake_quantize_bwd_cpu;
  static constexpr auto fake_quantize_mask_bwd = &detent_fake_quantize_mask_bwd_cpu;
  static constexpr auto fake_quantize_dynamic_workspace = &detent_fake_quantize_dynamic_workspace;
  static constexpr auto fake_quantize_dynamic = &detent_fake_quantize_dynamic_cpu;
  static constexpr auto fake_quantize_many = &detent_fake_quantize_many_cpu;
  static constexpr auto fake_quantize_many_bwd_workspace = &detent_fake_quantize_many_bwd_workspace;
  static constexpr auto fake_quantize_many_bwd = &detent_fake_quantize_many_bwd_cpu;
  static constexpr auto fake_quantize_mask_many_bwd = &detent_fake_quantize_mask_many_bwd_cpu;
  static constexpr auto fake_quantize_dynamic_many_workspace = &detent_fake_quantize_dynamic_many_workspace;
  static constexpr auto fake_quantize_dynamic_many = &detent_fake_quantize_dynamic_many_cpu;
  static constexpr auto fake_quantize_stochastic = &detent_fake_quantize_stochastic_cpu;
  static constexpr auto float_cast = &detent_float_cast_cpu;
  static constexpr auto pack_mask = &detent_pack_mask_cpu;
  static constexpr auto unpack_mask = &detent_unpack_mask_cpu;
  static detent_status block_cast_workspace(detent_dtype, detent_shape3, size_t, size_t *bytes) {
    *bytes = 0;
    return DETENT_OK;
  }
  static detent_status block_cast(const void *x, void *y, uint8_t *mask, detent_dtype dtype, detent_shape3 shape,
                                  size_t block_size, detent_float_format format, const void *tensor_scale, void *,
                                  size_t, detent_parallel_for parallel) {
    return detent_block_cast_cpu(x, y, mask, dtype, shape, block_size, format, tensor_scale, parallel);
  }
  static constexpr auto quantize = &detent_quantize_cpu;
  static constexpr auto quantize_bwd = &detent_quantize_bwd_cpu;
  static constexpr auto dequantize = &detent_dequantize_cpu;
  static constexpr auto dequantize_bwd = &detent_dequantize_bwd_cpu;
  static constexpr auto observe_min_max_workspace = &detent_observe_min_max_workspace;
  static constexpr auto observe_min_max = &detent_observe_min_max_cpu;
  static constexpr auto observe_moments_workspace = &detent_observe_moments_workspace;
  static constexpr auto observe_moments = &detent_observe_moments_cpu;
  static constexpr auto observe_histogram_workspace = &detent_observe_histogram_workspace;
  static constexpr auto observe_histogram = &detent_observe_histogram_cpu;
  static constexpr auto observe_histogram_merge = &detent_observe_histogram_merge_cpu;
  static constexpr auto encode_histogram = &detent_encode_histogram_cpu;
  static detent_status encode_min_max(const void *lo, const void *hi, void *min, void *max, detent_dtype real, size_t n,
                                      const detent_encoding *encoding, detent_parallel_for) {
    return detent_encode_min_max_cpu(lo, hi, min, max, real, n, encoding);
  }
  static detent_status encode_affine(const void *min, const void *max, void *scale, void *zero_point, detent_dtype real,
                                     size_t n, const detent_encoding *encoding, detent_parallel_for) {
    return detent_encode_affine_cpu(min, max, scale, zero_point, real, n, encoding);
  }
  static detent_status encode_trained(const void *scale, const void *zero_point, void *usable_scale,
                                      void *usable_zero_point, detent_dtype real, size_t n,
                                      const detent_encoding *encoding, detent_parallel_for) {
    return detent_encode_trained_cpu(scale, zero_point, usable_scale, usable_zero_point, real, n, encoding);
  }
};

}  // namespace detent_shim
