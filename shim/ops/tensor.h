// What the operators need of torch, over the stable ABI: data types, messages, allocation, dense memory, groups.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "detent/base.h"

namespace detent_shim {

using torch::stable::Tensor;
using Ints = std::vector<int64_t>;
using OptionalInts = std::optional<std::vector<int64_t>>;

// std::invalid_argument arrives in Python as ValueError. Says what came, what was expected, what to do.
template <typename... Parts>
[[noreturn]] void fail(const char *op, const Parts &...parts) {
  std::ostringstream text;
  text << op << ": ";
  (text << ... << parts);
  throw std::invalid_argument(text.str());
}

inline void throw_unless_ok(const char *op, detent_status status) {
  if (status != DETENT_OK) fail(op, detent_status_text(status), " (status ", status, ")");
}

// --- data types
// -------------------------------------------------------------------------------------------------------

struct DtypeRow {
  int32_t torch;
  detent_dtype detent;
  int64_t bytes;
  const char *name;
};

inline const DtypeRow *dtype_table(size_t *rows) {
  static const DtypeRow table[] = {
      {aoti_torch_dtype_float32(), DETENT_F32, 4, "float32"},
      {aoti_torch_dtype_float16(), DETENT_F16, 2, "float16"},
      {aoti_torch_dtype_bfloat16(), DETENT_BF16, 2, "bfloat16"},
      {aoti_torch_dtype_float64(), DETENT_F64, 8, "float64"},
      {aoti_torch_dtype_int8(), DETENT_I8, 1, "int8"},
      {aoti_torch_dtype_uint8(), DETENT_U8, 1, "uint8"},
      {aoti_torch_dtype_int16(), DETENT_I16, 2, "int16"},
      {aoti_torch_dtype_int32(), DETENT_I32, 4, "int32"},
      {aoti_torch_dtype_int64(), -1, 8, "int64"},
  };
  *rows = sizeof table / sizeof table[0];
  return table;
}

inline const DtypeRow *row_of_torch(int32_t torch_dtype) {
  size_t rows = 0;
  const DtypeRow *table = dtype_table(&rows);
  for (size_t i = 0; i < rows; ++i)
    if (table[i].torch == torch_dtype) return &table[i];
  return nullptr;
}

inline int32_t torch_of(detent_dtype dtype) {
  size_t rows = 0;
  return dtype_table(&rows)[dtype].torch;  // the table starts in the order of the enumeration
}

inline int32_t torch_dtype_of(const Tensor &t) {
  int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &dtype));
  return dtype;
}

inline const char *dtype_name(const Tensor &t) {
  if (!t.defined()) return "none, for it is no tensor";
  const DtypeRow *row = row_of_torch(torch_dtype_of(t));
  return row != nullptr ? row->name : "another dtype";
}

// The dtype of x, which must be one of the four float types.
inline detent_dtype float_dtype(const char *op, const char *name, const Tensor &t) {
  const DtypeRow *row = row_of_torch(torch_dtype_of(t));
  if (row == nullptr || row->detent < DETENT_F32 || row->detent > DETENT_F64)
    fail(op, name, " has dtype ", dtype_name(t),
         ", expected float32, float16, bfloat16 or float64.\n  Convert it first, for example ", name, ".float().");
  return row->detent;
}

inline void check_device(const char *op, const char *name, const Tensor &t, const Tensor &x) {
  int32_t left = 0, right = 0, left_index = 0, right_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &left));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(x.get(), &right));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(t.get(), &left_index));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(x.get(), &right_index));
  if (left != right || left_index != right_index)
    fail(op, name, " is on another device than x.\n  Move it, for example ", name, ".to(x.device).");
}

// --- allocation
// -------------------------------------------------------------------------------------------------------

inline Tensor empty_strided(const Tensor &device_of, const int64_t *sizes, const int64_t *strides, size_t dims,
                            int32_t torch_dtype) {
  int32_t device_type = 0, device_index = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(device_of.get(), &device_type));
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(device_of.get(), &device_index));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(dims), sizes, strides, torch_dtype, device_type,
                                                  device_index, &handle));
  return Tensor(handle);
}

// Same sizes and strides; for dense tensors what torch.empty_like gives, without a trip through the dispatcher.
inline Tensor empty_as(const Tensor &t, int32_t torch_dtype) {
  return empty_strided(t, t.sizes().data(), t.strides().data(), t.sizes().size(), torch_dtype);
}
inline Tensor empty_as(const Tensor &t) { return empty_as(t, torch_dtype_of(t)); }

inline Tensor empty_1d(const Tensor &device_of, int64_t n, int32_t torch_dtype) {
  const int64_t stride = 1;
  return empty_strided(device_of, &n, &stride, 1, torch_dtype);
}

inline Tensor converted(const Tensor &t, int32_t torch_dtype) {
  if (torch_dtype_of(t) == torch_dtype) return t;
  Tensor out = empty_as(torch::stable::contiguous(t), torch_dtype);
  torch::stable::copy_(out, t);
  return out;
}

// --- text for messages
// ------------------------------------------------------------------------------------------------

template <typename Range>
std::string shape_text(const Range &sizes) {
  std::string text = "(";
  for (size_t i = 0; i < sizes.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(sizes[i]);
  return text + (sizes.size() == 1 ? ",)" : ")");
}
inline std::string shape_text(const Tensor &t) { return shape_text(t.sizes()); }

// --- dense memory
// -----------------------------------------------------------------------------------------------------

// Dimensions from the slowest to the fastest in memory; true where the tensor fills its memory without gaps or overlap.
inline bool memory_order(const Tensor &t, Ints &order) {
  const auto sizes = t.sizes();
  const auto strides = t.strides();
  order.resize(sizes.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  if (t.is_contiguous()) return true;
  for (size_t i = 1; i < order.size(); ++i)  // insertion sort, stable: few dimensions
    for (size_t j = i; j > 0 && strides[order[j - 1]] < strides[order[j]]; --j) std::swap(order[j - 1], order[j]);
  int64_t expected = 1;
  for (size_t i = order.size(); i-- > 0;) {
    if (sizes[order[i]] == 1) continue;
    if (strides[order[i]] != expected) return false;
    expected *= sizes[order[i]];
  }
  return true;
}

inline Tensor call_with_ints(const char *name, const Tensor &t, const Ints &ints) {
  std::array<StableIValue, 2> stack{torch::stable::detail::from(t),
                                    torch::stable::detail::from(torch::headeronly::IntHeaderOnlyArrayRef(ints))};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher(name, "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

inline bool same_strides(const Tensor &a, const Tensor &b) {
  const auto left = a.strides(), right = b.strides(), sizes = a.sizes();
  for (size_t i = 0; i < sizes.size(); ++i)
    if (sizes[i] != 1 && left[i] != right[i]) return false;
  return true;
}

// A tensor as the kernels see it: dense memory read as [outer, groups, inner]. Where blocks of several dimensions
// interleave, memory is a permuted copy, and results are brought back by restore().
class Grouped {
 public:
  // axis or block_size or neither; a block size of -1 spans its dimension.
  Grouped(const char *op, const Tensor &x, const std::optional<int64_t> &axis, const OptionalInts &block_size)
      : like_(x), values_(x) {
    if (axis.has_value() && block_size.has_value())
      fail(op,
           "axis and block_size were both given, expected at most one.\n  axis is for one scale per channel, "
           "block_size for one scale per block.");
    Ints order;
    const bool dense = memory_order(x, order);
    if (block_size.has_value()) {
      moved_ = !x.is_contiguous();
      if (moved_) values_ = torch::stable::contiguous(x);
      read_blocks(op, *block_size);
      return;
    }
    if (!dense || x.numel() == 0) {
      values_ = copy_of(x);
      memory_order(values_, order);
    }
    if (axis.has_value()) read_axis(op, *axis, order);
    else shape = {1, 1, static_cast<size_t>(x.numel())};
  }

  detent_shape3 shape{};
  Ints encoding_sizes;  // the shape of scale, zero_point, min and max; empty for per tensor

  const void *data() const { return values_.const_data_ptr(); }
  const Tensor &values() const { return values_; }
  const Tensor &like() const { return like_; }
  std::optional<int64_t> axis() const { return axis_; }

  // Another tensor of the same sizes (an upstream gradient) in the same memory layout.
  Tensor arranged(const char *op, const char *name, const Tensor &t, int32_t torch_dtype) const {
    const auto sizes = t.sizes(), expected = like_.sizes();
    bool same = sizes.size() == expected.size() && torch_dtype_of(t) == torch_dtype;
    for (size_t i = 0; same && i < sizes.size(); ++i) same = sizes[i] == expected[i];
    if (!same)
      fail(op, name, " has shape ", shape_text(t), " and dtype ", dtype_name(t), ", expected shape ", shape_text(like_),
           " and dtype ", row_of_torch(torch_dtype)->name, ".");
    check_device(op, name, t, like_);
    if (!split_.empty()) return permuted(t);
    if (same_strides(t, values_)) return t;
    Tensor out = empty_as(values_, torch_dtype);
    torch::stable::copy_(out, t);
    return out;
  }

  Tensor arranged(const char *op, const char *name, const Tensor &t) const {
    return arranged(op, name, t, torch_dtype_of(like_));
  }

  Tensor empty(int32_t torch_dtype) const { return empty_as(values_, torch_dtype); }
  Tensor empty() const { return empty_as(values_); }

  // Blocks interleave, so values() is a permuted copy.
  bool permutes() const { return !split_.empty(); }

  // Where permutes(): a value per block, as one per element of x.
  Tensor spread(const Tensor &values) const {
    Ints apart = split_;
    for (size_t i = 1; i < apart.size(); i += 2) apart[i] = 1;
    const Tensor shared = call_with_ints("aten::broadcast_to", torch::stable::reshape(values, apart), split_);
    return torch::stable::reshape(shared, like_.sizes());
  }

  // The bytes of a contiguous x whose elements lie two in a byte, in the order of values(): a contiguous tensor, the
  // last dimension half as long. Where permutes(), a block's last dimension must be even.
  Tensor restore_pairs(const Tensor &bytes) const {
    Ints halved(like_.sizes().begin(), like_.sizes().end());
    halved.back() /= 2;
    if (!permutes()) return torch::stable::view(bytes, halved);
    Ints split = split_;
    split.back() /= 2;
    return torch::stable::reshape(unpermuted(bytes, split), halved);
  }

  // A result that lies in memory like values(), as a tensor like x: same sizes, the strides of torch.empty_like(x).
  Tensor restore(const Tensor &result) const {
    if (split_.empty() && !moved_) return result;
    const Tensor back = split_.empty() ? result : torch::stable::reshape(unpermuted(result, split_), like_.sizes());
    Tensor out = empty_as(torch::stable::empty_like(like_), torch_dtype_of(back));
    torch::stable::copy_(out, back);
    return out;
  }

 private:
  // Dense, with the strides torch.empty_like chooses.
  static Tensor copy_of(const Tensor &x) {
    Tensor out = torch::stable::empty_like(x);
    if (x.numel() > 0) torch::stable::copy_(out, x);
    return out;
  }

  Tensor permuted(const Tensor &t) const {
    Tensor apart = torch::stable::reshape(t, split_);
    return torch::stable::contiguous(call_with_ints("aten::permute", apart, permutation_));
  }

  // What permuted() did, undone: a view of sizes `split`.
  Tensor unpermuted(const Tensor &t, const Ints &split) const {
    Ints apart, inverse(permutation_.size());
    for (size_t i = 0; i < permutation_.size(); ++i) {
      apart.push_back(split[permutation_[i]]);
      inverse[permutation_[i]] = static_cast<int64_t>(i);
    }
    return call_with_ints("aten::permute", torch::stable::view(t, apart), inverse);
  }

  void read_axis(const char *op, int64_t axis, const Ints &order) {
    const int64_t dims = like_.dim();
    if (axis < -dims || axis >= dims)
      fail(op, "axis is ", axis, ", expected ", -dims, " .. ", dims - 1, " for x of shape ", shape_text(like_),
           ".\n  Pass the channel dimension of x, or axis=None for one scale per tensor.");
    axis = axis < 0 ? axis + dims : axis;
    encoding_sizes = {like_.size(axis)};
    axis_ = axis;
    shape = {1, static_cast<size_t>(like_.size(axis)), 1};
    bool before = true;
    for (const int64_t dim : order) {
      if (dim == axis) before = false;
      else (before ? shape.outer : shape.inner) *= static_cast<size_t>(like_.size(dim));
    }
  }

  void read_blocks(const char *op, const Ints &block_size) {
    const auto sizes = like_.sizes();
    if (block_size.size() != sizes.size())
      fail(op, "block_size ", shape_text(block_size), " has ", block_size.size(), " entries, expected ", sizes.size(),
           ", one per dimension of x of shape ", shape_text(like_),
           ".\n  Use 1 for a dimension with its own scales and -1 for one that shares them.");
    Ints split, counts, runs;  // split: n0, b0, n1, b1, ...
    for (size_t i = 0; i < sizes.size(); ++i) {
      const int64_t block = block_size[i] == -1 ? (sizes[i] > 0 ? sizes[i] : 1) : block_size[i];
      if (block < 1 || sizes[i] % block != 0)
        fail(op, "block_size[", i, "] is ", block_size[i], ", expected a divisor of x.shape[", i, "] = ", sizes[i],
             ".\n  Choose a block size that divides the dimension, or -1 for all of it.");
      encoding_sizes.push_back(sizes[i] / block);
      split.push_back(sizes[i] / block);
      split.push_back(block);
    }
    // In memory the dimensions read n b n b ...; without those of size 1 that is B N B where blocks need no copy.
    shape = {1, 1, 1};
    int stage = 0;  // 0 outer blocks, 1 groups, 2 inner blocks, 3 interleaved
    for (size_t i = 0; i < split.size() && stage < 3; ++i) {
      if (split[i] == 1) continue;
      const bool is_count = i % 2 == 0;
      if (is_count) stage = stage == 2 ? 3 : 1;
      else if (stage == 1) stage = 2;
      if (stage < 3)
        (stage == 0 ? shape.outer : stage == 1 ? shape.groups : shape.inner) *= static_cast<size_t>(split[i]);
    }
    if (stage == 0) std::swap(shape.outer, shape.inner);  // one block: everything is one run
    if (stage < 3) return;
    shape = {1, 1, 1};
    for (size_t i = 0; i < split.size(); i += 2) {
      permutation_.push_back(static_cast<int64_t>(i));
      shape.groups *= static_cast<size_t>(split[i]);
    }
    for (size_t i = 1; i < split.size(); i += 2) {
      permutation_.push_back(static_cast<int64_t>(i));
      shape.inner *= static_cast<size_t>(split[i]);
    }
    split_ = std::move(split);
    values_ = permuted(values_);
  }

  Tensor like_, values_;
  std::optional<int64_t> axis_;
  Ints split_, permutation_;
  bool moved_ = false;  // values_ is a contiguous copy of a strided x with blocks
};

// --- encodings
// --------------------------------------------------------------------------------------------------------

inline void check_real(const char *op, const char *name, const Tensor &t) {
  const DtypeRow *row = row_of_torch(torch_dtype_of(t));
  if (row == nullptr || (row->detent != DETENT_F32 && row->detent != DETENT_F64))
    fail(op, name, " has dtype ", dtype_name(t), ", expected float32 or float64.\n  Convert it, for example ", name,
         ".float().");
}

// The values for a detent_encoding, never NULL: there NULL means another parametrization, but a tensor of no channels
// has no memory.
inline const void *array_of(const Tensor &t) {
  static const double none = 0.0;
  return t.numel() > 0 ? t.const_data_ptr() : &none;
}

// A scale, zero_point, min or max for `grouped`, as dense reals of the kernel's arithmetic.
inline Tensor encoding_values(const char *op, const char *name, const Tensor &t, const Grouped &grouped,
                              detent_dtype real) {
  check_real(op, name, t);
  check_device(op, name, t, grouped.like());

  const auto sizes = t.sizes();
  bool fits = false;
  if (grouped.axis().has_value()) {
    const int64_t channels = grouped.encoding_sizes[0];
    fits = t.numel() == channels && (sizes.size() == 1 || (static_cast<int64_t>(sizes.size()) == grouped.like().dim() &&
                                                           sizes[*grouped.axis()] == channels));
    if (!fits)
      fail(op, name, " has shape ", shape_text(t), ", expected ", shape_text(grouped.encoding_sizes),
           " to match x.shape[", *grouped.axis(), "] = ", channels, " (axis=", *grouped.axis(),
           ").\n  Pass one value per channel, or a single value with axis=None.");
  } else if (!grouped.encoding_sizes.empty()) {
    fits = sizes.size() == grouped.encoding_sizes.size();
    for (size_t i = 0; fits && i < sizes.size(); ++i) fits = sizes[i] == grouped.encoding_sizes[i];
    if (!fits)
      fail(op, name, " has shape ", shape_text(t), ", expected ", shape_text(grouped.encoding_sizes),
           ", the number of blocks along each dimension of x of shape ", shape_text(grouped.like()), ".");
  } else if (t.numel() != 1) {
    fail(op, name, " has shape ", shape_text(t),
         ", expected () or (1,) with axis=None and block_size=None.\n"
         "  Pass a single value, or axis for one value per channel.");
  }
  return converted(t.is_contiguous() ? t : torch::stable::contiguous(t), torch_of(real));
}

inline detent_grid checked_grid(const char *op, int64_t qmin, int64_t qmax) {
  if (qmin >= qmax) fail(op, "qmin is ", qmin, " and qmax ", qmax, ", expected qmin < qmax.\n  Swap them?");
  if (qmin < INT32_MIN || qmax > static_cast<int64_t>(UINT32_MAX))
    fail(op, "the grid is ", qmin, " .. ", qmax, ", expected to lie within -2^31 .. 2^32 - 1.");
  return {qmin, qmax};
}

}  // namespace detent_shim
