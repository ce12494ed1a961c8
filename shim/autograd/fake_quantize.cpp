#include "function.h"

namespace detent_autograd {
namespace {

// --- scale, zero_point
// ------------------------------------------------------------------------------------------------

using Affine = Tensor(const Tensor &, const Tensor &, const OptionalTensor &, int64_t, int64_t, OptionalInt,
                      OptionalInts, double, OptionalDouble, OptionalDouble, bool, const OptionalTensor &);
using AffineMask = std::tuple<Tensor, Tensor>(const Tensor &, const Tensor &, const OptionalTensor &, int64_t, int64_t,
                                              OptionalInt, OptionalInts, OptionalDouble, OptionalDouble, bool,
                                              const OptionalTensor &);
using AffineSum = std::tuple<Tensor, Tensor>(const Tensor &, const Tensor &, const Tensor &, const OptionalTensor &,
                                             int64_t, int64_t, OptionalInt, OptionalInts, OptionalDouble,
                                             OptionalDouble, bool);
using AffineBackward = std::tuple<Tensor, Tensor, Tensor>(const Tensor &, const Tensor &, const Tensor &,
                                                          const OptionalTensor &, int64_t, int64_t, OptionalInt,
                                                          OptionalInts, double, OptionalDouble, OptionalDouble, bool);

Tensor call_affine(const Tensor &x, const Tensor &scale, const OptionalTensor &zero_point, int64_t qmin, int64_t qmax,
                   OptionalInt axis, OptionalInts block_size, double grad_scale, OptionalDouble activation_min,
                   OptionalDouble activation_max, bool trained, const OptionalTensor &residual) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("detent::fake_quantize", "").typed<Affine>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(x, scale, zero_point, qmin, qmax, axis, block_size, grad_scale, activation_min, activation_max,
                 trained, residual);
}

// The range learns: backward needs x, or the sum.
struct LearnedAffine : torch::autograd::Function<LearnedAffine> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &scale, const OptionalTensor &zero_point,
                        const OptionalTensor &residual, const Options &options) {
    static const auto op_of_sum =
        c10::Dispatcher::singleton().findSchemaOrThrow("detent::fake_quantize_sum", "").typed<AffineSum>();
    options.save(ctx);
    note_residual(ctx, residual);
    Tensor y, of = x;
    if (residual.has_value()) {
      at::AutoDispatchBelowADInplaceOrView below;
      std::tie(y, of) =
          op_of_sum.call(x, *residual, scale, zero_point, options.qmin, options.qmax, options.axis, options.blocks(),
                         options.activation_min, options.activation_max, options.trained);
    } else {
      y = call_affine(x, scale, zero_point, options.qmin, options.qmax, options.axis, options.blocks(),
                      options.grad_scale, options.activation_min, options.activation_max, options.trained, residual);
    }
    ctx->save_for_backward({of, scale, zero_point.value_or(Tensor())});
    return y;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("detent::fake_quantize_backward", "").typed<AffineBackward>();
    const auto saved = ctx->get_saved_variables();
    const auto options = Options::of(ctx);
    const OptionalTensor zero_point = saved[2].defined() ? OptionalTensor(saved[2]) : std::nullopt;
    auto [grad_x, grad_scale, grad_zero_point] =
        op.call(grads[0], saved[0], saved[1], zero_point, options.qmin, options.qmax, options.axis, options.blocks(),
                options.grad_scale, options.activation_min, options.activation_max, options.trained);
    return {grad_x, grad_scale, zero_point.has_value() ? grad_zero_point : Tensor(), grad_of_residual(ctx, grad_x),
            Tensor()};
  }
};

// The range is fixed: backward needs one bit per element.
struct FixedAffine : torch::autograd::Function<FixedAffine> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &scale, const OptionalTensor &zero_point,
                        const OptionalTensor &residual, const Options &options) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("detent::fake_quantize_mask", "").typed<AffineMask>();
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, mask] = op.call(x, scale, zero_point, options.qmin, options.qmax, options.axis, options.blocks(),
                             options.activation_min, options.activation_max, options.trained, residual);
    save_mask(ctx, y, mask, options);
    note_residual(ctx, residual);
    return y;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const Tensor grad_x = mask_backward(ctx, grads[0]);
    return {grad_x, Tensor(), Tensor(), grad_of_residual(ctx, grad_x), Tensor()};
  }
};

Tensor fake_quantize(const Tensor &x, const Tensor &scale, const OptionalTensor &zero_point, int64_t qmin, int64_t qmax,
                     OptionalInt axis, OptionalInts block_size, double grad_scale, OptionalDouble activation_min,
                     OptionalDouble activation_max, bool trained, const OptionalTensor &residual) {
  if (!any_wants_grad(x, scale, zero_point, residual))
    return call_affine(x, scale, zero_point, qmin, qmax, axis, block_size, grad_scale, activation_min, activation_max,
                       trained, residual);
  Options options;
  options.qmin = qmin;
  options.qmax = qmax;
  options.axis = axis;
  options.block_size = copied(block_size);
  options.grad_scale = grad_scale;
  options.activation_min = activation_min;
  options.activation_max = activation_max;
  options.trained = trained;
  return any_wants_grad(scale, zero_point) ? LearnedAffine::apply(x, scale, zero_point, residual, options)
                                           : FixedAffine::apply(x, scale, zero_point, residual, options);
}

// --- min, max
// ---------------------------------------------------------------------------------------------------------

using Range = Tensor(const Tensor &, const Tensor &, const Tensor &, int64_t, int64_t, bool, OptionalInt, OptionalInt,
                     OptionalInts, OptionalDouble, OptionalDouble, const OptionalTensor &);
using RangeMask = std::tuple<Tensor, Tensor>(const Tensor &, const Tensor &, const Tensor &, int64_t, int64_t, bool,
                                             OptionalInt, OptionalInt, OptionalInts, OptionalDouble, OptionalDouble,
                                             const OptionalTensor &);
using RangeSum = std::tuple<Tensor, Tensor>(const Tensor &, const Tensor &, const Tensor &, const Tensor &, int64_t,
                                            int64_t, bool, OptionalInt, OptionalInt, OptionalInts, OptionalDouble,
                                            OptionalDouble);
using RangeBackward = std::tuple<Tensor, Tensor, Tensor>(const Tensor &, const Tensor &, const Tensor &, const Tensor &,
                                                         int64_t, int64_t, bool, OptionalInt, OptionalInt, OptionalInts,
                                                         OptionalDouble, OptionalDouble);

Tensor call_range(const Tensor &x, const Tensor &min, const Tensor &max, const Options &options,
                  const OptionalTensor &residual) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("detent::fake_quantize_range", "").typed<Range>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(x, min, max, options.qmin, options.qmax, options.symmetric, options.zero_point, options.axis,
                 options.blocks(), options.activation_min, options.activation_max, residual);
}

struct LearnedRange : torch::autograd::Function<LearnedRange> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &min, const Tensor &max,
                        const OptionalTensor &residual, const Options &options) {
    static const auto op_of_sum =
        c10::Dispatcher::singleton().findSchemaOrThrow("detent::fake_quantize_range_sum", "").typed<RangeSum>();
    options.save(ctx);
    note_residual(ctx, residual);
    Tensor y, of = x;
    if (residual.has_value()) {
      at::AutoDispatchBelowADInplaceOrView below;
      std::tie(y, of) =
          op_of_sum.call(x, *residual, min, max, options.qmin, options.qmax, options.symmetric, options.zero_point,
                         options.axis, options.blocks(), options.activation_min, options.activation_max);
    } else {
      y = call_range(x, min, max, options, residual);
    }
    ctx->save_for_backward({of, min, max});
    return y;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    static const auto op = c10::Dispatcher::singleton()
                               .findSchemaOrThrow("detent::fake_quantize_range_backward", "")
                               .typed<RangeBackward>();
    const auto saved = ctx->get_saved_variables();
    const auto options = Options::of(ctx);
    auto [grad_x, grad_min, grad_max] =
        op.call(grads[0], saved[0], saved[1], saved[2], options.qmin, options.qmax, options.symmetric,
                options.zero_point, options.axis, options.blocks(), options.activation_min, options.activation_max);
    return {grad_x, grad_min, grad_max, grad_of_residual(ctx, grad_x), Tensor()};
  }
};

struct FixedRange : torch::autograd::Function<FixedRange> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &min, const Tensor &max,
                        const OptionalTensor &residual, const Options &options) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("detent::fake_quantize_range_mask", "").typed<RangeMask>();
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, mask] = op.call(x, min, max, options.qmin, options.qmax, options.symmetric, options.zero_point,
                             options.axis, options.blocks(), options.activation_min, options.activation_max, residual);
    save_mask(ctx, y, mask, options);
    note_residual(ctx, residual);
    return y;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    const Tensor grad_x = mask_backward(ctx, grads[0]);
    return {grad_x, Tensor(), Tensor(), grad_of_residual(ctx, grad_x), Tensor()};
  }
};

Options range_options(int64_t qmin, int64_t qmax, bool symmetric, OptionalInt zero_point, OptionalInt axis,
                      OptionalInts block_size) {
  Options options;
  options.qmin = qmin;
  options.qmax = qmax;
  options.symmetric = symmetric;
  options.zero_point = zero_point;
  options.axis = axis;
  options.block_size = copied(block_size);
  return options;
}

Tensor fake_quantize_range(const Tensor &x, const Tensor &min, const Tensor &max, int64_t qmin, int64_t qmax,
                           bool symmetric, OptionalInt zero_point, OptionalInt axis, OptionalInts block_size,
                           OptionalDouble activation_min, OptionalDouble activation_max,
                           const OptionalTensor &residual) {
  auto options = range_options(qmin, qmax, symmetric, zero_point, axis, block_size);
  options.activation_min = activation_min;
  options.activation_max = activation_max;
  if (!any_wants_grad(x, min, max, residual)) return call_range(x, min, max, options, residual);
  return any_wants_grad(min, max) ? LearnedRange::apply(x, min, max, residual, options)
                                  : FixedRange::apply(x, min, max, residual, options);
}

// --- a range derived from the tensor; no gradient goes through it
// -----------------------------------------------------

using Dynamic = std::tuple<Tensor, Tensor, Tensor>(const Tensor &, const OptionalTensor &, int64_t, int64_t, bool,
                                                   OptionalInt, OptionalInts, OptionalInt);
using DynamicMask = std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor &, const OptionalTensor &, int64_t, int64_t,
                                                               bool, OptionalInt, OptionalInts, OptionalInt);

struct DynamicRange : torch::autograd::Function<DynamicRange> {
  static variable_list forward(AutogradContext *ctx, const Tensor &x, const OptionalTensor &clip,
                               const Options &options) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("detent::fake_quantize_dynamic_mask", "").typed<DynamicMask>();
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, min, max, mask] = op.call(x, clip, options.qmin, options.qmax, options.symmetric, options.axis,
                                       options.blocks(), options.zero_point);
    save_mask(ctx, y, mask, options);
    ctx->mark_non_differentiable({min, max});
    ctx->set_materialize_grads(false);  // nobody wants zeros for min and max
    return {y, min, max};
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    return {grads[0].defined() ? mask_backward(ctx, grads[0]) : Tensor(), Tensor(), Tensor()};
  }
};

std::tuple<Tensor, Tensor, Tensor> fake_quantize_dynamic(const Tensor &x, const OptionalTensor &clip, int64_t qmin,
                                                         int64_t qmax, bool symmetric, OptionalInt axis,
                                                         OptionalInts block_size, OptionalInt zero_point) {
  if (!any_wants_grad(x)) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("detent::fake_quantize_dynamic", "").typed<Dynamic>();
    at::AutoDispatchBelowADInplaceOrView below;
    return op.call(x, clip, qmin, qmax, symmetric, axis, block_size, zero_point);
  }
  const auto out = DynamicRange::apply(x, clip, range_options(qmin, qmax, symmetric, zero_point, axis, block_size));
  return {out[0], out[1], out[2]};
}

TORCH_LIBRARY_IMPL(detent, Autograd, m) {
  m.impl("fake_quantize", fake_quantize);
  m.impl("fake_quantize_range", fake_quantize_range);
  m.impl("fake_quantize_dynamic", fake_quantize_dynamic);
}

}  // namespace
}  // namespace detent_autograd
