#include "mask.h"

STABLE_TORCH_LIBRARY_FRAGMENT(detent, m) {
  m.def("pack_mask(Tensor inside) -> Tensor");
  m.def("unpack_mask(Tensor mask, int[] size) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(detent, CPU, m) { detent_shim::register_mask<detent_shim::Cpu>(m); }
