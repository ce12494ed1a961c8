#include "function.h"

namespace detent_autograd {
namespace {

using Cast = Tensor(const Tensor &, const Tensor &, int64_t, int64_t, double, OptionalInt, OptionalInts);
using CastMask = std::tuple<Tensor, Tensor>(const Tensor &, const Tensor &, int64_t, int64_t, double, OptionalInt,
                                            OptionalInts);

// Straight through within the format's range: backward needs one bit per element. The scale does not learn.
struct FloatCast : torch::autograd::Function<FloatCast> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x, const Tensor &scale, int64_t mantissa_bits,
                        int64_t min_exponent, double max, const Options &options) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("detent::float_cast_mask", "").typed<CastMask>();
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, mask] = op.call(x, scale, mantissa_bits, min_exponent, max, options.axis, options.blocks());
    save_mask(ctx, y, mask, options);
    return y;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    return {mask_backward(ctx, grads[0]), Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor float_cast(const Tensor &x, const Tensor &scale, int64_t mantissa_bits, int64_t min_exponent, double max,
                  OptionalInt axis, OptionalInts block_size) {
  if (!any_wants_grad(x)) {
    static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("detent::float_cast", "").typed<Cast>();
    at::AutoDispatchBelowADInplaceOrView below;
    return op.call(x, scale, mantissa_bits, min_exponent, max, axis, block_size);
  }
  Options options;
  options.axis = axis;
  options.block_size = copied(block_size);
  return FloatCast::apply(x, scale, mantissa_bits, min_exponent, max, options);
}

TORCH_LIBRARY_IMPL(detent, Autograd, m) { m.impl("float_cast", float_cast); }

}  // namespace
}  // namespace detent_autograd
