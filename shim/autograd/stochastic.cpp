#include "function.h"

namespace detent_autograd {
namespace {

using Stochastic = Tensor(const Tensor &, const Tensor &, const OptionalTensor &, const Tensor &, int64_t, int64_t,
                          OptionalInt, OptionalInts);
using NearestBackward = std::tuple<Tensor, Tensor, Tensor>(const Tensor &, const Tensor &, const Tensor &,
                                                           const OptionalTensor &, int64_t, int64_t, OptionalInt,
                                                           OptionalInts, double, OptionalDouble, OptionalDouble, bool);

Tensor call_stochastic(const Tensor &x, const Tensor &scale, const OptionalTensor &zero_point, const Tensor &random,
                       int64_t qmin, int64_t qmax, OptionalInt axis, OptionalInts block_size) {
  static const auto op =
      c10::Dispatcher::singleton().findSchemaOrThrow("detent::fake_quantize_stochastic", "").typed<Stochastic>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(x, scale, zero_point, random, qmin, qmax, axis, block_size);
}

// The gradient is that of rounding to nearest, so the numbers drawn are not kept.
struct StochasticRounding : torch::autograd::Function<StochasticRounding> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &scale, const OptionalTensor &zero_point,
                        const Tensor &random, const Options &options) {
    ctx->save_for_backward({x, scale, zero_point.value_or(Tensor())});
    options.save(ctx);
    return call_stochastic(x, scale, zero_point, random, options.qmin, options.qmax, options.axis, options.blocks());
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("detent::fake_quantize_backward", "").typed<NearestBackward>();
    const auto saved = ctx->get_saved_variables();
    const auto options = Options::of(ctx);
    const OptionalTensor zero_point = saved[2].defined() ? OptionalTensor(saved[2]) : std::nullopt;
    auto [grad_x, grad_scale, grad_zero_point] =
        op.call(grads[0], saved[0], saved[1], zero_point, options.qmin, options.qmax, options.axis, options.blocks(),
                options.grad_scale, std::nullopt, std::nullopt, false);
    return {grad_x, grad_scale, zero_point.has_value() ? grad_zero_point : Tensor(), Tensor(), Tensor()};
  }
};

Tensor fake_quantize_stochastic(const Tensor &x, const Tensor &scale, const OptionalTensor &zero_point,
                                const Tensor &random, int64_t qmin, int64_t qmax, OptionalInt axis,
                                OptionalInts block_size) {
  if (!any_wants_grad(x, scale, zero_point))
    return call_stochastic(x, scale, zero_point, random, qmin, qmax, axis, block_size);
  Options options;
  options.qmin = qmin;
  options.qmax = qmax;
  options.axis = axis;
  options.block_size = copied(block_size);
  return StochasticRounding::apply(x, scale, zero_point, random, options);
}

TORCH_LIBRARY_IMPL(detent, Autograd, m) { m.impl("fake_quantize_stochastic", fake_quantize_stochastic); }

}  // namespace
}  // namespace detent_autograd
