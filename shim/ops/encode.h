// The operators of the encode family, for any device policy. Any shape; elementwise over the two arrays.
#pragma once

#include "fake_quantize.h"

namespace detent_shim {

template <typename Kernel, typename Scope>
std::tuple<Tensor, Tensor> run_encode(const char *op, Kernel kernel, const Scope &scope, const Tensor &first,
                                      const Tensor &second, int64_t qmin, int64_t qmax, bool symmetric,
                                      const std::optional<int64_t> &zero_point) {
  const detent_encoding encoding = range_encoding(op, checked_grid(op, qmin, qmax), symmetric, zero_point);
  const DtypeRow *row = row_of_torch(torch_dtype_of(first));
  if (row == nullptr || (row->detent != DETENT_F32 && row->detent != DETENT_F64) ||
      torch_dtype_of(second) != row->torch)
    fail(op, "the arrays have dtype ", dtype_name(first), " and ", dtype_name(second),
         ", expected float32 or float64, both the same.");
  if (shape_text(first) != shape_text(second))
    fail(op, "the arrays have shapes ", shape_text(first), " and ", shape_text(second), ", expected the same.");
  // Where the kernels compute in float64, so do these: the numbers must be the kernel's.
  const detent_dtype real = detent_math_dtype(row->detent, encoding.grid);
  const Tensor a = converted(torch::stable::contiguous(first), torch_of(real));
  const Tensor b = converted(torch::stable::contiguous(second), torch_of(real));
  Tensor c = empty_as(a), d = empty_as(a);
  throw_unless_ok(op, kernel(a.const_data_ptr(), b.const_data_ptr(), c.mutable_data_ptr(), d.mutable_data_ptr(), real,
                             static_cast<size_t>(a.numel()), &encoding, scope.queue));
  return {c, d};
}

template <typename Device>
std::tuple<Tensor, Tensor> encode_min_max(const Tensor &lo, const Tensor &hi, int64_t qmin, int64_t qmax,
                                          bool symmetric, std::optional<int64_t> zero_point) {
  return run_encode("encode_min_max", Device::encode_min_max, typename Device::Scope(lo), lo, hi, qmin, qmax, symmetric,
                    zero_point);
}

template <typename Device>
std::tuple<Tensor, Tensor> encode_affine(const Tensor &min, const Tensor &max, int64_t qmin, int64_t qmax,
                                         bool symmetric, std::optional<int64_t> zero_point) {
  return run_encode("encode_affine", Device::encode_affine, typename Device::Scope(min), min, max, qmin, qmax,
                    symmetric, zero_point);
}

template <typename Device, typename Library>
void register_encode(Library &m) {
  m.impl("encode_min_max", TORCH_BOX(&encode_min_max<Device>));
  m.impl("encode_affine", TORCH_BOX(&encode_affine<Device>));
}

}  // namespace detent_shim
