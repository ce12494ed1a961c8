// The operator of stochastic rounding, for any device policy: check, allocate, call, translate.
#pragma once

#include "fake_quantize.h"

namespace detent_shim {

// Element i of the contiguous tensor has its number, whatever the layout: x is read contiguous, and where blocks
// interleave each element is given its encoding.
template <typename Device>
Tensor fake_quantize_stochastic(const Tensor &x, const Tensor &scale, const std::optional<Tensor> &zero_point,
                                const Tensor &random, int64_t qmin, int64_t qmax, std::optional<int64_t> axis,
                                OptionalInts block_size) {
  const char *op = "fake_quantize_stochastic";
  const detent_dtype dtype = float_dtype(op, "x", x);
  if (torch_dtype_of(random) != aoti_torch_dtype_int64() || random.numel() != 2)
    fail(op, "random has shape ", shape_text(random), " and dtype ", dtype_name(random),
         ", expected (2,) and int64: seed and offset.");
  check_device(op, "random", random, x);
  const Grouped grouped(op, torch::stable::contiguous(x), axis, block_size);
  const HeldEncoding held = hold_affine(op, dtype, grouped, scale, zero_point, qmin, qmax);
  if (grouped.permutes()) {
    std::optional<Tensor> zero_points;
    if (zero_point.has_value()) zero_points = grouped.spread(*zero_point);
    return fake_quantize_stochastic<Device>(x, grouped.spread(scale), zero_points, random, qmin, qmax, std::nullopt,
                                            Ints(static_cast<size_t>(x.dim()), 1));
  }
  const Tensor numbers = torch::stable::contiguous(random);
  typename Device::Scope scope(grouped.values());
  Tensor y = grouped.empty();
  throw_unless_ok(
      op, Device::fake_quantize_stochastic(grouped.data(), y.mutable_data_ptr(), dtype, grouped.shape, &held.c,
                                           static_cast<const int64_t *>(numbers.const_data_ptr()), scope.queue));
  if (x.is_contiguous()) return y;
  Tensor out = torch::stable::empty_like(x);
  torch::stable::copy_(out, y);
  return out;
}

template <typename Device, typename Library>
void register_stochastic(Library &m) {
  m.impl("fake_quantize_stochastic", TORCH_BOX(&fake_quantize_stochastic<Device>));
}

}  // namespace detent_shim
