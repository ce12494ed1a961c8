#include "fake_quantize.h"

// Schemas are forever: TorchScript and exported programs hold them. New arguments go at the end, with defaults.
STABLE_TORCH_LIBRARY_FRAGMENT(detent, m) {
  m.def(
      "fake_quantize(Tensor x, Tensor scale, Tensor? zero_point, int qmin, int qmax, int? axis=None, int[]? "
      "block_size=None, float grad_scale=1.0, float? activation_min=None, float? activation_max=None, bool "
      "trained=False, Tensor? residual=None) -> Tensor");
  m.def(
      "fake_quantize_mask(Tensor x, Tensor scale, Tensor? zero_point, int qmin, int qmax, int? axis=None, int[]? "
      "block_size=None, float? activation_min=None, float? activation_max=None, bool trained=False, Tensor? "
      "residual=None) -> (Tensor y, Tensor mask)");
  m.def(
      "fake_quantize_sum(Tensor x, Tensor residual, Tensor scale, Tensor? zero_point, int qmin, int qmax, int? "
      "axis=None, int[]? block_size=None, float? activation_min=None, float? activation_max=None, bool trained=False) "
      "-> (Tensor y, Tensor sum)");
  m.def(
      "fake_quantize_backward(Tensor grad_y, Tensor x, Tensor scale, Tensor? zero_point, int qmin, int qmax, "
      "int? axis=None, int[]? block_size=None, float grad_scale=1.0, float? activation_min=None, float? "
      "activation_max=None, bool trained=False) -> (Tensor grad_x, Tensor grad_scale, Tensor grad_zero_point)");
  m.def(
      "fake_quantize_range(Tensor x, Tensor min, Tensor max, int qmin, int qmax, bool symmetric, int? "
      "zero_point=None, int? axis=None, int[]? block_size=None, float? activation_min=None, float? "
      "activation_max=None, Tensor? residual=None) -> Tensor");
  m.def(
      "fake_quantize_range_mask(Tensor x, Tensor min, Tensor max, int qmin, int qmax, bool symmetric, int? "
      "zero_point=None, int? axis=None, int[]? block_size=None, float? activation_min=None, float? "
      "activation_max=None, Tensor? residual=None) -> (Tensor y, Tensor mask)");
  m.def(
      "fake_quantize_range_sum(Tensor x, Tensor residual, Tensor min, Tensor max, int qmin, int qmax, bool symmetric, "
      "int? zero_point=None, int? axis=None, int[]? block_size=None, float? activation_min=None, float? "
      "activation_max=None) -> (Tensor y, Tensor sum)");
  m.def(
      "fake_quantize_range_backward(Tensor grad_y, Tensor x, Tensor min, Tensor max, int qmin, int qmax, bool "
      "symmetric, int? zero_point=None, int? axis=None, int[]? block_size=None, float? activation_min=None, "
      "float? activation_max=None) -> (Tensor grad_x, Tensor grad_min, Tensor grad_max)");
  m.def(
      "fake_quantize_dynamic(Tensor x, Tensor? clip, int qmin, int qmax, bool symmetric, int? axis=None, "
      "int[]? block_size=None, int? zero_point=None) -> (Tensor y, Tensor min, Tensor max)");
  m.def(
      "fake_quantize_dynamic_mask(Tensor x, Tensor? clip, int qmin, int qmax, bool symmetric, int? axis=None, "
      "int[]? block_size=None, int? zero_point=None) -> (Tensor y, Tensor min, Tensor max, Tensor mask)");
  m.def("fake_quantize_mask_backward(Tensor grad_y, Tensor mask, int[]? order=None, int[]? block_size=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(detent, CPU, m) { detent_shim::register_fake_quantize<detent_shim::Cpu>(m); }
