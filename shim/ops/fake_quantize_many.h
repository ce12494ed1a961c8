// The operators of fake_quantize over lists of tensors, for any device policy. What they take for one tensor they take
// as a list; grid and symmetry are those of all of them.
#pragma once

#include "fake_quantize.h"

namespace detent_shim {

using Tensors = std::vector<Tensor>;

// The name of an operator at one item, for messages.
inline std::string at_item(const char *op, size_t item) { return std::string(op) + "[" + std::to_string(item) + "]"; }

inline void check_count(const char *op, const char *name, size_t got, size_t expected, const char *of) {
  if (got != expected) fail(op, name, " has ", got, " entries, expected ", expected, ", ", of, ".");
}

// A list of one entry per dimension of each tensor, taken apart: the entries of tensor after tensor.
class PerDimension {
 public:
  PerDimension(const char *op, const char *name, const Tensors &tensors, const OptionalInts &flat) : flat_(flat) {
    if (!flat.has_value()) return;
    size_t dims = 0;
    for (const Tensor &t : tensors) dims += static_cast<size_t>(t.dim());
    check_count(op, name, flat->size(), dims, "one per dimension of each tensor, tensor after tensor");
  }

  OptionalInts next(int64_t dims) {
    if (!flat_.has_value()) return std::nullopt;
    const auto begin = flat_->begin() + static_cast<std::ptrdiff_t>(taken_);
    taken_ += static_cast<size_t>(dims);
    return Ints(begin, begin + dims);
  }

 private:
  const OptionalInts &flat_;
  size_t taken_ = 0;
};

// The tensors of a call as the kernels see them: one type, one device.
struct ManyGrouped {
  ManyGrouped(const char *op, const Tensors &x, const OptionalInts &axis, const OptionalInts &block_size) {
    if (x.empty()) fail(op, "x is an empty list, expected at least one tensor.");
    if (axis.has_value()) check_count(op, "axis", axis->size(), x.size(), "one per tensor");
    PerDimension blocks(op, "block_size", x, block_size);
    dtype = float_dtype(op, "x[0]", x[0]);
    items.reserve(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const std::string at = at_item(op, i);
      if (float_dtype(at.c_str(), "x", x[i]) != dtype)
        fail(at.c_str(), "x has dtype ", dtype_name(x[i]), ", expected ", dtype_name(x[0]),
             ", that of the first.\n  Call the operator once per dtype.");
      check_device(at.c_str(), "x", x[i], x[0]);
      items.emplace_back(at.c_str(), x[i], axis.has_value() ? std::optional((*axis)[i]) : std::nullopt,
                         blocks.next(x[i].dim()));
    }
  }

  size_t size() const { return items.size(); }
  const Grouped &operator[](size_t i) const { return items[i]; }

  // Results that lie in memory like the items, as tensors like x.
  Tensors restored(const Tensors &results) const {
    Tensors out;
    for (size_t i = 0; i < items.size(); ++i) out.push_back(items[i].restore(results[i]));
    return out;
  }

  detent_dtype dtype = DETENT_F32;
  std::vector<Grouped> items;
};

inline std::vector<HeldEncoding> hold_affines(const char *op, const ManyGrouped &x, const Tensors &scale,
                                              const Tensors &zero_point, int64_t qmin, int64_t qmax, bool trained) {
  check_count(op, "scale", scale.size(), x.size(), "one per tensor");
  if (!zero_point.empty()) check_count(op, "zero_point", zero_point.size(), x.size(), "one per tensor, or none at all");
  std::vector<HeldEncoding> held;
  for (size_t i = 0; i < x.size(); ++i)
    held.push_back(hold_affine(at_item(op, i).c_str(), x.dtype, x[i], scale[i],
                               zero_point.empty() ? std::nullopt : std::optional(zero_point[i]), qmin, qmax, trained));
  return held;
}

inline std::vector<HeldEncoding> hold_ranges(const char *op, const ManyGrouped &x, const Tensors &min,
                                             const Tensors &max, int64_t qmin, int64_t qmax, bool symmetric,
                                             const std::optional<int64_t> &zero_point) {
  check_count(op, "min", min.size(), x.size(), "one per tensor");
  check_count(op, "max", max.size(), x.size(), "one per tensor");
  std::vector<HeldEncoding> held;
  for (size_t i = 0; i < x.size(); ++i)
    held.push_back(
        hold_range(at_item(op, i).c_str(), x.dtype, x[i], min[i], max[i], qmin, qmax, symmetric, zero_point));
  return held;
}

inline uint8_t *bytes_of(Tensor &mask) { return static_cast<uint8_t *>(mask.mutable_data_ptr()); }

template <typename Device>
std::tuple<Tensors, Tensors> run_many_forward(const char *op, const ManyGrouped &x,
                                              const std::vector<HeldEncoding> &held, bool masked) {
  typename Device::Scope scope(x[0].values());
  Tensors y, mask;
  std::vector<detent_fake_quantize_item> items;
  for (size_t i = 0; i < x.size(); ++i) {
    y.push_back(x[i].empty());
    if (masked) mask.push_back(empty_mask(x[i]));
    items.push_back(
        {x[i].data(), y[i].mutable_data_ptr(), masked ? bytes_of(mask[i]) : nullptr, x[i].shape, held[i].c});
  }
  throw_unless_ok(op, Device::fake_quantize_many(items.data(), items.size(), x.dtype, scope.queue));
  return {x.restored(y), mask};
}

template <typename Device>
std::tuple<Tensors, Tensors, Tensors> run_many_backward(const char *op, const Tensors &grad_y, const ManyGrouped &x,
                                                        const std::vector<HeldEncoding> &held, const Tensors &first,
                                                        const Tensors &second,
                                                        const std::optional<std::vector<double>> &grad_scale) {
  check_count(op, "grad_y", grad_y.size(), x.size(), "one per tensor");
  if (grad_scale.has_value()) check_count(op, "grad_scale", grad_scale->size(), x.size(), "one per tensor");
  typename Device::Scope scope(x[0].values());
  Tensors grad, grad_x, grad_first, grad_second;
  std::vector<detent_fake_quantize_bwd_item> items;
  for (size_t i = 0; i < x.size(); ++i) {
    grad.push_back(x[i].arranged(at_item(op, i).c_str(), "grad_y", grad_y[i]));
    grad_x.push_back(x[i].empty());
    grad_first.push_back(empty_as(*held[i].first));
    if (!second.empty()) grad_second.push_back(empty_as(*held[i].second));
    items.push_back({grad[i].const_data_ptr(), x[i].data(), grad_x[i].mutable_data_ptr(),
                     grad_first[i].mutable_data_ptr(), second.empty() ? nullptr : grad_second[i].mutable_data_ptr(),
                     grad_scale.has_value() ? (*grad_scale)[i] : 1.0, x[i].shape, held[i].c});
  }
  size_t bytes = 0;
  throw_unless_ok(op, Device::fake_quantize_many_bwd_workspace(items.data(), items.size(), &bytes));
  typename Device::Workspace workspace(x[0].values(), bytes);
  throw_unless_ok(op, Device::fake_quantize_many_bwd(items.data(), items.size(), x.dtype, workspace.data(),
                                                     workspace.bytes(), scope.queue));
  for (size_t i = 0; i < x.size(); ++i) {
    grad_first[i] = converted(grad_first[i], torch_dtype_of(first[i]));
    if (!second.empty()) grad_second[i] = converted(grad_second[i], torch_dtype_of(second[i]));
  }
  return {x.restored(grad_x), grad_first, grad_second};
}

// --- scale, zero_point
// ------------------------------------------------------------------------------------------------

template <typename Device, bool masked>
std::tuple<Tensors, Tensors> fake_quantize_many_of(const Tensors &x, const Tensors &scale, const Tensors &zero_point,
                                                   int64_t qmin, int64_t qmax, const OptionalInts &axis,
                                                   const OptionalInts &block_size, bool trained) {
  const char *op = "fake_quantize_many";
  const ManyGrouped grouped(op, x, axis, block_size);
  return run_many_forward<Device>(op, grouped, hold_affines(op, grouped, scale, zero_point, qmin, qmax, trained),
                                  masked);
}

template <typename Device>
Tensors fake_quantize_many(Tensors x, Tensors scale, Tensors zero_point, int64_t qmin, int64_t qmax, OptionalInts axis,
                           OptionalInts block_size, std::optional<std::vector<double>>, bool trained) {
  return std::get<0>(fake_quantize_many_of<Device, false>(x, scale, zero_point, qmin, qmax, axis, block_size, trained));
}

template <typename Device>
std::tuple<Tensors, Tensors> fake_quantize_many_mask(Tensors x, Tensors scale, Tensors zero_point, int64_t qmin,
                                                     int64_t qmax, OptionalInts axis, OptionalInts block_size,
                                                     bool trained) {
  return fake_quantize_many_of<Device, true>(x, scale, zero_point, qmin, qmax, axis, block_size, trained);
}

template <typename Device>
std::tuple<Tensors, Tensors, Tensors> fake_quantize_many_backward(Tensors grad_y, Tensors x, Tensors scale,
                                                                  Tensors zero_point, int64_t qmin, int64_t qmax,
                                                                  OptionalInts axis, OptionalInts block_size,
                                                                  std::optional<std::vector<double>> grad_scale,
                                                                  bool trained) {
  const char *op = "fake_quantize_many_backward";
  const ManyGrouped grouped(op, x, axis, block_size);
  return run_many_backward<Device>(op, grad_y, grouped,
                                   hold_affines(op, grouped, scale, zero_point, qmin, qmax, trained), scale, zero_point,
                                   grad_scale);
}

// --- min, max
// ---------------------------------------------------------------------------------------------------------

template <typename Device, bool masked>
std::tuple<Tensors, Tensors> fake_quantize_range_many_of(const Tensors &x, const Tensors &min, const Tensors &max,
                                                         int64_t qmin, int64_t qmax, bool symmetric,
                                                         const std::optional<int64_t> &zero_point,
                                                         const OptionalInts &axis, const OptionalInts &block_size) {
  const char *op = "fake_quantize_range_many";
  const ManyGrouped grouped(op, x, axis, block_size);
  return run_many_forward<Device>(op, grouped, hold_ranges(op, grouped, min, max, qmin, qmax, symmetric, zero_point),
                                  masked);
}

template <typename Device>
Tensors fake_quantize_range_many(Tensors x, Tensors min, Tensors max, int64_t qmin, int64_t qmax, bool symmetric,
                                 std::optional<int64_t> zero_point, OptionalInts axis, OptionalInts block_size) {
  return std::get<0>(
      fake_quantize_range_many_of<Device, false>(x, min, max, qmin, qmax, symmetric, zero_point, axis, block_size));
}

template <typename Device>
std::tuple<Tensors, Tensors> fake_quantize_range_many_mask(Tensors x, Tensors min, Tensors max, int64_t qmin,
                                                           int64_t qmax, bool symmetric,
                                                           std::optional<int64_t> zero_point, OptionalInts axis,
                                                           OptionalInts block_size) {
  return fake_quantize_range_many_of<Device, true>(x, min, max, qmin, qmax, symmetric, zero_point, axis, block_size);
}

template <typename Device>
std::tuple<Tensors, Tensors, Tensors> fake_quantize_range_many_backward(Tensors grad_y, Tensors x, Tensors min,
                                                                        Tensors max, int64_t qmin, int64_t qmax,
                                                                        bool symmetric,
                                                                        std::optional<int64_t> zero_point,
                                                                        OptionalInts axis, OptionalInts block_size) {
  const char *op = "fake_quantize_range_many_backward";
  const ManyGrouped grouped(op, x, axis, block_size);
  return run_many_backward<Device>(op, grad_y, grouped,
                                   hold_ranges(op, grouped, min, max, qmin, qmax, symmetric, zero_point), min, max,
                                   std::nullopt);
}

// --- ranges derived from the tensors
// ----------------------------------------------------------------------------------

template <typename Device>
std::tuple<Tensors, Tensors, Tensors, Tensors> run_many_dynamic(const Tensors &x, const Tensors &clip, int64_t qmin,
                                                                int64_t qmax, bool symmetric, const OptionalInts &axis,
                                                                const OptionalInts &block_size,
                                                                const std::optional<int64_t> &zero_point, bool masked) {
  const char *op = "fake_quantize_dynamic_many";
  const ManyGrouped grouped(op, x, axis, block_size);
  if (!clip.empty()) check_count(op, "clip", clip.size(), x.size(), "one per tensor, or none at all");
  const detent_encoding encoding = range_encoding(op, checked_grid(op, qmin, qmax), symmetric, zero_point);
  const detent_dtype real = detent_math_dtype(grouped.dtype, encoding.grid);
  Tensors factor;
  for (size_t i = 0; i < clip.size(); ++i)
    factor.push_back(clip_values(at_item(op, i).c_str(), clip[i], grouped[i], real));

  typename Device::Scope scope(grouped[0].values());
  Tensors y, min, max, mask;
  std::vector<detent_fake_quantize_dynamic_item> items;
  for (size_t i = 0; i < x.size(); ++i) {
    y.push_back(grouped[i].empty());
    min.push_back(empty_groups(grouped[i], real));
    max.push_back(empty_as(min[i]));
    if (masked) mask.push_back(empty_mask(grouped[i]));
    items.push_back({grouped[i].data(), y[i].mutable_data_ptr(), masked ? bytes_of(mask[i]) : nullptr,
                     min[i].mutable_data_ptr(), max[i].mutable_data_ptr(),
                     clip.empty() ? nullptr : factor[i].const_data_ptr(),
                     clip.empty() ? 0 : static_cast<size_t>(factor[i].numel()), grouped[i].shape, encoding});
  }
  size_t bytes = 0;
  throw_unless_ok(op, Device::fake_quantize_dynamic_many_workspace(items.data(), items.size(), &bytes));
  typename Device::Workspace workspace(grouped[0].values(), bytes);
  throw_unless_ok(op, Device::fake_quantize_dynamic_many(items.data(), items.size(), grouped.dtype, workspace.data(),
                                                         workspace.bytes(), scope.queue));
  return {grouped.restored(y), min, max, mask};
}

template <typename Device>
std::tuple<Tensors, Tensors, Tensors> fake_quantize_dynamic_many(Tensors x, Tensors clip, int64_t qmin, int64_t qmax,
                                                                 bool symmetric, OptionalInts axis,
                                                                 OptionalInts block_size,
                                                                 std::optional<int64_t> zero_point) {
  auto [y, min, max, mask] =
      run_many_dynamic<Device>(x, clip, qmin, qmax, symmetric, axis, block_size, zero_point, false);
  return {y, min, max};
}

template <typename Device>
std::tuple<Tensors, Tensors, Tensors, Tensors> fake_quantize_dynamic_many_mask(Tensors x, Tensors clip, int64_t qmin,
                                                                               int64_t qmax, bool symmetric,
                                                                               OptionalInts axis,
                                                                               OptionalInts block_size,
                                                                               std::optional<int64_t> zero_point) {
  return run_many_dynamic<Device>(x, clip, qmin, qmax, symmetric, axis, block_size, zero_point, true);
}

// --- the backward of fixed or dynamic ranges
// --------------------------------------------------------------------------

// order, block_size: as for one tensor, tensor after tensor.
template <typename Device>
Tensors fake_quantize_mask_many_backward(Tensors grad_y, Tensors mask, OptionalInts order, OptionalInts block_size) {
  const char *op = "fake_quantize_mask_many_backward";
  if (grad_y.empty()) fail(op, "grad_y is an empty list, expected at least one tensor.");
  check_count(op, "mask", mask.size(), grad_y.size(), "one per tensor");
  PerDimension orders(op, "order", grad_y, order);
  Tensors arranged, bits;
  for (size_t i = 0; i < grad_y.size(); ++i) {
    const std::string at = at_item(op, i);
    const OptionalInts its = orders.next(grad_y[i].dim());
    check_mask(at.c_str(), mask[i], grad_y[i]);
    arranged.push_back(in_order(at.c_str(), grad_y[i], its));
    bits.push_back(torch::stable::contiguous(mask[i]));
  }
  const ManyGrouped grouped(op, arranged, std::nullopt, block_size);
  typename Device::Scope scope(grouped[0].values());
  Tensors grad_x;
  std::vector<detent_fake_quantize_mask_bwd_item> items;
  for (size_t i = 0; i < grad_y.size(); ++i) {
    grad_x.push_back(grouped[i].empty());
    items.push_back({grouped[i].data(), static_cast<const uint8_t *>(bits[i].const_data_ptr()),
                     grad_x[i].mutable_data_ptr(), static_cast<size_t>(grad_y[i].numel())});
  }
  throw_unless_ok(op, Device::fake_quantize_mask_many_bwd(items.data(), items.size(), grouped.dtype, scope.queue));
  return grouped.restored(grad_x);
}

template <typename Device, typename Library>
void register_fake_quantize_many(Library &m) {
  m.impl("fake_quantize_many", TORCH_BOX(&fake_quantize_many<Device>));
  m.impl("fake_quantize_many_mask", TORCH_BOX(&fake_quantize_many_mask<Device>));
  m.impl("fake_quantize_many_backward", TORCH_BOX(&fake_quantize_many_backward<Device>));
  m.impl("fake_quantize_range_many", TORCH_BOX(&fake_quantize_range_many<Device>));
  m.impl("fake_quantize_range_many_mask", TORCH_BOX(&fake_quantize_range_many_mask<Device>));
  m.impl("fake_quantize_range_many_backward", TORCH_BOX(&fake_quantize_range_many_backward<Device>));
  m.impl("fake_quantize_dynamic_many", TORCH_BOX(&fake_quantize_dynamic_many<Device>));
  m.impl("fake_quantize_dynamic_many_mask", TORCH_BOX(&fake_quantize_dynamic_many_mask<Device>));
  m.impl("fake_quantize_mask_many_backward", TORCH_BOX(&fake_quantize_mask_many_backward<Device>));
}

}  // namespace detent_shim
