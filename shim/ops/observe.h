// The operators of the observe family, for any device policy.
#pragma once

#include "device.h"

namespace detent_shim {

inline int32_t statistics_dtype(detent_dtype dtype) { return torch_of(dtype == DETENT_F64 ? DETENT_F64 : DETENT_F32); }

template <typename Device>
void run_observe(const char *op, const Grouped &grouped, detent_dtype dtype, Tensor &min, Tensor &max, Tensor &ignored,
                 detent_observe_mode mode, double momentum) {
  typename Device::Scope scope(grouped.values());
  size_t bytes = 0;
  throw_unless_ok(op, Device::observe_min_max_workspace(grouped.shape, &bytes));
  typename Device::Workspace workspace(grouped.values(), bytes);
  throw_unless_ok(op, Device::observe_min_max(grouped.data(), min.mutable_data_ptr(), max.mutable_data_ptr(),
                                              static_cast<int64_t *>(ignored.mutable_data_ptr()), dtype, grouped.shape,
                                              mode, momentum, workspace.data(), workspace.bytes(), scope.queue));
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor> observe_min_max(const Tensor &x, std::optional<int64_t> axis,
                                                   OptionalInts block_size) {
  const char *op = "observe_min_max";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const Grouped grouped(op, x, axis, block_size);
  const Ints sizes = grouped.encoding_sizes.empty() ? Ints{1} : grouped.encoding_sizes;
  Tensor min = torch::stable::new_empty(
      x, sizes, dtype == DETENT_F64 ? torch::headeronly::ScalarType::Double : torch::headeronly::ScalarType::Float);
  Tensor max = empty_as(min);
  Tensor ignored = empty_as(min, aoti_torch_dtype_int64());
  run_observe<Device>(op, grouped, dtype, min, max, ignored, DETENT_OBSERVE_REPLACE, 0.0);
  return {min, max, ignored};
}

inline void check_statistic(const char *op, const char *name, const Tensor &t, const Grouped &grouped, int32_t dtype) {
  check_device(op, name, t, grouped.like());
  int64_t groups = 1;
  for (const int64_t size : grouped.encoding_sizes) groups *= size;
  if (torch_dtype_of(t) != dtype || !t.is_contiguous() || t.numel() != groups)
    fail(op, name, " has shape ", shape_text(t), " and dtype ", dtype_name(t), ", expected ", groups,
         " contiguous elements of ", row_of_torch(dtype)->name, ", one per group of x.");
}

// momentum None: running minimum and maximum; else a moving average.
template <typename Device>
void observe_min_max_update(const Tensor &x, Tensor min, Tensor max, Tensor ignored, std::optional<double> momentum,
                            std::optional<int64_t> axis, OptionalInts block_size) {
  const char *op = "observe_min_max_update_";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const Grouped grouped(op, x, axis, block_size);
  if (momentum.has_value() && !(*momentum > 0.0 && *momentum <= 1.0))
    fail(op, "momentum is ", *momentum, ", expected a number in (0, 1], or None for the running minimum and maximum.");
  check_statistic(op, "min", min, grouped, statistics_dtype(dtype));
  check_statistic(op, "max", max, grouped, statistics_dtype(dtype));
  check_statistic(op, "ignored", ignored, grouped, aoti_torch_dtype_int64());
  run_observe<Device>(op, grouped, dtype, min, max, ignored,
                      momentum.has_value() ? DETENT_OBSERVE_MOVING_AVERAGE : DETENT_OBSERVE_RUNNING,
                      momentum.value_or(0.0));
}

template <typename Device, typename Library>
void register_observe(Library &m) {
  m.impl("observe_min_max", TORCH_BOX(&observe_min_max<Device>));
  m.impl("observe_min_max_update_", TORCH_BOX(&observe_min_max_update<Device>));
}

}  // namespace detent_shim
