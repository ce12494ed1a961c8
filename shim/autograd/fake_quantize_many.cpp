// The gradients of fake_quantize over lists: one node for all tensors.
#include "function.h"

namespace detent_autograd::many {
namespace {

using Tensors = std::vector<Tensor>;
using Doubles = std::optional<std::vector<double>>;
using OptionalDoubles = std::optional<at::ArrayRef<double>>;

template <typename Signature>
c10::TypedOperatorHandle<Signature> operator_of(const char *name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").typed<Signature>();
}

bool any_wants_grad_of(std::initializer_list<at::TensorList> lists) {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::TensorList list : lists)
    for (const Tensor &t : list)
      if (wants_grad(t)) return true;
  return false;
}

// The plain arguments of an operator over lists.
struct ManyOptions {
  int64_t qmin = 0, qmax = 0;
  bool symmetric = false;
  OptionalInt zero_point;
  std::optional<std::vector<int64_t>> axis, block_size;
  Doubles grad_scale;
  bool trained = false;

  OptionalInts axes() const { return axis.has_value() ? OptionalInts(*axis) : OptionalInts(); }
  OptionalInts blocks() const { return block_size.has_value() ? OptionalInts(*block_size) : OptionalInts(); }
  OptionalDoubles factors() const { return grad_scale.has_value() ? OptionalDoubles(*grad_scale) : OptionalDoubles(); }

  void save(AutogradContext *ctx) const {
    ctx->saved_data["grid"] =
        std::vector<int64_t>{qmin, qmax, symmetric, zero_point.has_value(), zero_point.value_or(0), trained};
    if (axis.has_value()) ctx->saved_data["axis"] = *axis;
    if (block_size.has_value()) ctx->saved_data["block_size"] = *block_size;
    if (grad_scale.has_value()) ctx->saved_data["grad_scale"] = *grad_scale;
  }

  static ManyOptions of(AutogradContext *ctx) {
    const auto grid = ctx->saved_data["grid"].toIntVector();
    ManyOptions options{grid[0], grid[1], grid[2] != 0, std::nullopt, ints(ctx, "axis"), ints(ctx, "block_size"), {}};
    if (grid[3]) options.zero_point = grid[4];
    options.trained = grid[5] != 0;
    const auto factors = ctx->saved_data.find("grad_scale");
    if (factors != ctx->saved_data.end()) options.grad_scale = factors->second.toDoubleVector();
    return options;
  }

  static std::optional<std::vector<int64_t>> ints(AutogradContext *ctx, const char *key) {
    const auto entry = ctx->saved_data.find(key);
    if (entry == ctx->saved_data.end()) return std::nullopt;
    return entry->second.toIntVector();
  }
};

// Parts of what save_for_backward was given, in its order.
Tensors part_of(const variable_list &saved, size_t first, size_t count) {
  return Tensors(saved.begin() + static_cast<std::ptrdiff_t>(first),
                 saved.begin() + static_cast<std::ptrdiff_t>(first + count));
}

variable_list joined(std::initializer_list<at::TensorList> lists) {
  variable_list all;
  for (const at::TensorList list : lists) all.insert(all.end(), list.begin(), list.end());
  return all;
}

// Gradients that are not there are zeros: an output that nobody read.
Tensors whole(const variable_list &grads, const Tensors &like) {
  Tensors all;
  for (size_t i = 0; i < like.size(); ++i) all.push_back(grads[i].defined() ? grads[i] : at::zeros_like(like[i]));
  return all;
}

// --- a range without a gradient
// ---------------------------------------------------------------------------------------

// Backward needs one bit per element, and how the bits lie.
void save_masks(AutogradContext *ctx, const Tensors &y, const Tensors &mask, const ManyOptions &options) {
  ctx->save_for_backward(mask);
  ctx->set_materialize_grads(false);
  std::vector<int64_t> order;
  bool contiguous = true;
  for (const Tensor &t : y) {
    const auto its = memory_order(t);
    contiguous = contiguous && !its.has_value();
    for (int64_t dim = 0; dim < t.dim(); ++dim) order.push_back(its.has_value() ? (*its)[dim] : dim);
  }
  if (options.block_size.has_value()) ctx->saved_data["block_size"] = *options.block_size;
  else if (!contiguous) ctx->saved_data["order"] = order;
  std::vector<int64_t> dims;
  for (const Tensor &t : y) dims.push_back(t.dim());
  ctx->saved_data["dims"] = dims;
}

// Only of the outputs that were read.
variable_list masks_backward(AutogradContext *ctx, const variable_list &grads, size_t inputs) {
  static const auto op = operator_of<Tensors(at::TensorList, at::TensorList, OptionalInts, OptionalInts)>(
      "detent::fake_quantize_mask_many_backward");
  const auto mask = ctx->get_saved_variables();
  const auto order = ManyOptions::ints(ctx, "order"), blocks = ManyOptions::ints(ctx, "block_size");
  const auto dims = ctx->saved_data["dims"].toIntVector();
  Tensors grad_y, bits;
  std::vector<int64_t> its_order, its_blocks;
  for (size_t i = 0, first = 0; i < mask.size(); first += static_cast<size_t>(dims[i++])) {
    if (!grads[i].defined()) continue;
    grad_y.push_back(grads[i]);
    bits.push_back(mask[i]);
    for (size_t k = first; k < first + static_cast<size_t>(dims[i]); ++k) {
      if (order.has_value()) its_order.push_back((*order)[k]);
      if (blocks.has_value()) its_blocks.push_back((*blocks)[k]);
    }
  }
  variable_list grad_x(inputs);
  if (grad_y.empty()) return grad_x;
  const Tensors made = op.call(grad_y, bits, order.has_value() ? OptionalInts(its_order) : OptionalInts(),
                               blocks.has_value() ? OptionalInts(its_blocks) : OptionalInts());
  for (size_t i = 0, next = 0; i < mask.size(); ++i)
    if (grads[i].defined()) grad_x[i] = made[next++];
  return grad_x;
}

// --- scale, zero_point
// ------------------------------------------------------------------------------------------------

using Affine = Tensors(at::TensorList, at::TensorList, at::TensorList, int64_t, int64_t, OptionalInts, OptionalInts,
                       OptionalDoubles, bool);
using AffineMask = std::tuple<Tensors, Tensors>(at::TensorList, at::TensorList, at::TensorList, int64_t, int64_t,
                                                OptionalInts, OptionalInts, bool);
using AffineBackward = std::tuple<Tensors, Tensors, Tensors>(at::TensorList, at::TensorList, at::TensorList,
                                                             at::TensorList, int64_t, int64_t, OptionalInts,
                                                             OptionalInts, OptionalDoubles, bool);

Tensors call_affine(at::TensorList x, at::TensorList scale, at::TensorList zero_point, const ManyOptions &options) {
  static const auto op = operator_of<Affine>("detent::fake_quantize_many");
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(x, scale, zero_point, options.qmin, options.qmax, options.axes(), options.blocks(), options.factors(),
                 options.trained);
}

struct LearnedAffines : torch::autograd::Function<LearnedAffines> {
  static variable_list forward(AutogradContext *ctx, at::TensorList x, at::TensorList scale, at::TensorList zero_point,
                               const ManyOptions &options) {
    ctx->save_for_backward(joined({x, scale, zero_point}));
    ctx->set_materialize_grads(false);
    ctx->saved_data["count"] = static_cast<int64_t>(x.size());
    options.save(ctx);
    return call_affine(x, scale, zero_point, options);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    static const auto op = operator_of<AffineBackward>("detent::fake_quantize_many_backward");
    const auto saved = ctx->get_saved_variables();
    const auto count = static_cast<size_t>(ctx->saved_data["count"].toInt());
    const auto options = ManyOptions::of(ctx);
    const Tensors x = part_of(saved, 0, count);
    const auto [grad_x, grad_scale, grad_zero_point] =
        op.call(whole(grads, x), x, part_of(saved, count, count), part_of(saved, 2 * count, saved.size() - 2 * count),
                options.qmin, options.qmax, options.axes(), options.blocks(), options.factors(), options.trained);
    variable_list all = joined({grad_x, grad_scale, grad_zero_point});
    all.emplace_back();
    return all;
  }
};

struct FixedAffines : torch::autograd::Function<FixedAffines> {
  static variable_list forward(AutogradContext *ctx, at::TensorList x, at::TensorList scale, at::TensorList zero_point,
                               const ManyOptions &options) {
    static const auto op = operator_of<AffineMask>("detent::fake_quantize_many_mask");
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, mask] =
        op.call(x, scale, zero_point, options.qmin, options.qmax, options.axes(), options.blocks(), options.trained);
    save_masks(ctx, y, mask, options);
    ctx->saved_data["inputs"] = static_cast<int64_t>(x.size() + scale.size() + zero_point.size() + 1);
    return y;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    return masks_backward(ctx, grads, static_cast<size_t>(ctx->saved_data["inputs"].toInt()));
  }
};

Tensors fake_quantize_many(at::TensorList x, at::TensorList scale, at::TensorList zero_point, int64_t qmin,
                           int64_t qmax, OptionalInts axis, OptionalInts block_size, OptionalDoubles grad_scale,
                           bool trained) {
  const ManyOptions options{qmin,
                            qmax,
                            false,
                            std::nullopt,
                            copied(axis),
                            copied(block_size),
                            grad_scale.has_value() ? Doubles(grad_scale->vec()) : std::nullopt,
                            trained};
  if (!any_wants_grad_of({x, scale, zero_point})) return call_affine(x, scale, zero_point, options);
  return any_wants_grad_of({scale, zero_point}) ? LearnedAffines::apply(x, scale, zero_point, options)
                                                : FixedAffines::apply(x, scale, zero_point, options);
}

// --- min, max
// ---------------------------------------------------------------------------------------------------------

using Range = Tensors(at::TensorList, at::TensorList, at::TensorList, int64_t, int64_t, bool, OptionalInt, OptionalInts,
                      OptionalInts);
using RangeMask = std::tuple<Tensors, Tensors>(at::TensorList, at::TensorList, at::TensorList, int64_t, int64_t, bool,
                                               OptionalInt, OptionalInts, OptionalInts);
using RangeBackward = std::tuple<Tensors, Tensors, Tensors>(at::TensorList, at::TensorList, at::TensorList,
                                                            at::TensorList, int64_t, int64_t, bool, OptionalInt,
                                                            OptionalInts, OptionalInts);

Tensors call_range(at::TensorList x, at::TensorList min, at::TensorList max, const ManyOptions &options) {
  static const auto op = operator_of<Range>("detent::fake_quantize_range_many");
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(x, min, max, options.qmin, options.qmax, options.symmetric, options.zero_point, options.axes(),
                 options.blocks());
}

struct LearnedRanges : torch::autograd::Function<LearnedRanges> {
  static variable_list forward(AutogradContext *ctx, at::TensorList x, at::TensorList min, at::TensorList max,
                               const ManyOptions &options) {
    ctx->save_for_backward(joined({x, min, max}));
    ctx->set_materialize_grads(false);
    options.save(ctx);
    return call_range(x, min, max, options);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    static const auto op = operator_of<RangeBackward>("detent::fake_quantize_range_many_backward");
    const auto saved = ctx->get_saved_variables();
    const size_t count = saved.size() / 3;
    const auto options = ManyOptions::of(ctx);
    const Tensors x = part_of(saved, 0, count);
    const auto [grad_x, grad_min, grad_max] =
        op.call(whole(grads, x), x, part_of(saved, count, count), part_of(saved, 2 * count, count), options.qmin,
                options.qmax, options.symmetric, options.zero_point, options.axes(), options.blocks());
    variable_list all = joined({grad_x, grad_min, grad_max});
    all.emplace_back();
    return all;
  }
};

struct FixedRanges : torch::autograd::Function<FixedRanges> {
  static variable_list forward(AutogradContext *ctx, at::TensorList x, at::TensorList min, at::TensorList max,
                               const ManyOptions &options) {
    static const auto op = operator_of<RangeMask>("detent::fake_quantize_range_many_mask");
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, mask] = op.call(x, min, max, options.qmin, options.qmax, options.symmetric, options.zero_point,
                             options.axes(), options.blocks());
    save_masks(ctx, y, mask, options);
    return y;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    return masks_backward(ctx, grads, 3 * grads.size() + 1);
  }
};

ManyOptions range_options(int64_t qmin, int64_t qmax, bool symmetric, OptionalInt zero_point, OptionalInts axis,
                          OptionalInts block_size) {
  return {qmin, qmax, symmetric, zero_point, copied(axis), copied(block_size), {}};
}

Tensors fake_quantize_range_many(at::TensorList x, at::TensorList min, at::TensorList max, int64_t qmin, int64_t qmax,
                                 bool symmetric, OptionalInt zero_point, OptionalInts axis, OptionalInts block_size) {
  const ManyOptions options = range_options(qmin, qmax, symmetric, zero_point, axis, block_size);
  if (!any_wants_grad_of({x, min, max})) return call_range(x, min, max, options);
  return any_wants_grad_of({min, max}) ? LearnedRanges::apply(x, min, max, options)
                                       : FixedRanges::apply(x, min, max, options);
}

// --- ranges derived from the tensors; no gradient goes through them
// ---------------------------------------------------

using Dynamic = std::tuple<Tensors, Tensors, Tensors>(at::TensorList, at::TensorList, int64_t, int64_t, bool,
                                                      OptionalInts, OptionalInts, OptionalInt);
using DynamicMask = std::tuple<Tensors, Tensors, Tensors, Tensors>(at::TensorList, at::TensorList, int64_t, int64_t,
                                                                   bool, OptionalInts, OptionalInts, OptionalInt);

struct DynamicRanges : torch::autograd::Function<DynamicRanges> {
  static variable_list forward(AutogradContext *ctx, at::TensorList x, at::TensorList clip,
                               const ManyOptions &options) {
    static const auto op = operator_of<DynamicMask>("detent::fake_quantize_dynamic_many_mask");
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, min, max, mask] = op.call(x, clip, options.qmin, options.qmax, options.symmetric, options.axes(),
                                       options.blocks(), options.zero_point);
    save_masks(ctx, y, mask, options);
    ctx->saved_data["inputs"] = static_cast<int64_t>(x.size() + clip.size() + 1);
    ctx->mark_non_differentiable(joined({min, max}));
    return joined({y, min, max});
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    return masks_backward(ctx, grads, static_cast<size_t>(ctx->saved_data["inputs"].toInt()));
  }
};

std::tuple<Tensors, Tensors, Tensors> fake_quantize_dynamic_many(at::TensorList x, at::TensorList clip, int64_t qmin,
                                                                 int64_t qmax, bool symmetric, OptionalInts axis,
                                                                 OptionalInts block_size, OptionalInt zero_point) {
  if (!any_wants_grad_of({x})) {
    static const auto op = operator_of<Dynamic>("detent::fake_quantize_dynamic_many");
    at::AutoDispatchBelowADInplaceOrView below;
    return op.call(x, clip, qmin, qmax, symmetric, axis, block_size, zero_point);
  }
  const auto out = DynamicRanges::apply(x, clip, range_options(qmin, qmax, symmetric, zero_point, axis, block_size));
  const size_t count = x.size();
  return {part_of(out, 0, count), part_of(out, count, count), part_of(out, 2 * count, count)};
}

TORCH_LIBRARY_IMPL(detent, Autograd, m) {
  m.impl("fake_quantize_many", fake_quantize_many);
  m.impl("fake_quantize_range_many", fake_quantize_range_many);
  m.impl("fake_quantize_dynamic_many", fake_quantize_dynamic_many);
}

}  // namespace
}  // namespace detent_autograd::many
