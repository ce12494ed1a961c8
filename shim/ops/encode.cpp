#include "encode.h"

STABLE_TORCH_LIBRARY_FRAGMENT(detent, m) {
  m.def(
      "encode_min_max(Tensor lo, Tensor hi, int qmin, int qmax, bool symmetric, int? zero_point=None) -> (Tensor min, "
      "Tensor max)");
  m.def(
      "encode_affine(Tensor min, Tensor max, int qmin, int qmax, bool symmetric, int? zero_point=None) "
      "-> (Tensor scale, Tensor zero_point)");
  m.def("encode_trained(Tensor scale, Tensor zero_point, int qmin, int qmax) -> (Tensor scale, Tensor zero_point)");
  m.def(
      "encode_percentile(Tensor lo, Tensor hi, Tensor counts, float percentile, int qmin, int qmax, bool symmetric, "
      "int? zero_point=None) -> (Tensor min, Tensor max)");
  m.def(
      "encode_sqnr(Tensor lo, Tensor hi, Tensor counts, int qmin, int qmax, bool symmetric, int? zero_point=None, "
      "float gamma=3.0, int asymmetric_deltas=17, int offsets=21, int symmetric_deltas=101) -> (Tensor min, Tensor "
      "max)");
  m.def(
      "encode_mse(Tensor lo, Tensor hi, Tensor counts, int qmin, int qmax, bool symmetric, int? zero_point=None) -> "
      "(Tensor min, Tensor max)");
  m.def(
      "encode_entropy(Tensor lo, Tensor hi, Tensor counts, int qmin, int qmax, bool symmetric, int? zero_point=None) "
      "-> (Tensor min, Tensor max)");
  m.def("cpu_dispatch() -> str");
}

namespace {
std::string cpu_dispatch() { return detent_cpu_dispatch(); }
}  // namespace

STABLE_TORCH_LIBRARY_IMPL(detent, CPU, m) { detent_shim::register_encode<detent_shim::Cpu>(m); }
STABLE_TORCH_LIBRARY_IMPL(detent, CompositeExplicitAutograd, m) { m.impl("cpu_dispatch", TORCH_BOX(&cpu_dispatch)); }
