// The operators of the block_cast family, for any device policy: check, allocate, call, translate.
#pragma once

#include "float_cast.h"

namespace detent_shim {

template <typename Device>
Tensor run_block_cast(const Tensor &x, int64_t mantissa_bits, int64_t min_exponent, double max, int64_t axis,
                      int64_t block_size, const std::optional<Tensor> &tensor_scale, std::optional<Tensor> *mask) {
  const char *op = "block_cast";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const detent_float_format format = checked_format(op, mantissa_bits, min_exponent, max);
  if (block_size < 1) fail(op, "block_size is ", block_size, ", expected 1 and more: elements that share a scale.");
  const Grouped grouped(op, x, axis, std::nullopt);
  std::optional<Tensor> scale;
  if (tensor_scale.has_value()) {
    check_real(op, "tensor_scale", *tensor_scale);
    check_device(op, "tensor_scale", *tensor_scale, x);
    if (tensor_scale->numel() != 1)
      fail(op, "tensor_scale has shape ", shape_text(*tensor_scale),
           ", expected () or (1,): one scale for the tensor.");
    scale = converted(*tensor_scale, torch_of(dtype == DETENT_F64 ? DETENT_F64 : DETENT_F32));
  }
  typename Device::Scope scope(grouped.values());
  if (mask != nullptr) *mask = empty_mask(grouped);
  Tensor y = grouped.empty();
  size_t bytes = 0;
  throw_unless_ok(op, Device::block_cast_workspace(dtype, grouped.shape, static_cast<size_t>(block_size), &bytes));
  typename Device::Workspace workspace(grouped.values(), bytes);
  throw_unless_ok(
      op, Device::block_cast(grouped.data(), y.mutable_data_ptr(),
                             mask != nullptr ? static_cast<uint8_t *>((*mask)->mutable_data_ptr()) : nullptr, dtype,
                             grouped.shape, static_cast<size_t>(block_size), format,
                             scale.has_value() ? scale->const_data_ptr() : nullptr, workspace.data(), workspace.bytes(),
                             scope.queue));
  return grouped.restore(y);
}

template <typename Device>
Tensor block_cast(const Tensor &x, int64_t mantissa_bits, int64_t min_exponent, double max, int64_t axis,
                  int64_t block_size, std::optional<Tensor> tensor_scale) {
  return run_block_cast<Device>(x, mantissa_bits, min_exponent, max, axis, block_size, tensor_scale, nullptr);
}

template <typename Device>
std::tuple<Tensor, Tensor> block_cast_mask(const Tensor &x, int64_t mantissa_bits, int64_t min_exponent, double max,
                                           int64_t axis, int64_t block_size, std::optional<Tensor> tensor_scale) {
  std::optional<Tensor> mask;
  Tensor y = run_block_cast<Device>(x, mantissa_bits, min_exponent, max, axis, block_size, tensor_scale, &mask);
  return {y, *mask};
}

template <typename Device, typename Library>
void register_block_cast(Library &m) {
  m.impl("block_cast", TORCH_BOX(&block_cast<Device>));
  m.impl("block_cast_mask", TORCH_BOX(&block_cast_mask<Device>));
}

}  // namespace detent_shim
