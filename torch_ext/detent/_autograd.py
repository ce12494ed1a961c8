"""Gradients registered from Python: the fallback for a torch that libdetent_autograd was not built with.

The same backward operators as the C++ path, so the same bits. It always keeps x where C++ keeps one bit per element for
a fixed range, and costs about 60 us more per call.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ._layout import memory_order

_ops = torch.ops.detent


def _keep(ctx, tensors: tuple[Tensor | None, ...], *plain) -> None:
    ctx.save_for_backward(*tensors)
    ctx.plain = plain


def _present(grad: Tensor, of: Tensor | None) -> Tensor | None:
    return None if of is None else grad


def _sum(x: Tensor, residual: Tensor | None) -> Tensor:
    """What backward takes for x: one tensor in place of two."""
    return x if residual is None else x + residual


def _affine_setup(ctx, inputs, output) -> None:
    x, scale, zero_point, *plain, residual = inputs
    _keep(ctx, (_sum(x, residual), scale, zero_point), *plain)
    ctx.residual = residual is not None


def _affine_backward(ctx, grad_y):
    x, scale, zero_point = ctx.saved_tensors
    grad_x, grad_scale, grad_zero_point = _ops.fake_quantize_backward(grad_y, x, scale, zero_point, *ctx.plain)
    grad_zero_point = _present(grad_zero_point, zero_point)
    return grad_x, grad_scale, grad_zero_point, *[None] * len(ctx.plain), grad_x if ctx.residual else None


def _stochastic_setup(ctx, inputs, output) -> None:
    x, scale, zero_point, _, *plain = inputs
    _keep(ctx, (x, scale, zero_point), *plain)


def _stochastic_backward(ctx, grad_y):
    x, scale, zero_point = ctx.saved_tensors
    grad_x, grad_scale, grad_zero_point = _ops.fake_quantize_backward(grad_y, x, scale, zero_point, *ctx.plain)
    return grad_x, grad_scale, _present(grad_zero_point, zero_point), *[None] * (1 + len(ctx.plain))


def _range_setup(ctx, inputs, output) -> None:
    x, min, max, *plain, residual = inputs
    _keep(ctx, (_sum(x, residual), min, max), *plain)
    ctx.residual = residual is not None


def _range_backward(ctx, grad_y):
    grad_x, *grads = _ops.fake_quantize_range_backward(grad_y, *ctx.saved_tensors, *ctx.plain)
    return grad_x, *grads, *[None] * len(ctx.plain), grad_x if ctx.residual else None


def _dynamic_setup(ctx, inputs, output) -> None:
    x, _, qmin, qmax, symmetric, axis, block_size, zero_point = inputs
    _, min, max = output
    ctx.mark_non_differentiable(min, max)
    ctx.set_materialize_grads(False)
    _keep(ctx, (x, min, max), qmin, qmax, symmetric, zero_point, axis, block_size)


def _dynamic_backward(ctx, grad_y, *_):
    if grad_y is None:
        return (None,) * 8
    return _ops.fake_quantize_range_backward(grad_y, *ctx.saved_tensors, *ctx.plain)[0], *[None] * 7


def _many_setup(ctx, inputs, output) -> None:
    x, first, second, *plain = inputs
    _keep(ctx, (*x, *first, *second), len(x), *plain)


def _zeros_of(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(x) if grad is None else grad for grad, x in zip(grads, like)]


def _many_backward(op):
    def backward(ctx, grad_y):
        count, *plain = ctx.plain
        saved = ctx.saved_tensors
        x, first, second = saved[:count], saved[count : 2 * count], saved[2 * count :]
        return _as_given(ctx, *op(_zeros_of(grad_y, x), x, first, second, *plain))

    return backward


def _as_given(ctx, *grads: list[Tensor | None]) -> tuple:
    """With lists, torch wants a gradient for each argument that the call gave, and none for those it left out."""
    return *grads, *[None] * (len(ctx.needs_input_grad) - len(grads))


def _dynamic_many_setup(ctx, inputs, output) -> None:
    x, clip, qmin, qmax, symmetric, axis, block_size, zero_point = inputs
    _, min, max = output
    ctx.mark_non_differentiable(*min, *max)
    _keep(ctx, (*x, *min, *max), len(x), len(clip), qmin, qmax, symmetric, zero_point, axis, block_size)


def _dynamic_many_backward(ctx, grad_y, *_):
    count, clips, *plain = ctx.plain
    saved = ctx.saved_tensors
    x, min, max = saved[:count], saved[count : 2 * count], saved[2 * count :]
    grad_x, _, _ = _ops.fake_quantize_range_many_backward(_zeros_of(grad_y, x), x, min, max, *plain)
    return _as_given(ctx, grad_x, [None] * clips)


def _float_cast_setup(ctx, inputs, output) -> None:
    x, scale, *plain = inputs
    _keep(ctx, (x, scale), *plain)


def _by_mask(grad_y: Tensor, mask: Tensor, x: Tensor, block_size: list[int] | None) -> Tensor:
    return _ops.fake_quantize_mask_backward(grad_y, mask, memory_order(torch.empty_like(x)), block_size)


def _float_cast_backward(ctx, grad_y):
    x, scale = ctx.saved_tensors
    _, mask = _ops.float_cast_mask(x, scale, *ctx.plain)
    return _by_mask(grad_y, mask, x, ctx.plain[-1]), *[None] * (1 + len(ctx.plain))


def _block_cast_setup(ctx, inputs, output) -> None:
    x, *plain, tensor_scale = inputs
    _keep(ctx, (x, tensor_scale), *plain)


def _block_cast_backward(ctx, grad_y):
    x, tensor_scale = ctx.saved_tensors
    _, mask = _ops.block_cast_mask(x, *ctx.plain, tensor_scale)
    return _by_mask(grad_y, mask, x, None), *[None] * (1 + len(ctx.plain))


def _quantize_setup(ctx, inputs, output) -> None:
    x, scale, zero_point, qmin, qmax, _, axis, block_size, _ = inputs
    if not output.is_floating_point():
        ctx.mark_non_differentiable(output)
    _keep(ctx, (x, scale, zero_point), qmin, qmax, axis, block_size)


def _quantize_backward(ctx, grad_q):
    x, scale, zero_point = ctx.saved_tensors
    if grad_q is None or grad_q.dtype != x.dtype:
        return (None,) * 9
    grad_x, grad_scale, grad_zero_point = _ops.quantize_backward(grad_q, x, scale, zero_point, *ctx.plain)
    return grad_x, grad_scale, _present(grad_zero_point, zero_point), *[None] * 6


def _dequantize_setup(ctx, inputs, output) -> None:
    q, scale, zero_point, _, *plain = inputs
    _keep(ctx, (q, scale, zero_point), *plain)


def _dequantize_backward(ctx, grad_x):
    q, scale, zero_point = ctx.saved_tensors
    grad_q, grad_scale, grad_zero_point = _ops.dequantize_backward(grad_x, q, scale, zero_point, *ctx.plain)
    grad_q = grad_q if q.is_floating_point() else None
    return grad_q, grad_scale, _present(grad_zero_point, zero_point), *[None] * 4


def _raise_second_order(name: str):
    def backward(ctx, *_):
        raise RuntimeError(
            f"detent::{name} is not differentiable: the gradient of a fake-quantized value's gradient is not defined. "
            "Call backward() without create_graph=True, or detach the result."
        )

    return backward


def register() -> None:
    for name, backward, setup in [
        ("fake_quantize", _affine_backward, _affine_setup),
        ("fake_quantize_stochastic", _stochastic_backward, _stochastic_setup),
        ("fake_quantize_range", _range_backward, _range_setup),
        ("fake_quantize_dynamic", _dynamic_backward, _dynamic_setup),
        ("fake_quantize_many", _many_backward(_ops.fake_quantize_many_backward), _many_setup),
        ("fake_quantize_range_many", _many_backward(_ops.fake_quantize_range_many_backward), _many_setup),
        ("fake_quantize_dynamic_many", _dynamic_many_backward, _dynamic_many_setup),
        ("float_cast", _float_cast_backward, _float_cast_setup),
        ("block_cast", _block_cast_backward, _block_cast_setup),
        ("quantize", _quantize_backward, _quantize_setup),
        ("dequantize", _dequantize_backward, _dequantize_setup),
    ]:
        torch.library.register_autograd(f"detent::{name}", backward, setup_context=setup)
    for name in [
        "fake_quantize_backward", "fake_quantize_range_backward", "fake_quantize_mask_backward", "fake_quantize_mask",
        "fake_quantize_range_mask", "fake_quantize_sum", "fake_quantize_range_sum", "fake_quantize_dynamic_mask",
        "fake_quantize_many_mask", "fake_quantize_many_backward", "fake_quantize_range_many_mask",
        "fake_quantize_range_many_backward", "fake_quantize_dynamic_many_mask", "fake_quantize_mask_many_backward",
        "float_cast_mask", "block_cast_mask", "pack_mask", "unpack_mask", "quantize_backward", "dequantize_backward",
        "encode_min_max", "encode_affine", "encode_trained", "observe_min_max", "encode_percentile", "encode_sqnr",
        "encode_mse", "encode_entropy",
    ]:  # fmt: skip
        torch.library.register_autograd(f"detent::{name}", _raise_second_order(name))
