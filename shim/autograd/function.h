// What the differentiable operators share. Classic C++ ABI: built for the torch at hand, holds no kernels.
#pragma once

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/functions/basic_ops.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/library.h>

#include <bit>
#include <optional>
#include <vector>

namespace detent_autograd {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using OptionalTensor = std::optional<Tensor>;
using OptionalInt = std::optional<int64_t>;
using OptionalInts = at::OptionalIntArrayRef;
using OptionalDouble = std::optional<double>;

// The plain arguments of an operator, kept for backward as one list of integers: every entry of a context's saved_data
// costs a hash and an allocation.
struct Options {
  int64_t qmin = 0, qmax = 0;
  OptionalInt axis;
  std::optional<std::vector<int64_t>> block_size;
  bool symmetric = false;
  OptionalInt zero_point;
  double grad_scale = 1.0;
  OptionalDouble activation_min, activation_max;
  bool trained = false;

  void save(AutogradContext *ctx) const {
    std::vector<int64_t> list{qmin,
                              qmax,
                              axis.has_value(),
                              axis.value_or(0),
                              symmetric,
                              zero_point.has_value(),
                              zero_point.value_or(0),
                              std::bit_cast<int64_t>(grad_scale),
                              activation_min.has_value(),
                              std::bit_cast<int64_t>(activation_min.value_or(0.0)),
                              activation_max.has_value(),
                              std::bit_cast<int64_t>(activation_max.value_or(0.0)),
                              trained,
                              block_size.has_value()};
    if (block_size.has_value()) list.insert(list.end(), block_size->begin(), block_size->end());
    ctx->saved_data["o"] = std::move(list);
  }

  static Options of(AutogradContext *ctx) {
    const auto list = ctx->saved_data["o"].toIntVector();
    Options options;
    options.qmin = list[0];
    options.qmax = list[1];
    if (list[2]) options.axis = list[3];
    options.symmetric = list[4] != 0;
    if (list[5]) options.zero_point = list[6];
    options.grad_scale = std::bit_cast<double>(list[7]);
    if (list[8]) options.activation_min = std::bit_cast<double>(list[9]);
    if (list[10]) options.activation_max = std::bit_cast<double>(list[11]);
    options.trained = list[12] != 0;
    if (list[13]) options.block_size.emplace(list.begin() + 14, list.end());
    return options;
  }

  OptionalInts blocks() const { return block_size.has_value() ? OptionalInts(*block_size) : OptionalInts(); }
};

inline std::optional<std::vector<int64_t>> copied(OptionalInts ints) {
  if (!ints.has_value()) return std::nullopt;
  return ints->vec();
}

// A forward-mode tangent counts: Function then says that it has no jvp, where a plain call would drop the tangent in
// silence.
inline bool wants_grad(const Tensor &t) { return t.requires_grad() || torch::autograd::isFwGradDefined(t); }
inline bool wants_grad(const OptionalTensor &t) { return t.has_value() && wants_grad(*t); }

template <typename... Tensors>
bool any_wants_grad(const Tensors &...tensors) {
  return at::GradMode::is_enabled() && (wants_grad(tensors) || ...);
}

// Dimensions of y from the slowest to the fastest in memory; nothing for contiguous. The packed mask lies in that
// order.
inline std::optional<std::vector<int64_t>> memory_order(const Tensor &y) {
  if (y.is_contiguous()) return std::nullopt;
  if (y.dim() == 4 && y.is_contiguous(at::MemoryFormat::ChannelsLast)) return std::vector<int64_t>{0, 2, 3, 1};
  if (y.dim() == 5 && y.is_contiguous(at::MemoryFormat::ChannelsLast3d)) return std::vector<int64_t>{0, 2, 3, 4, 1};
  std::vector<int64_t> strides, order(y.dim());
  for (const auto &stride : y.sym_strides()) strides.push_back(stride.guard_int(__FILE__, __LINE__));
  for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int64_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return strides[a] > strides[b]; });
  return order;
}

// Keeps the mask and what its backward needs to read it: the order of the memory, or the blocks.
inline void save_mask(AutogradContext *ctx, const Tensor &y, const Tensor &mask, const Options &options) {
  ctx->save_for_backward({mask});
  if (options.block_size.has_value()) ctx->saved_data["b"] = *options.block_size;
  else if (auto order = memory_order(y)) ctx->saved_data["m"] = std::move(*order);
}

// The gradient of a residual, where there is one, is that of x.
inline void note_residual(AutogradContext *ctx, const OptionalTensor &residual) {
  if (residual.has_value()) ctx->saved_data["r"] = true;
}
inline Tensor grad_of_residual(const AutogradContext *ctx, const Tensor &grad_x) {
  return ctx->saved_data.find("r") != ctx->saved_data.end() ? grad_x : Tensor();
}

inline Tensor mask_backward(AutogradContext *ctx, const Tensor &grad_y) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("detent::fake_quantize_mask_backward", "")
                             .typed<Tensor(const Tensor &, const Tensor &, OptionalInts, OptionalInts)>();
  const auto kept = [&](const char *key) -> std::optional<std::vector<int64_t>> {
    const auto entry = ctx->saved_data.find(key);
    if (entry == ctx->saved_data.end()) return std::nullopt;
    return entry->second.toIntVector();
  };
  const auto order = kept("m"), blocks = kept("b");
  return op.call(grad_y, ctx->get_saved_variables()[0], order.has_value() ? OptionalInts(*order) : OptionalInts(),
                 blocks.has_value() ? OptionalInts(*blocks) : OptionalInts());
}

}  // namespace detent_autograd
