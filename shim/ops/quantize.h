// The operators of the quantize family, for any device policy.
#pragma once

#include "fake_quantize.h"

namespace detent_shim {

inline const char *range_of_codes(detent_dtype codes) {
  static const char *const text[] = {"-2^24 .. 2^24", "-2048 .. 2048", "-256 .. 256",     "-2^31 .. 2^32 - 1",
                                     "-128 .. 127",   "0 .. 255",      "-32768 .. 32767", "-2^31 .. 2^31 - 1",
                                     "-8 .. 7",       "0 .. 15"};
  return text[codes];
}

inline detent_dtype code_dtype(const char *op, const char *name, int32_t torch_dtype, detent_dtype x_dtype) {
  const DtypeRow *row = row_of_torch(torch_dtype);
  if (row == nullptr || row->detent < 0 || (row->detent <= DETENT_F64 && row->detent != x_dtype))
    fail(op, name, " has dtype ", row != nullptr ? row->name : "another dtype",
         ", expected int8, uint8, int16, int32 or the dtype of the values.");
  return row->detent;
}

inline int32_t torch_dtype_of(torch::headeronly::ScalarType type) {
  return torch::stable::detail::to<int32_t>(torch::stable::detail::from(type));
}

// Packed codes lie two in an int8, signed, or in a uint8, unsigned.
inline detent_dtype packed_dtype(const char *op, const char *name, detent_dtype codes) {
  if (codes != DETENT_I8 && codes != DETENT_U8)
    fail(op, name, " has dtype ", row_of_torch(torch_of(codes))->name,
         ", expected int8 or uint8 for packed codes, two in a byte.\n"
         "  Use int8 for a grid within -8 .. 7, uint8 for 0 .. 15.");
  return codes == DETENT_I8 ? DETENT_I4 : DETENT_U4;
}

inline Tensor quantized_pairs(const char *op, const Tensor &x, const Grouped &grouped, const OptionalInts &block_size,
                              detent_dtype codes) {
  if (x.dim() == 0 || x.size(-1) % 2 != 0)
    fail(op, "x has shape ", shape_text(x),
         ", expected an even last dimension, for two codes share a byte.\n"
         "  Flatten x, for example x.flatten(1), or pad it.");
  if (grouped.permutes() && block_size->back() != -1 && block_size->back() % 2 != 0)
    fail(op, "block_size is ", shape_text(*block_size),
         ", expected an even last entry, for packed codes share a byte.");
  return empty_1d(x, x.numel() / 2, torch_of(codes));
}

// dtype None: codes as floats of x's type, the form that carries a gradient.
template <typename Device>
Tensor quantize(const Tensor &x, const Tensor &scale, const std::optional<Tensor> &zero_point, int64_t qmin,
                int64_t qmax, std::optional<torch::headeronly::ScalarType> dtype, std::optional<int64_t> axis,
                OptionalInts block_size, bool packed) {
  const char *op = "quantize";
  const detent_dtype x_dtype = float_dtype(op, "x", x);
  const detent_dtype held_as = dtype.has_value() ? code_dtype(op, "dtype", torch_dtype_of(*dtype), x_dtype) : x_dtype;
  const detent_dtype q_dtype = packed ? packed_dtype(op, "dtype", held_as) : held_as;
  const Grouped grouped(op, packed ? torch::stable::contiguous(x) : x, axis, block_size);
  const HeldEncoding held = hold_affine(op, x_dtype, grouped, scale, zero_point, qmin, qmax);
  typename Device::Scope scope(grouped.values());
  Tensor q = packed ? quantized_pairs(op, x, grouped, block_size, held_as) : grouped.empty(torch_of(q_dtype));
  const detent_status status =
      Device::quantize(grouped.data(), q.mutable_data_ptr(), x_dtype, q_dtype, grouped.shape, &held.c, scope.queue);
  if (status == DETENT_BAD_GRID)
    fail(op, "the grid ", qmin, " .. ", qmax, " does not fit codes held as ", packed ? "halves of " : "",
         row_of_torch(torch_of(held_as))->name, ", which hold the integers ", range_of_codes(q_dtype),
         " exactly.\n  Pass a wider dtype.");
  throw_unless_ok(op, status);
  return packed ? grouped.restore_pairs(q) : grouped.restore(q);
}

struct Sums {
  Tensor grad_scale, grad_zero_point;
  void *second;
};

inline Sums empty_sums(const Grouped &grouped, const HeldEncoding &held) {
  Tensor first = empty_as(*held.first);
  Tensor second = held.second.has_value() ? empty_as(*held.second) : empty_1d(grouped.values(), 0, torch_of(held.real));
  return {first, second, held.second.has_value() ? second.mutable_data_ptr() : nullptr};
}

inline std::tuple<Tensor, Tensor, Tensor> gradients(const Grouped &grouped, const Tensor &grad, const Sums &sums,
                                                    const Tensor &scale, const std::optional<Tensor> &zero_point) {
  return {grouped.restore(grad), converted(sums.grad_scale, torch_dtype_of(scale)),
          zero_point.has_value() ? converted(sums.grad_zero_point, torch_dtype_of(*zero_point)) : sums.grad_zero_point};
}

template <typename Device>
std::tuple<Tensor, Tensor, Tensor> quantize_backward(const Tensor &grad_q, const Tensor &x, const Tensor &scale,
                                                     const std::optional<Tensor> &zero_point, int64_t qmin,
                                                     int64_t qmax, std::optional<int64_t> axis,
                                                     OptionalInts block_size) {
  const char *op = "quantize_backward";
  const detent_dtype dtype = float_dtype(op, "x", x);
  const Grouped grouped(op, x, axis, block_size);
  const HeldEncoding held = hold_affine(op, dtype, grouped, scale, zero_point, qmin, qmax);
  typename Device::Scope scope(grouped.values());
  const Tensor grad = grouped.arranged(op, "grad_q", grad_q);
  Tensor grad_x = grouped.empty();
  Sums sums = empty_sums(grouped, held);
  size_t bytes = 0;
  throw_unless_ok(op, Device::fake_quantize_bwd_workspace(grouped.shape, &bytes));
  typename Device::Workspace workspace(grouped.values(), bytes);
  throw_unless_ok(op, Device::quantize_bwd(grad.const_data_ptr(), grouped.data(), grad_x.mutable_data_ptr(),
                                           sums.grad_scale.mutable_data_ptr(), sums.second, dtype, grouped.shape,
                                           &held.c, workspace.data(), workspace.bytes(), scope.queue));
  return gradients(grouped, grad_x, sums, scale, zero_point);
}

// The grid is not needed to dequantize, nor known.
inline HeldEncoding hold_for_codes(const char *op, const Grouped &q, detent_dtype real, const Tensor &scale,
                                   const std::optional<Tensor> &zero_point) {
  HeldEncoding held;
  held.real = real;
  held.first = encoding_values(op, "scale", scale, q, real);
  held.c.scale = array_of(*held.first);
  if (zero_point.has_value()) {
    held.second = encoding_values(op, "zero_point", *zero_point, q, real);
    held.c.zero_point = array_of(*held.second);
  }
  return held;
}

// The type of the values: `dtype` for integer codes, that of q for codes held as floats.
inline detent_dtype value_dtype(const char *op, const Tensor &q,
                                const std::optional<torch::headeronly::ScalarType> &dtype) {
  const DtypeRow *codes = row_of_torch(torch_dtype_of(q));
  const DtypeRow *asked = dtype.has_value() ? row_of_torch(torch_dtype_of(*dtype)) : nullptr;
  if (dtype.has_value() && (asked == nullptr || asked->detent < DETENT_F32 || asked->detent > DETENT_F64))
    fail(op, "dtype is ", asked != nullptr ? asked->name : "another dtype",
         ", expected float32, float16, bfloat16 or float64.");
  if (asked != nullptr) return asked->detent;
  return codes != nullptr && codes->detent >= DETENT_F32 && codes->detent <= DETENT_F64 ? codes->detent : DETENT_F32;
}

// A contiguous tensor for what packed codes stand for.
inline Tensor empty_unpacked(const char *op, const Tensor &q, detent_dtype x_dtype) {
  if (q.dim() == 0) fail(op, "q has shape (), expected at least one dimension for packed codes, two in a byte.");
  Ints sizes(q.sizes().begin(), q.sizes().end()), strides(sizes.size(), 1);
  sizes.back() *= 2;
  for (size_t i = sizes.size() - 1; i-- > 0;) strides[i] = strides[i + 1] * (sizes[i + 1] > 0 ? sizes[i + 1] : 1);
  return empty_strided(q, sizes.data(), strides.data(), sizes.size(), torch_of(x_dtype));
}

// Packed codes as floats of the type of their values, which hold them exactly.
template <typename Device>
Tensor unpacked(const char *op, const Tensor &q, detent_dtype x_dtype) {
  const detent_dtype q_dtype = packed_dtype(op, "q", code_dtype(op, "q", torch_dtype_of(q), x_dtype));
  const Tensor bytes = torch::stable::contiguous(q);
  Tensor codes = empty_unpacked(op, q, x_dtype);
  typename Device::Scope scope(bytes);
  Tensor one = empty_1d(q, 1, torch_of(detent_dequantize_math_dtype(q_dtype, x_dtype)));
  one = torch::stable::fill_(one, 1.0);
  detent_encoding as_it_is{};
  as_it_is.scale = one.const_data_ptr();
  throw_unless_ok(op, Device::dequantize(bytes.const_data_ptr(), codes.mutable_data_ptr(), q_dtype, x_dtype,
                                         {1, 1, static_cast<size_t>(codes.numel())}, &as_it_is, scope.queue));
  return codes;
}

template <typename Device>
Tensor dequantize(const Tensor &q, const Tensor &scale, const std::optional<Tensor> &zero_point,
                  std::optional<torch::headeronly::ScalarType> dtype, std::optional<int64_t> axis,
                  OptionalInts block_size, bool packed) {
  const char *op = "dequantize";
  const detent_dtype x_dtype = value_dtype(op, q, dtype);
  if (packed) {
    const detent_dtype q_dtype = packed_dtype(op, "q", code_dtype(op, "q", torch_dtype_of(q), x_dtype));
    Tensor x = empty_unpacked(op, q, x_dtype);
    const Grouped grouped(op, x, axis, block_size);
    if (grouped.permutes())
      return dequantize<Device>(unpacked<Device>(op, q, x_dtype), scale, zero_point, std::nullopt, axis, block_size,
                                false);
    const HeldEncoding held =
        hold_for_codes(op, grouped, detent_dequantize_math_dtype(q_dtype, x_dtype), scale, zero_point);
    const Tensor bytes = torch::stable::contiguous(q);
    typename Device::Scope scope(x);
    throw_unless_ok(op, Device::dequantize(bytes.const_data_ptr(), x.mutable_data_ptr(), q_dtype, x_dtype,
                                           grouped.shape, &held.c, scope.queue));
    return x;
  }
  const detent_dtype q_dtype = code_dtype(op, "q", torch_dtype_of(q), x_dtype);
  const Grouped grouped(op, q, axis, block_size);
  const HeldEncoding held =
      hold_for_codes(op, grouped, detent_dequantize_math_dtype(q_dtype, x_dtype), scale, zero_point);
  typename Device::Scope scope(grouped.values());
  Tensor x = grouped.empty(torch_of(x_dtype));
  throw_unless_ok(op, Device::dequantize(grouped.data(), x.mutable_data_ptr(), q_dtype, x_dtype, grouped.shape, &held.c,
                                         scope.queue));
  return grouped.restore(x);
}

// For codes held as floats; integer codes carry no gradient, theirs is computed all the same and may be ignored.
template <typename Device>
std::tuple<Tensor, Tensor, Tensor> dequantize_backward(const Tensor &grad_x, const Tensor &q, const Tensor &scale,
                                                       const std::optional<Tensor> &zero_point,
                                                       std::optional<int64_t> axis, OptionalInts block_size,
                                                       bool packed) {
  const char *op = "dequantize_backward";
  const detent_dtype x_dtype = float_dtype(op, "grad_x", grad_x);
  if (packed)
    return dequantize_backward<Device>(grad_x, unpacked<Device>(op, q, x_dtype), scale, zero_point, axis, block_size,
                                       false);
  const detent_dtype q_dtype = code_dtype(op, "q", torch_dtype_of(q), x_dtype);
  const Grouped grouped(op, q, axis, block_size);
  const HeldEncoding held =
      hold_for_codes(op, grouped, detent_dequantize_math_dtype(q_dtype, x_dtype), scale, zero_point);
  typename Device::Scope scope(grouped.values());
  const Tensor grad = grouped.arranged(op, "grad_x", grad_x, torch_of(x_dtype));
  Tensor grad_q = grouped.empty(torch_of(x_dtype));
  Sums sums = empty_sums(grouped, held);
  size_t bytes = 0;
  throw_unless_ok(op, Device::fake_quantize_bwd_workspace(grouped.shape, &bytes));
  typename Device::Workspace workspace(grouped.values(), bytes);
  throw_unless_ok(op, Device::dequantize_bwd(grad.const_data_ptr(), grouped.data(), grad_q.mutable_data_ptr(),
                                             sums.grad_scale.mutable_data_ptr(), sums.second, q_dtype, x_dtype,
                                             grouped.shape, &held.c, workspace.data(), workspace.bytes(), scope.queue));
  return gradients(grouped, grad_q, sums, scale, zero_point);
}

template <typename Device, typename Library>
void register_quantize(Library &m) {
  m.impl("quantize", TORCH_BOX(&quantize<Device>));
  m.impl("quantize_backward", TORCH_BOX(&quantize_backward<Device>));
  m.impl("dequantize", TORCH_BOX(&dequantize<Device>));
  m.impl("dequantize_backward", TORCH_BOX(&dequantize_backward<Device>));
}

}  // namespace detent_shim
