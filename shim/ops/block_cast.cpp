#include "block_cast.h"

STABLE_TORCH_LIBRARY_FRAGMENT(detent, m) {
  m.def(
      "block_cast(Tensor x, int mantissa_bits, int min_exponent, float max, int axis=-1, int block_size=32, Tensor? "
      "tensor_scale=None) -> Tensor");
  m.def(
      "block_cast_mask(Tensor x, int mantissa_bits, int min_exponent, float max, int axis=-1, int block_size=32, "
      "Tensor? tensor_scale=None) -> (Tensor y, Tensor mask)");
}

STABLE_TORCH_LIBRARY_IMPL(detent, CPU, m) { detent_shim::register_block_cast<detent_shim::Cpu>(m); }
