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

// moments: four rows of one value a group.
template <typename Device>
void observe_moments_update(const Tensor &x, Tensor min, Tensor max, Tensor ignored, Tensor moments,
                            std::optional<int64_t> axis, OptionalInts block_size) {
  const char *op = "observe_moments_update_";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const Grouped grouped(op, x, axis, block_size);
  check_statistic(op, "min", min, grouped, statistics_dtype(dtype));
  check_statistic(op, "max", max, grouped, statistics_dtype(dtype));
  check_statistic(op, "ignored", ignored, grouped, aoti_torch_dtype_int64());
  check_device(op, "moments", moments, x);
  if (torch_dtype_of(moments) != torch_of(DETENT_F64) || !moments.is_contiguous() || moments.numel() != 4 * min.numel())
    fail(op, "moments has shape ", shape_text(moments), " and dtype ", dtype_name(moments), ", expected ",
         4 * min.numel(), " contiguous elements of float64, four per group of x.");
  typename Device::Scope scope(grouped.values());
  size_t bytes = 0;
  throw_unless_ok(op, Device::observe_moments_workspace(grouped.shape, &bytes));
  typename Device::Workspace workspace(grouped.values(), bytes);
  throw_unless_ok(op, Device::observe_moments(grouped.data(), min.mutable_data_ptr(), max.mutable_data_ptr(),
                                              static_cast<int64_t *>(ignored.mutable_data_ptr()),
                                              static_cast<double *>(moments.mutable_data_ptr()), dtype, grouped.shape,
                                              workspace.data(), workspace.bytes(), scope.queue));
}

// The arrays of a histogram: counts has a last dimension of bins more than the others. Returns the number of bins.
inline size_t check_counts(const char *op, const char *name, const Tensor &counts, const Tensor &min) {
  check_device(op, name, counts, min);
  const int64_t groups = min.numel(), bins = counts.dim() > 0 ? counts.size(counts.dim() - 1) : 0;
  if (torch_dtype_of(counts) != aoti_torch_dtype_int64() || !counts.is_contiguous() || counts.numel() != groups * bins)
    fail(op, name, " has shape ", shape_text(counts), " and dtype ", dtype_name(counts), ", expected ", groups,
         " groups of bins, contiguous int64.");
  if (bins < DETENT_FEWEST_BINS || bins > DETENT_MOST_BINS || (bins & (bins - 1)) != 0)
    fail(op, name, " has ", bins, " bins, expected a power of two from ", static_cast<int>(DETENT_FEWEST_BINS), " to ",
         static_cast<int>(DETENT_MOST_BINS), ".");
  return static_cast<size_t>(bins);
}

inline int64_t *integers(Tensor &t) { return static_cast<int64_t *>(t.mutable_data_ptr()); }
inline const int64_t *integers(const Tensor &t) { return static_cast<const int64_t *>(t.const_data_ptr()); }

template <typename Device>
void observe_histogram_update(const Tensor &x, Tensor min, Tensor max, Tensor ignored, Tensor counts,
                              std::optional<int64_t> axis, OptionalInts block_size) {
  const char *op = "observe_histogram_update_";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const Grouped grouped(op, x, axis, block_size);
  check_statistic(op, "min", min, grouped, statistics_dtype(dtype));
  check_statistic(op, "max", max, grouped, statistics_dtype(dtype));
  check_statistic(op, "ignored", ignored, grouped, aoti_torch_dtype_int64());
  const size_t bins = check_counts(op, "counts", counts, min);
  typename Device::Scope scope(grouped.values());
  size_t bytes = 0;
  throw_unless_ok(op, Device::observe_histogram_workspace(grouped.shape, &bytes));
  typename Device::Workspace workspace(grouped.values(), bytes);
  throw_unless_ok(op, Device::observe_histogram(grouped.data(), min.mutable_data_ptr(), max.mutable_data_ptr(),
                                                integers(ignored), integers(counts), dtype, grouped.shape, bins,
                                                workspace.data(), workspace.bytes(), scope.queue));
}

template <typename Device>
void observe_histogram_merge(Tensor min, Tensor max, Tensor ignored, Tensor counts, const Tensor &other_min,
                             const Tensor &other_max, const Tensor &other_ignored, const Tensor &other_counts) {
  const char *op = "observe_histogram_merge_";
  const size_t bins = check_counts(op, "counts", counts, min);
  check_real(op, "min", min);
  const Tensor *mine[] = {&max, &ignored, &other_min, &other_max, &other_ignored};
  const char *names[] = {"max", "ignored", "other_min", "other_max", "other_ignored"};
  for (size_t i = 0; i < 5; ++i) {
    const bool integer = i == 1 || i == 4;
    check_device(op, names[i], *mine[i], min);
    const int32_t dtype = integer ? aoti_torch_dtype_int64() : torch_dtype_of(min);
    if (torch_dtype_of(*mine[i]) != dtype || !mine[i]->is_contiguous() || mine[i]->numel() != min.numel())
      fail(op, names[i], " has shape ", shape_text(*mine[i]), " and dtype ", dtype_name(*mine[i]), ", expected ",
           min.numel(), " contiguous elements of ", row_of_torch(dtype)->name, ".");
  }
  if (check_counts(op, "other_counts", other_counts, other_min) != bins)
    fail(op, "other_counts has shape ", shape_text(other_counts), ", expected ", shape_text(counts),
         ".\n  Merge histograms with the same number of bins.");
  typename Device::Scope scope(min);
  throw_unless_ok(op, Device::observe_histogram_merge(other_min.const_data_ptr(), other_max.const_data_ptr(),
                                                      integers(other_ignored), integers(other_counts),
                                                      min.mutable_data_ptr(), max.mutable_data_ptr(), integers(ignored),
                                                      integers(counts), row_of_torch(torch_dtype_of(min))->detent,
                                                      static_cast<size_t>(min.numel()), bins, scope.queue));
}

template <typename Device, typename Library>
void register_observe(Library &m) {
  m.impl("observe_min_max", TORCH_BOX(&observe_min_max<Device>));
  m.impl("observe_min_max_update_", TORCH_BOX(&observe_min_max_update<Device>));
  m.impl("observe_moments_update_", TORCH_BOX(&observe_moments_update<Device>));
  m.impl("observe_histogram_update_", TORCH_BOX(&observe_histogram_update<Device>));
  m.impl("observe_histogram_merge_", TORCH_BOX(&observe_histogram_merge<Device>));
}

}  // namespace detent_shim
