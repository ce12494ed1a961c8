#include "float_cast.h"

STABLE_TORCH_LIBRARY_FRAGMENT(detent, m) {
  m.def(
      "float_cast(Tensor x, Tensor scale, int mantissa_bits, int min_exponent, float max, int? axis=None, "
      "int[]? block_size=None) -> Tensor");
  m.def(
      "float_cast_mask(Tensor x, Tensor scale, int mantissa_bits, int min_exponent, float max, int? axis=None, "
      "int[]? block_size=None) -> (Tensor y, Tensor mask)");
}

STABLE_TORCH_LIBRARY_IMPL(detent, CPU, m) { detent_shim::register_float_cast<detent_shim::Cpu>(m); }
