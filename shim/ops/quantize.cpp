#include "quantize.h"

STABLE_TORCH_LIBRARY_FRAGMENT(detent, m) {
  m.def(
      "quantize(Tensor x, Tensor scale, Tensor? zero_point, int qmin, int qmax, ScalarType? dtype=None, int? "
      "axis=None, "
      "int[]? block_size=None, bool packed=False) -> Tensor");
  m.def(
      "quantize_backward(Tensor grad_q, Tensor x, Tensor scale, Tensor? zero_point, int qmin, int qmax, int? "
      "axis=None, "
      "int[]? block_size=None) -> (Tensor grad_x, Tensor grad_scale, Tensor grad_zero_point)");
  m.def(
      "dequantize(Tensor q, Tensor scale, Tensor? zero_point, ScalarType? dtype=None, int? axis=None, "
      "int[]? block_size=None, bool packed=False) -> Tensor");
  m.def(
      "dequantize_backward(Tensor grad_x, Tensor q, Tensor scale, Tensor? zero_point, int? axis=None, "
      "int[]? block_size=None, bool packed=False) -> (Tensor grad_q, Tensor grad_scale, Tensor grad_zero_point)");
}

STABLE_TORCH_LIBRARY_IMPL(detent, CPU, m) { detent_shim::register_quantize<detent_shim::Cpu>(m); }
