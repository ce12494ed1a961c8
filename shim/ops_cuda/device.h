// The CUDA side of ops/device.h: the device's current stream, scratch memory from torch's allocator, errors by name.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/stable/accelerator.h>

#include <memory>

#include "../ops/device.h"

// torch's headers declare this for their own CUDA builds only; it is resolved in a torch that has CUDA.
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void **stream);

namespace detent_shim {

// A kernel function whose refused launch says what CUDA said.
template <auto Function>
struct Named;
template <typename... Args, detent_status (*Function)(Args...)>
struct Named<Function> {
  static detent_status call(Args... args) {
    const detent_status status = Function(args...);
    if (status == DETENT_LAUNCH_FAILED)
      throw std::runtime_error(std::string("detent: a CUDA launch failed: ") + cudaGetErrorString(cudaGetLastError()));
    return status;
  }
};

struct Cuda {
  struct Scope {
    explicit Scope(const Tensor &t) : guard_(t.get_device_index()) {
      TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(t.get_device_index(), &queue));
    }
    detent_stream queue = nullptr;

   private:
    torch::stable::accelerator::DeviceGuard guard_;
  };

  class Workspace {
   public:
    Workspace(const Tensor &device_of, size_t bytes) : bytes_(bytes) {
      if (bytes > 0)
        heap_ = std::make_unique<Tensor>(empty_1d(device_of, static_cast<int64_t>(bytes), torch_of(DETENT_U8)));
    }
    void *data() { return heap_ != nullptr ? heap_->mutable_data_ptr() : nullptr; }
    size_t bytes() const { return bytes_; }

   private:
    size_t bytes_;
    std::unique_ptr<Tensor> heap_;
  };

  static constexpr auto fake_quantize = &Named<&detent_fake_quantize_cuda>::call;
  static constexpr auto fake_quantize_sum = &Named<&detent_fake_quantize_sum_cuda>::call;
  static constexpr auto fake_quantize_bwd_workspace = &detent_fake_quantize_bwd_workspace_cuda;
  static constexpr auto fake_quantize_bwd = &Named<&detent_fake_quantize_bwd_cuda>::call;
  static constexpr auto fake_quantize_mask_bwd = &Named<&detent_fake_quantize_mask_bwd_cuda>::call;
  static constexpr auto fake_quantize_dynamic_workspace = &detent_fake_quantize_dynamic_workspace_cuda;
  static constexpr auto fake_quantize_dynamic = &Named<&detent_fake_quantize_dynamic_cuda>::call;
  static constexpr auto fake_quantize_many = &Named<&detent_fake_quantize_many_cuda>::call;
  static constexpr auto fake_quantize_many_bwd_workspace = &detent_fake_quantize_many_bwd_workspace_cuda;
  static constexpr auto fake_quantize_many_bwd = &Named<&detent_fake_quantize_many_bwd_cuda>::call;
  static constexpr auto fake_quantize_mask_many_bwd = &Named<&detent_fake_quantize_mask_many_bwd_cuda>::call;
  static constexpr auto fake_quantize_dynamic_many_workspace = &detent_fake_quantize_dynamic_many_workspace_cuda;
  static constexpr auto fake_quantize_dynamic_many = &Named<&detent_fake_quantize_dynamic_many_cuda>::call;
  static constexpr auto fake_quantize_stochastic = &Named<&detent_fake_quantize_stochastic_cuda>::call;
  static constexpr auto float_cast = &Named<&detent_float_cast_cuda>::call;
  static constexpr auto pack_mask = &Named<&detent_pack_mask_cuda>::call;
  static constexpr auto unpack_mask = &Named<&detent_unpack_mask_cuda>::call;
  static constexpr auto block_cast_workspace = &detent_block_cast_workspace_cuda;
  static constexpr auto block_cast = &Named<&detent_block_cast_cuda>::call;
  static constexpr auto quantize = &Named<&detent_quantize_cuda>::call;
  static constexpr auto quantize_bwd = &Named<&detent_quantize_bwd_cuda>::call;
  static constexpr auto dequantize = &Named<&detent_dequantize_cuda>::call;
  static constexpr auto dequantize_bwd = &Named<&detent_dequantize_bwd_cuda>::call;
  static constexpr auto observe_min_max_workspace = &detent_observe_min_max_workspace_cuda;
  static constexpr auto observe_min_max = &Named<&detent_observe_min_max_cuda>::call;
  static constexpr auto observe_moments_workspace = &detent_observe_moments_workspace_cuda;
  static constexpr auto observe_moments = &Named<&detent_observe_moments_cuda>::call;
  static constexpr auto observe_histogram_workspace = &detent_observe_histogram_workspace_cuda;
  static constexpr auto observe_histogram = &Named<&detent_observe_histogram_cuda>::call;
  static constexpr auto observe_histogram_merge = &Named<&detent_observe_histogram_merge_cuda>::call;
  static constexpr auto encode_histogram = &Named<&detent_encode_histogram_cuda>::call;
  static constexpr auto encode_min_max = &Named<&detent_encode_min_max_cuda>::call;
  static constexpr auto encode_affine = &Named<&detent_encode_affine_cuda>::call;
  static constexpr auto encode_trained = &Named<&detent_encode_trained_cuda>::call;
};

}  // namespace detent_shim
