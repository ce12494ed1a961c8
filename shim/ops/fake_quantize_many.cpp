#include "fake_quantize_many.h"

// axis: one per tensor. block_size, order: one entry per dimension of each tensor, tensor after tensor. An empty list
// of zero_point or clip is none at all.
STABLE_TORCH_LIBRARY_FRAGMENT(detent, m) {
  m.def(
      "fake_quantize_many(Tensor[] x, Tensor[] scale, Tensor[] zero_point, int qmin, int qmax, int[]? axis=None, "
      "int[]? block_size=None, float[]? grad_scale=None, bool trained=False) -> Tensor[]");
  m.def(
      "fake_quantize_many_mask(Tensor[] x, Tensor[] scale, Tensor[] zero_point, int qmin, int qmax, int[]? axis=None, "
      "int[]? block_size=None, bool trained=False) -> (Tensor[] y, Tensor[] mask)");
  m.def(
      "fake_quantize_many_backward(Tensor[] grad_y, Tensor[] x, Tensor[] scale, Tensor[] zero_point, int qmin, int "
      "qmax, int[]? axis=None, int[]? block_size=None, float[]? grad_scale=None, bool trained=False) -> (Tensor[] "
      "grad_x, Tensor[] "
      "grad_scale, Tensor[] grad_zero_point)");
  m.def(
      "fake_quantize_range_many(Tensor[] x, Tensor[] min, Tensor[] max, int qmin, int qmax, bool symmetric, int? "
      "zero_point=None, int[]? axis=None, int[]? block_size=None) -> Tensor[]");
  m.def(
      "fake_quantize_range_many_mask(Tensor[] x, Tensor[] min, Tensor[] max, int qmin, int qmax, bool symmetric, int? "
      "zero_point=None, int[]? axis=None, int[]? block_size=None) -> (Tensor[] y, Tensor[] mask)");
  m.def(
      "fake_quantize_range_many_backward(Tensor[] grad_y, Tensor[] x, Tensor[] min, Tensor[] max, int qmin, int qmax, "
      "bool symmetric, int? zero_point=None, int[]? axis=None, int[]? block_size=None) -> (Tensor[] grad_x, Tensor[] "
      "grad_min, Tensor[] grad_max)");
  m.def(
      "fake_quantize_dynamic_many(Tensor[] x, Tensor[] clip, int qmin, int qmax, bool symmetric, int[]? axis=None, "
      "int[]? block_size=None, int? zero_point=None) -> (Tensor[] y, Tensor[] min, Tensor[] max)");
  m.def(
      "fake_quantize_dynamic_many_mask(Tensor[] x, Tensor[] clip, int qmin, int qmax, bool symmetric, int[]? "
      "axis=None, int[]? block_size=None, int? zero_point=None) -> (Tensor[] y, Tensor[] min, Tensor[] max, Tensor[] "
      "mask)");
  m.def(
      "fake_quantize_mask_many_backward(Tensor[] grad_y, Tensor[] mask, int[]? order=None, int[]? block_size=None) -> "
      "Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(detent, CPU, m) { detent_shim::register_fake_quantize_many<detent_shim::Cpu>(m); }
