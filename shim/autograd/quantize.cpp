#include "function.h"

namespace detent_autograd {
namespace {

using OptionalType = std::optional<at::ScalarType>;
using Quantize = Tensor(const Tensor &, const Tensor &, const OptionalTensor &, int64_t, int64_t, OptionalType,
                        OptionalInt, OptionalInts, bool);
using QuantizeBackward = std::tuple<Tensor, Tensor, Tensor>(const Tensor &, const Tensor &, const Tensor &,
                                                            const OptionalTensor &, int64_t, int64_t, OptionalInt,
                                                            OptionalInts);
using Dequantize = Tensor(const Tensor &, const Tensor &, const OptionalTensor &, OptionalType, OptionalInt,
                          OptionalInts, bool);
using DequantizeBackward = std::tuple<Tensor, Tensor, Tensor>(const Tensor &, const Tensor &, const Tensor &,
                                                              const OptionalTensor &, OptionalInt, OptionalInts, bool);

OptionalTensor optional_of(const Tensor &t) { return t.defined() ? OptionalTensor(t) : std::nullopt; }

Tensor call_quantize(const Tensor &x, const Tensor &scale, const OptionalTensor &zero_point, int64_t qmin, int64_t qmax,
                     OptionalType dtype, OptionalInt axis, OptionalInts block_size, bool packed) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("detent::quantize", "").typed<Quantize>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(x, scale, zero_point, qmin, qmax, dtype, axis, block_size, packed);
}

struct FloatCodes : torch::autograd::Function<FloatCodes> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &scale, const OptionalTensor &zero_point,
                        const Options &options) {
    ctx->save_for_backward({x, scale, zero_point.value_or(Tensor())});
    options.save(ctx);
    return call_quantize(x, scale, zero_point, options.qmin, options.qmax, std::nullopt, options.axis, options.blocks(),
                         false);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("detent::quantize_backward", "").typed<QuantizeBackward>();
    const auto saved = ctx->get_saved_variables();
    const auto options = Options::of(ctx);
    auto [grad_x, grad_scale, grad_zero_point] = op.call(grads[0], saved[0], saved[1], optional_of(saved[2]),
                                                         options.qmin, options.qmax, options.axis, options.blocks());
    return {grad_x, grad_scale, saved[2].defined() ? grad_zero_point : Tensor(), Tensor()};
  }
};

// Integer codes carry no gradient; codes held as floats do.
Tensor quantize(const Tensor &x, const Tensor &scale, const OptionalTensor &zero_point, int64_t qmin, int64_t qmax,
                OptionalType dtype, OptionalInt axis, OptionalInts block_size, bool packed) {
  const bool floats = !packed && (!dtype.has_value() || *dtype == x.scalar_type());
  if (!floats || !any_wants_grad(x, scale, zero_point))
    return call_quantize(x, scale, zero_point, qmin, qmax, dtype, axis, block_size, packed);
  Options options;
  options.qmin = qmin;
  options.qmax = qmax;
  options.axis = axis;
  options.block_size = copied(block_size);
  return FloatCodes::apply(x, scale, zero_point, options);
}

Tensor call_dequantize(const Tensor &q, const Tensor &scale, const OptionalTensor &zero_point, OptionalType dtype,
                       OptionalInt axis, OptionalInts block_size, bool packed) {
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("detent::dequantize", "").typed<Dequantize>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(q, scale, zero_point, dtype, axis, block_size, packed);
}

struct Values : torch::autograd::Function<Values> {
  static Tensor forward(AutogradContext *ctx, const Tensor &q, const Tensor &scale, const OptionalTensor &zero_point,
                        OptionalType dtype, bool packed, const Options &options) {
    ctx->save_for_backward({q, scale, zero_point.value_or(Tensor())});
    options.save(ctx);
    ctx->saved_data["p"] = packed;
    return call_dequantize(q, scale, zero_point, dtype, options.axis, options.blocks(), packed);
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("detent::dequantize_backward", "").typed<DequantizeBackward>();
    const auto saved = ctx->get_saved_variables();
    const auto options = Options::of(ctx);
    auto [grad_q, grad_scale, grad_zero_point] = op.call(grads[0], saved[0], saved[1], optional_of(saved[2]),
                                                         options.axis, options.blocks(), ctx->saved_data["p"].toBool());
    return {saved[0].is_floating_point() ? grad_q : Tensor(),
            grad_scale,
            saved[2].defined() ? grad_zero_point : Tensor(),
            Tensor(),
            Tensor(),
            Tensor()};
  }
};

Tensor dequantize(const Tensor &q, const Tensor &scale, const OptionalTensor &zero_point, OptionalType dtype,
                  OptionalInt axis, OptionalInts block_size, bool packed) {
  if (!any_wants_grad(q, scale, zero_point))
    return call_dequantize(q, scale, zero_point, dtype, axis, block_size, packed);
  Options options;
  options.axis = axis;
  options.block_size = copied(block_size);
  return Values::apply(q, scale, zero_point, dtype, packed, options);
}

TORCH_LIBRARY_IMPL(detent, Autograd, m) {
  m.impl("quantize", quantize);
  m.impl("dequantize", dequantize);
}

}  // namespace
}  // namespace detent_autograd
