"""Gradients registered from Python: the fallback for a torch that libdetent_autograd was not built with.

The same backward operators as the C++ path, so the same bits. It always keeps x where C++ keeps one bit per element for
a fixed range, and costs about 60 us more per call.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
    _keep(ctx, (x, min, max), qmin, qmax, symmetric, zero_point, axis, block_size)


def _dynamic_backward(ctx, grad_y, *_):
    return _ops.fake_quantize_range_backward(grad_y, *ctx.saved_tensors, *ctx.plain)[0], *[None] * 7


def _float_cast_setup(ctx, inputs, output) -> None:
    x, scale, *plain = inputs
    _keep(ctx, (x, scale), *plain)


def _float_cast_backward(ctx, grad_y):
    x, scale = ctx.saved_tensors
    _, mask = _ops.float_cast_mask(x, scale, *ctx.plain)
    *_, block_size = ctx.plain
    order = None
    if not x.is_contiguous():
        order = sorted(range(x.dim()), key=torch.empty_like(x).stride().__getitem__, reverse=True)
    return _ops.fake_quantize_mask_backward(grad_y, mask, order, block_size), *[None] * (1 + len(ctx.plain))


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
        ("float_cast", _float_cast_backward, _float_cast_setup),
        ("quantize", _quantize_backward, _quantize_setup),
        ("dequantize", _dequantize_backward, _dequantize_setup),
    ]:
        torch.library.register_autograd(f"detent::{name}", backward, setup_context=setup)
    for name in [
        "fake_quantize_backward", "fake_quantize_range_backward", "fake_quantize_mask_backward", "fake_quantize_mask",
        "fake_quantize_range_mask", "fake_quantize_sum", "fake_quantize_range_sum", "fake_quantize_dynamic_mask",
        "float_cast_mask", "quantize_backward",
        "dequantize_backward", "encode_min_max", "encode_affine", "observe_min_max", "encode_percentile", "encode_sqnr",
        "encode_mse", "encode_entropy",
    ]:  # fmt: skip
        torch.library.register_autograd(f"detent::{name}", _raise_second_order(name))
