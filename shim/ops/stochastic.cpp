#include "stochastic.h"

STABLE_TORCH_LIBRARY_FRAGMENT(detent, m) {
  m.def(
      "fake_quantize_stochastic(Tensor x, Tensor scale, Tensor? zero_point, Tensor random, int qmin, int qmax, int? "
      "axis=None, int[]? block_size=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(detent, CPU, m) { detent_shim::register_stochastic<detent_shim::Cpu>(m); }
