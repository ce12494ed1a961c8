// Operators whose results have no derivative here: backward through them raises and says so, instead of giving zeros.
#include "function.h"

namespace detent_autograd {
namespace {

// Those of an argument or a result: one, several of a list, or none.
variable_list tensors_of(const c10::IValue &value) {
  if (value.isTensorList()) return value.toTensorVector();
  if (value.isTensor() && value.toTensor().defined()) return {value.toTensor()};
  return {};
}

// Runs the operator on the stack inside a node whose backward is the message. `inputs` only ties the node to the graph;
// it must be a TensorList, the one list whose tensors apply() looks at.
struct Barrier : torch::autograd::Function<Barrier> {
  static variable_list forward(AutogradContext *ctx, at::TensorList /*inputs*/, const c10::OperatorHandle *op,
                               torch::jit::Stack *stack) {
    ctx->saved_data["op"] = op->schema().name();
    at::AutoDispatchBelowADInplaceOrView below;
    op->callBoxed(stack);
    variable_list results;
    for (const auto &result : torch::jit::last(*stack, op->schema().returns().size()))
      for (const Tensor &tensor : tensors_of(result)) results.push_back(tensor);
    return results;
  }
  static variable_list backward(AutogradContext *ctx, const variable_list &) {
    TORCH_CHECK(
        false, ctx->saved_data["op"].toStringRef(),
        " is not differentiable: the gradient of a fake-quantized value's gradient is not defined. Call backward() "
        "without create_graph=True, or detach the result.");
  }
};

void not_differentiable(const c10::OperatorHandle &op, c10::DispatchKeySet, torch::jit::Stack *stack) {
  variable_list inputs;
  if (at::GradMode::is_enabled())
    for (const auto &argument : torch::jit::last(*stack, op.schema().arguments().size()))
      for (const Tensor &tensor : tensors_of(argument))
        if (tensor.requires_grad()) inputs.push_back(tensor);
  if (inputs.empty()) {
    at::AutoDispatchBelowADInplaceOrView below;
    op.callBoxed(stack);
    return;
  }
  const auto results = Barrier::apply(at::TensorList(inputs), &op, stack);
  const size_t returns = op.schema().returns().size();
  for (size_t i = 0, next = 0; i < returns; ++i) {
    c10::IValue &result = torch::jit::peek(*stack, i, returns);
    const size_t count = tensors_of(result).size();
    if (result.isTensorList()) result = variable_list(results.begin() + next, results.begin() + next + count);
    else result = results[next];
    next += count;
  }
}

TORCH_LIBRARY_IMPL(detent, Autograd, m) {
  for (const char *name : {"fake_quantize_backward",
                           "fake_quantize_range_backward",
                           "fake_quantize_mask_backward",
                           "fake_quantize_mask",
                           "fake_quantize_range_mask",
                           "fake_quantize_sum",
                           "fake_quantize_range_sum",
                           "fake_quantize_dynamic_mask",
                           "fake_quantize_many_mask",
                           "fake_quantize_many_backward",
                           "fake_quantize_range_many_mask",
                           "fake_quantize_range_many_backward",
                           "fake_quantize_dynamic_many_mask",
                           "fake_quantize_mask_many_backward",
                           "float_cast_mask",
                           "quantize_backward",
                           "dequantize_backward",
                           "encode_min_max",
                           "encode_affine",
                           "observe_min_max",
                           "encode_percentile",
                           "encode_sqnr",
                           "encode_mse",
                           "encode_entropy"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&not_differentiable>());
}

}  // namespace
}  // namespace detent_autograd
