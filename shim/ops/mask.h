// The operators of the mask family, for any device policy. Elements count in the order of a contiguous tensor.
#pragma once

#include "device.h"

namespace detent_shim {

template <typename Device>
Tensor pack_mask(const Tensor &inside) {
  const char *op = "pack_mask";
  if (torch_dtype_of(inside) != aoti_torch_dtype_bool())
    fail(op, "inside has dtype ", dtype_name(inside), ", expected bool.\n  Compare it, for example inside != 0.");
  const Tensor bytes = torch::stable::contiguous(inside);
  typename Device::Scope scope(bytes);
  const int64_t n = bytes.numel();
  Tensor mask = empty_1d(bytes, (n + 7) / 8, torch_of(DETENT_U8));
  throw_unless_ok(
      op, Device::pack_mask(static_cast<const uint8_t *>(bytes.const_data_ptr()),
                            static_cast<uint8_t *>(mask.mutable_data_ptr()), static_cast<size_t>(n), scope.queue));
  return mask;
}

template <typename Device>
Tensor unpack_mask(const Tensor &mask, Ints size) {
  const char *op = "unpack_mask";
  Ints strides(size.size(), 1);
  int64_t n = 1;
  for (size_t i = size.size(); i-- > 0;) {
    strides[i] = n > 0 ? n : 1;
    if (size[i] < 0 || __builtin_mul_overflow(n, size[i], &n))
      fail(op, "size is ", shape_text(size), ", expected sizes of 0 and more whose product fits 63 bits.");
  }
  if (torch_dtype_of(mask) != torch_of(DETENT_U8) || mask.numel() != n / 8 + (n % 8 != 0))
    fail(op, "mask has ", mask.numel(), " elements of ", dtype_name(mask), ", expected ", n / 8 + (n % 8 != 0),
         " of uint8, one bit per element of shape ", shape_text(size), ".");
  const Tensor bits = torch::stable::contiguous(mask);
  typename Device::Scope scope(bits);
  Tensor inside = empty_strided(bits, size.data(), strides.data(), size.size(), aoti_torch_dtype_bool());
  throw_unless_ok(
      op, Device::unpack_mask(static_cast<const uint8_t *>(bits.const_data_ptr()),
                              static_cast<uint8_t *>(inside.mutable_data_ptr()), static_cast<size_t>(n), scope.queue));
  return inside;
}

template <typename Device, typename Library>
void register_mask(Library &m) {
  m.impl("pack_mask", TORCH_BOX(&pack_mask<Device>));
  m.impl("unpack_mask", TORCH_BOX(&unpack_mask<Device>));
}

}  // namespace detent_shim
