#include "function.h"

namespace detent_autograd {
namespace {

using ToBlocks = Tensor(const Tensor &, int64_t, int64_t, double, int64_t, int64_t, const OptionalTensor &);
using ToBlocksMask = std::tuple<Tensor, Tensor>(const Tensor &, int64_t, int64_t, double, int64_t, int64_t,
                                                const OptionalTensor &);

// Straight through within reach of the block's scale: backward needs one bit per element. Scales do not learn.
struct BlockCast : torch::autograd::Function<BlockCast> {
  static Tensor forward(AutogradContext *ctx, const Tensor &x, int64_t mantissa_bits, int64_t min_exponent, double max,
                        int64_t axis, int64_t block_size, const OptionalTensor &tensor_scale) {
    static const auto op =
        c10::Dispatcher::singleton().findSchemaOrThrow("detent::block_cast_mask", "").typed<ToBlocksMask>();
    at::AutoDispatchBelowADInplaceOrView below;
    auto [y, mask] = op.call(x, mantissa_bits, min_exponent, max, axis, block_size, tensor_scale);
    save_mask(ctx, y, mask, Options());
    return y;
  }
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    return {mask_backward(ctx, grads[0]), Tensor(), Tensor(), Tensor(), Tensor(), Tensor(), Tensor()};
  }
};

Tensor block_cast(const Tensor &x, int64_t mantissa_bits, int64_t min_exponent, double max, int64_t axis,
                  int64_t block_size, const OptionalTensor &tensor_scale) {
  if (any_wants_grad(x)) return BlockCast::apply(x, mantissa_bits, min_exponent, max, axis, block_size, tensor_scale);
  static const auto op = c10::Dispatcher::singleton().findSchemaOrThrow("detent::block_cast", "").typed<ToBlocks>();
  at::AutoDispatchBelowADInplaceOrView below;
  return op.call(x, mantissa_bits, min_exponent, max, axis, block_size, tensor_scale);
}

TORCH_LIBRARY_IMPL(detent, Autograd, m) { m.impl("block_cast", block_cast); }

}  // namespace
}  // namespace detent_autograd
