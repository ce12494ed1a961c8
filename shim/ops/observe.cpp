#include "observe.h"

STABLE_TORCH_LIBRARY_FRAGMENT(detent, m) {
  m.def(
      "observe_min_max(Tensor x, int? axis=None, int[]? block_size=None) -> (Tensor min, Tensor max, Tensor ignored)");
  m.def(
      "observe_min_max_update_(Tensor x, Tensor(a!) min, Tensor(b!) max, Tensor(c!) ignored, float? momentum=None, "
      "int? axis=None, int[]? block_size=None) -> ()");
  m.def(
      "observe_moments_update_(Tensor x, Tensor(a!) min, Tensor(b!) max, Tensor(c!) ignored, Tensor(d!) moments, int? "
      "axis=None, int[]? block_size=None) -> ()");
  m.def(
      "observe_histogram_update_(Tensor x, Tensor(a!) min, Tensor(b!) max, Tensor(c!) ignored, Tensor(d!) counts, int? "
      "axis=None, int[]? block_size=None) -> ()");
  m.def(
      "observe_histogram_merge_(Tensor(a!) min, Tensor(b!) max, Tensor(c!) ignored, Tensor(d!) counts, Tensor "
      "other_min, Tensor other_max, Tensor other_ignored, Tensor other_counts) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(detent, CPU, m) { detent_shim::register_observe<detent_shim::Cpu>(m); }
