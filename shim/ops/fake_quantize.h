// The operators of the fake_quantize family, for any device policy: check, allocate, call, translate.
#pragma once

#include "device.h"

namespace detent_shim {

// The grid side of a range parametrization: the fixed zero_point of a symmetric grid, or the option contradicted.
inline detent_encoding range_encoding(const char *op, detent_grid grid, bool symmetric,
                                      const std::optional<int64_t> &zero_point) {
  if (zero_point.has_value() && !symmetric)
    fail(op, "zero_point=", *zero_point,
         " was given with symmetric=False, expected None.\n  The zero point of an asymmetric "
         "range follows from min and max; pass symmetric=True to fix it.");
  const int64_t centre = zero_point.value_or(detent_grid_centre(grid));
  if (centre < grid.qmin || centre > grid.qmax)
    fail(op, "zero_point is ", centre, ", expected a point of the grid ", grid.qmin, " .. ", grid.qmax, ".");
  detent_encoding encoding{};
  encoding.grid = grid;
  encoding.symmetric = symmetric;
  encoding.centre = centre;
  return encoding;
}

// What x is held to before it is quantized: nothing where neither bound is given.
using Bound = std::optional<double>;

inline std::optional<detent_activation> checked_activation(const char *op, const Bound &min, const Bound &max) {
  if (!min.has_value() && !max.has_value()) return std::nullopt;
  constexpr double infinity = std::numeric_limits<double>::infinity();
  const detent_activation activation{min.value_or(-infinity), max.value_or(infinity)};
  if (!(activation.min < activation.max))
    fail(op, "activation_min is ", activation.min, " and activation_max ", activation.max,
         ", expected the first below the second.\n  A ReLU is activation_min=0 alone, a ReLU6 0 and 6.");
  return activation;
}

inline const detent_activation *pointer_to(const std::optional<detent_activation> &activation) {
  return activation.has_value() ? &*activation : nullptr;
}

// An encoding together with the tensors that hold its arrays.
struct HeldEncoding {
  detent_encoding c{};
  detent_dtype real = DETENT_F32;
  std::optional<Tensor> first, second;  // scale, zero_point or min, max
};

inline HeldEncoding hold_affine(const char *op, detent_dtype dtype, const Grouped &x, const Tensor &scale,
                                const std::optional<Tensor> &zero_point, int64_t qmin, int64_t qmax,
                                bool trained = false) {
  HeldEncoding held;
  held.c.grid = checked_grid(op, qmin, qmax);
  held.c.trained = trained;
  held.real = detent_math_dtype(dtype, held.c.grid);
  held.first = encoding_values(op, "scale", scale, x, held.real);
  held.c.scale = array_of(*held.first);
  if (zero_point.has_value()) {
    held.second = encoding_values(op, "zero_point", *zero_point, x, held.real);
    held.c.zero_point = array_of(*held.second);
  }
  return held;
}

inline HeldEncoding hold_range(const char *op, detent_dtype dtype, const Grouped &x, const Tensor &min,
                               const Tensor &max, int64_t qmin, int64_t qmax, bool symmetric,
                               const std::optional<int64_t> &zero_point) {
  HeldEncoding held;
  held.c = range_encoding(op, checked_grid(op, qmin, qmax), symmetric, zero_point);
  held.real = detent_math_dtype(dtype, held.c.grid);
  held.first = encoding_values(op, "min", min, x, held.real);
  held.second = encoding_values(op, "max", max, x, held.real);
  held.c.min = array_of(*held.first);
  held.c.max = array_of(*held.second);
  return held;
}

inline Tensor empty_mask(const Grouped &x) {
  return empty_1d(x.values(), (x.values().numel() + 7) / 8, torch_of(DETENT_U8));
}

// residual, if there is one, is added to x; sum and mask receive what they say where they are not NULL.
template <typename Device>
Tensor run_forward(const char *op, const Grouped &x, detent_dtype dtype, const HeldEncoding &held,
                   const std::optional<detent_activation> &activation, const std::optional<Tensor> &residual,
                   Tensor *sum, Tensor *mask) {
  typename Device::Scope scope(x.values());
  Tensor y = x.empty();
  uint8_t *bits = mask != nullptr ? static_cast<uint8_t *>(mask->mutable_data_ptr()) : nullptr;
  if (residual.has_value()) {
    const Tensor added = x.arranged(op, "residual", *residual);
    throw_unless_ok(op, Device::fake_quantize_sum(
                            x.data(), added.const_data_ptr(), sum != nullptr ? sum->mutable_data_ptr() : nullptr,
                            y.mutable_data_ptr(), bits, dtype, x.shape, &held.c, pointer_to(activation), scope.queue));
  } else {
    throw_unless_ok(op, Device::fake_quantize(x.data(), y.mutable_data_ptr(), bits, dtype, x.shape, &held.c,
                                              pointer_to(activation), scope.queue));
  }
  return x.restore(y);
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor> run_backward(const char *op, const Tensor &grad_y, const Grouped &x,
                                                detent_dtype dtype, const HeldEncoding &held,
                                                const std::optional<detent_activation> &activation, const Tensor &first,
                                                const Tensor *second, double gradient_scale) {
  typename Device::Scope scope(x.values());
  const Tensor grad = x.arranged(op, "grad_y", grad_y);
  const int32_t real = torch_of(held.real);
  Tensor grad_x = x.empty();
  Tensor grad_first = empty_as(*held.first);
  Tensor grad_second = second != nullptr ? empty_as(*held.second) : empty_1d(x.values(), 0, real);
  size_t bytes = 0;
  throw_unless_ok(op, Device::fake_quantize_bwd_workspace(x.shape, &bytes));
  typename Device::Workspace workspace(x.values(), bytes);
  throw_unless_ok(op, Device::fake_quantize_bwd(
                          grad.const_data_ptr(), x.data(), grad_x.mutable_data_ptr(), grad_first.mutable_data_ptr(),
                          second != nullptr ? grad_second.mutable_data_ptr() : nullptr, dtype, x.shape, &held.c,
                          pointer_to(activation), gradient_scale, workspace.data(), workspace.bytes(), scope.queue));
  return {x.restore(grad_x), converted(grad_first, torch_dtype_of(first)),
          second != nullptr ? converted(grad_second, torch_dtype_of(*second)) : grad_second};
}

// --- scale, zero_point
// ------------------------------------------------------------------------------------------------

template <typename Device>
Tensor fake_quantize(const Tensor &x, const Tensor &scale, const std::optional<Tensor> &zero_point, int64_t qmin,
                     int64_t qmax, std::optional<int64_t> axis, OptionalInts block_size, double, Bound activation_min,
                     Bound activation_max, bool trained, std::optional<Tensor> residual) {
  const char *op = "fake_quantize";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const Grouped grouped(op, x, axis, block_size);
  return run_forward<Device>(op, grouped, dtype,
                             hold_affine(op, dtype, grouped, scale, zero_point, qmin, qmax, trained),
                             checked_activation(op, activation_min, activation_max), residual, nullptr, nullptr);
}

template <typename Device>
std::tuple<Tensor, Tensor> fake_quantize_mask(const Tensor &x, const Tensor &scale,
                                              const std::optional<Tensor> &zero_point, int64_t qmin, int64_t qmax,
                                              std::optional<int64_t> axis, OptionalInts block_size,
                                              Bound activation_min, Bound activation_max, bool trained,
                                              std::optional<Tensor> residual) {
  const char *op = "fake_quantize";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const Grouped grouped(op, x, axis, block_size);
  Tensor mask = empty_mask(grouped);
  Tensor y =
      run_forward<Device>(op, grouped, dtype, hold_affine(op, dtype, grouped, scale, zero_point, qmin, qmax, trained),
                          checked_activation(op, activation_min, activation_max), residual, nullptr, &mask);
  return {y, mask};
}

// Beside y what backward takes for x.
template <typename Device>
std::tuple<Tensor, Tensor> fake_quantize_sum(const Tensor &x, const Tensor &residual, const Tensor &scale,
                                             const std::optional<Tensor> &zero_point, int64_t qmin, int64_t qmax,
                                             std::optional<int64_t> axis, OptionalInts block_size, Bound activation_min,
                                             Bound activation_max, bool trained) {
  const char *op = "fake_quantize";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const Grouped grouped(op, x, axis, block_size);
  Tensor sum = grouped.empty();
  Tensor y =
      run_forward<Device>(op, grouped, dtype, hold_affine(op, dtype, grouped, scale, zero_point, qmin, qmax, trained),
                          checked_activation(op, activation_min, activation_max), residual, &sum, nullptr);
  return {y, grouped.restore(sum)};
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor> fake_quantize_backward(const Tensor &grad_y, const Tensor &x, const Tensor &scale,
                                                          const std::optional<Tensor> &zero_point, int64_t qmin,
                                                          int64_t qmax, std::optional<int64_t> axis,
                                                          OptionalInts block_size, double grad_scale,
                                                          Bound activation_min, Bound activation_max, bool trained) {
  const char *op = "fake_quantize_backward";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const Grouped grouped(op, x, axis, block_size);
  return run_backward<Device>(op, grad_y, grouped, dtype,
                              hold_affine(op, dtype, grouped, scale, zero_point, qmin, qmax, trained),
                              checked_activation(op, activation_min, activation_max), scale,
                              zero_point.has_value() ? &*zero_point : nullptr, grad_scale);
}

// --- min, max
// ---------------------------------------------------------------------------------------------------------

template <typename Device>
Tensor fake_quantize_range(const Tensor &x, const Tensor &min, const Tensor &max, int64_t qmin, int64_t qmax,
                           bool symmetric, std::optional<int64_t> zero_point, std::optional<int64_t> axis,
                           OptionalInts block_size, Bound activation_min, Bound activation_max,
                           std::optional<Tensor> residual) {
  const char *op = "fake_quantize_range";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const Grouped grouped(op, x, axis, block_size);
  return run_forward<Device>(op, grouped, dtype,
                             hold_range(op, dtype, grouped, min, max, qmin, qmax, symmetric, zero_point),
                             checked_activation(op, activation_min, activation_max), residual, nullptr, nullptr);
}

template <typename Device>
std::tuple<Tensor, Tensor> fake_quantize_range_mask(const Tensor &x, const Tensor &min, const Tensor &max, int64_t qmin,
                                                    int64_t qmax, bool symmetric, std::optional<int64_t> zero_point,
                                                    std::optional<int64_t> axis, OptionalInts block_size,
                                                    Bound activation_min, Bound activation_max,
                                                    std::optional<Tensor> residual) {
  const char *op = "fake_quantize_range";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const Grouped grouped(op, x, axis, block_size);
  Tensor mask = empty_mask(grouped);
  Tensor y = run_forward<Device>(op, grouped, dtype,
                                 hold_range(op, dtype, grouped, min, max, qmin, qmax, symmetric, zero_point),
                                 checked_activation(op, activation_min, activation_max), residual, nullptr, &mask);
  return {y, mask};
}

template <typename Device>
std::tuple<Tensor, Tensor> fake_quantize_range_sum(const Tensor &x, const Tensor &residual, const Tensor &min,
                                                   const Tensor &max, int64_t qmin, int64_t qmax, bool symmetric,
                                                   std::optional<int64_t> zero_point, std::optional<int64_t> axis,
                                                   OptionalInts block_size, Bound activation_min,
                                                   Bound activation_max) {
  const char *op = "fake_quantize_range";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const Grouped grouped(op, x, axis, block_size);
  Tensor sum = grouped.empty();
  Tensor y = run_forward<Device>(op, grouped, dtype,
                                 hold_range(op, dtype, grouped, min, max, qmin, qmax, symmetric, zero_point),
                                 checked_activation(op, activation_min, activation_max), residual, &sum, nullptr);
  return {y, grouped.restore(sum)};
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor> fake_quantize_range_backward(const Tensor &grad_y, const Tensor &x,
                                                                const Tensor &min, const Tensor &max, int64_t qmin,
                                                                int64_t qmax, bool symmetric,
                                                                std::optional<int64_t> zero_point,
                                                                std::optional<int64_t> axis, OptionalInts block_size,
                                                                Bound activation_min, Bound activation_max) {
  const char *op = "fake_quantize_range_backward";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const Grouped grouped(op, x, axis, block_size);
  return run_backward<Device>(op, grad_y, grouped, dtype,
                              hold_range(op, dtype, grouped, min, max, qmin, qmax, symmetric, zero_point),
                              checked_activation(op, activation_min, activation_max), min, &max, 1.0);
}

// --- a range derived from the tensor
// ----------------------------------------------------------------------------------

inline Tensor clip_values(const char *op, const Tensor &clip, const Grouped &x, detent_dtype real) {
  check_real(op, "clip", clip);
  check_device(op, "clip", clip, x.like());
  return clip.numel() == 1 ? converted(clip, torch_of(real)) : encoding_values(op, "clip", clip, x, real);
}

// One value per group, in the shape of an encoding.
inline Tensor empty_groups(const Grouped &x, detent_dtype real) {
  const Ints groups = x.encoding_sizes.empty() ? Ints{1} : x.encoding_sizes;
  Ints strides(groups.size(), 1);
  for (size_t i = groups.size() - 1; i-- > 0;) strides[i] = strides[i + 1] * (groups[i + 1] > 0 ? groups[i + 1] : 1);
  return empty_strided(x.values(), groups.data(), strides.data(), groups.size(), torch_of(real));
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor> run_dynamic(const Tensor &x, const std::optional<Tensor> &clip, int64_t qmin,
                                               int64_t qmax, bool symmetric, const std::optional<int64_t> &axis,
                                               const OptionalInts &block_size, const std::optional<int64_t> &zero_point,
                                               std::optional<Tensor> *mask) {
  const char *op = "fake_quantize_dynamic";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const Grouped grouped(op, x, axis, block_size);
  const detent_encoding encoding = range_encoding(op, checked_grid(op, qmin, qmax), symmetric, zero_point);
  const detent_dtype real = detent_math_dtype(dtype, encoding.grid);
  std::optional<Tensor> factor;
  if (clip.has_value()) factor = clip_values(op, *clip, grouped, real);

  typename Device::Scope scope(grouped.values());
  Tensor y = grouped.empty();
  Tensor min = empty_groups(grouped, real);
  Tensor max = empty_as(min);
  if (mask != nullptr) *mask = empty_mask(grouped);
  size_t bytes = 0;
  throw_unless_ok(op, Device::fake_quantize_dynamic_workspace(grouped.shape, &bytes));
  typename Device::Workspace workspace(grouped.values(), bytes);
  throw_unless_ok(
      op, Device::fake_quantize_dynamic(grouped.data(), y.mutable_data_ptr(),
                                        mask != nullptr ? static_cast<uint8_t *>((*mask)->mutable_data_ptr()) : nullptr,
                                        min.mutable_data_ptr(), max.mutable_data_ptr(), dtype, grouped.shape,
                                        factor.has_value() ? factor->const_data_ptr() : nullptr,
                                        factor.has_value() ? static_cast<size_t>(factor->numel()) : 0, &encoding,
                                        workspace.data(), workspace.bytes(), scope.queue));
  return {grouped.restore(y), min, max};
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor> fake_quantize_dynamic(const Tensor &x, const std::optional<Tensor> &clip,
                                                         int64_t qmin, int64_t qmax, bool symmetric,
                                                         std::optional<int64_t> axis, OptionalInts block_size,
                                                         std::optional<int64_t> zero_point) {
  return run_dynamic<Device>(x, clip, qmin, qmax, symmetric, axis, block_size, zero_point, nullptr);
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor, Tensor> fake_quantize_dynamic_mask(
    const Tensor &x, const std::optional<Tensor> &clip, int64_t qmin, int64_t qmax, bool symmetric,
    std::optional<int64_t> axis, OptionalInts block_size, std::optional<int64_t> zero_point) {
  std::optional<Tensor> mask;
  auto [y, min, max] = run_dynamic<Device>(x, clip, qmin, qmax, symmetric, axis, block_size, zero_point, &mask);
  return {y, min, max, *mask};
}

// --- the backward of a fixed or dynamic range
// -------------------------------------------------------------------------

inline void check_order(const char *op, const Ints &order, int64_t dims) {
  std::vector<bool> seen(static_cast<size_t>(dims), false);
  bool permutes = static_cast<int64_t>(order.size()) == dims;
  for (size_t i = 0; permutes && i < order.size(); ++i) {
    permutes = order[i] >= 0 && order[i] < dims && !seen[order[i]];
    if (permutes) seen[order[i]] = true;
  }
  if (!permutes)
    fail(op, "order is ", shape_text(order), ", expected each of the ", dims, " dimensions of grad_y once.");
}

// Dense memory whose dimensions lie in `order`, slowest first.
inline Tensor empty_in_order(const Tensor &like, const Ints &order) {
  const auto sizes = like.sizes();
  Ints strides(sizes.size(), 1);
  int64_t stride = 1;
  for (size_t i = order.size(); i-- > 0;) {
    strides[order[i]] = stride;
    stride *= sizes[order[i]] > 0 ? sizes[order[i]] : 1;
  }
  return empty_strided(like, sizes.data(), strides.data(), sizes.size(), torch_dtype_of(like));
}

inline void check_mask(const char *op, const Tensor &mask, const Tensor &grad_y) {
  if (mask.numel() != (grad_y.numel() + 7) / 8 || torch_dtype_of(mask) != torch_of(DETENT_U8))
    fail(op, "mask has ", mask.numel(), " elements of ", dtype_name(mask), ", expected ", (grad_y.numel() + 7) / 8,
         " of uint8, one bit per element of grad_y of shape ", shape_text(grad_y), ".");
  check_device(op, "mask", mask, grad_y);
}

// grad_y in dense memory whose dimensions lie in `order`, slowest first; nothing means contiguous.
inline Tensor in_order(const char *op, const Tensor &grad_y, const OptionalInts &order) {
  if (order.has_value()) check_order(op, *order, grad_y.dim());
  Ints contiguous;
  for (int64_t i = 0; !order.has_value() && i < grad_y.dim(); ++i) contiguous.push_back(i);
  Tensor in_memory = empty_in_order(grad_y, order.has_value() ? *order : contiguous);
  if (same_strides(grad_y, in_memory)) return grad_y;
  torch::stable::copy_(in_memory, grad_y);
  return in_memory;
}

// order: the dimensions of y from the slowest to the fastest in memory, None for contiguous. The mask lies in that
// order, or, with block_size, in the order of the blocks.
template <typename Device>
Tensor fake_quantize_mask_backward(const Tensor &grad_y, const Tensor &mask, OptionalInts order,
                                   OptionalInts block_size) {
  const char *op = "fake_quantize_mask_backward";
  const detent_dtype dtype = float_dtype(op, "grad_y", grad_y);
  check_mask(op, mask, grad_y);
  const Grouped grouped(op, in_order(op, grad_y, order), std::nullopt, block_size);
  typename Device::Scope scope(grouped.values());
  const Tensor bits = torch::stable::contiguous(mask);
  Tensor grad_x = grouped.empty();
  throw_unless_ok(op, Device::fake_quantize_mask_bwd(
                          grouped.data(), static_cast<const uint8_t *>(bits.const_data_ptr()),
                          grad_x.mutable_data_ptr(), dtype, static_cast<size_t>(grad_y.numel()), scope.queue));
  return grouped.restore(grad_x);
}

template <typename Device, typename Library>
void register_fake_quantize(Library &m) {
  m.impl("fake_quantize", TORCH_BOX(&fake_quantize<Device>));
  m.impl("fake_quantize_mask", TORCH_BOX(&fake_quantize_mask<Device>));
  m.impl("fake_quantize_sum", TORCH_BOX(&fake_quantize_sum<Device>));
  m.impl("fake_quantize_backward", TORCH_BOX(&fake_quantize_backward<Device>));
  m.impl("fake_quantize_range", TORCH_BOX(&fake_quantize_range<Device>));
  m.impl("fake_quantize_range_mask", TORCH_BOX(&fake_quantize_range_mask<Device>));
  m.impl("fake_quantize_range_sum", TORCH_BOX(&fake_quantize_range_sum<Device>));
  m.impl("fake_quantize_range_backward", TORCH_BOX(&fake_quantize_range_backward<Device>));
  m.impl("fake_quantize_dynamic", TORCH_BOX(&fake_quantize_dynamic<Device>));
  m.impl("fake_quantize_dynamic_mask", TORCH_BOX(&fake_quantize_dynamic_mask<Device>));
  m.impl("fake_quantize_mask_backward", TORCH_BOX(&fake_quantize_mask_backward<Device>));
}

}  // namespace detent_shim
