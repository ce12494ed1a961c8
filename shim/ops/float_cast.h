// The operators of the float_cast family, for any device policy: check, allocate, call, translate.
#pragma once

#include "fake_quantize.h"

namespace detent_shim {

inline detent_float_format checked_format(const char *op, int64_t mantissa_bits, int64_t min_exponent, double max) {
  if (mantissa_bits < 0 || mantissa_bits > 23)
    fail(op, "mantissa_bits is ", mantissa_bits, ", expected 0 .. 23.");
  if (min_exponent > 127 || min_exponent < mantissa_bits - 149)
    fail(op, "min_exponent is ", min_exponent, ", expected ", mantissa_bits - 149,
         " .. 127, so that the smallest subnormal is a float32.");
  if (!(max > 0 && max <= 3.4028234663852886e38))
    fail(op, "max is ", max, ", expected a positive number that is finite in float32.");
  return {static_cast<int32_t>(mantissa_bits), static_cast<int32_t>(min_exponent), max};
}

template <typename Device>
Tensor run_float_cast(const Tensor &x, const Tensor &scale, int64_t mantissa_bits, int64_t min_exponent, double max,
                      const std::optional<int64_t> &axis, const OptionalInts &block_size, std::optional<Tensor> *mask) {
  const char *op = "float_cast";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const detent_float_format format = checked_format(op, mantissa_bits, min_exponent, max);
  const Grouped grouped(op, x, axis, block_size);
  const Tensor scales = encoding_values(op, "scale", scale, grouped, dtype == DETENT_F64 ? DETENT_F64 : DETENT_F32);
  typename Device::Scope scope(grouped.values());
  if (mask != nullptr) *mask = empty_mask(grouped);
  Tensor y = grouped.empty();
  throw_unless_ok(op, Device::float_cast(
                          grouped.data(), y.mutable_data_ptr(),
                          mask != nullptr ? static_cast<uint8_t *>((*mask)->mutable_data_ptr()) : nullptr, dtype,
                          grouped.shape, array_of(scales), format, scope.queue));
  return grouped.restore(y);
}

template <typename Device>
Tensor float_cast(const Tensor &x, const Tensor &scale, int64_t mantissa_bits, int64_t min_exponent, double max,
                  std::optional<int64_t> axis, OptionalInts block_size) {
  return run_float_cast<Device>(x, scale, mantissa_bits, min_exponent, max, axis, block_size, nullptr);
}

template <typename Device>
std::tuple<Tensor, Tensor> float_cast_mask(const Tensor &x, const Tensor &scale, int64_t mantissa_bits,
                                           int64_t min_exponent, double max, std::optional<int64_t> axis,
                                           OptionalInts block_size) {
  std::optional<Tensor> mask;
  Tensor y = run_float_cast<Device>(x, scale, mantissa_bits, min_exponent, max, axis, block_size, &mask);
  return {y, *mask};
}

template <typename Device, typename Library>
void register_float_cast(Library &m) {
  m.impl("float_cast", TORCH_BOX(&float_cast<Device>));
  m.impl("float_cast_mask", TORCH_BOX(&float_cast_mask<Device>));
}

}  // namespace detent_shim
