"""What is timed: our operators, ATen's, and the formula in plain torch, eager and compiled, on the same data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import triton_kernels
from detent import functional
from harness import Contender, Group, reason
from torch import Tensor

QMIN, QMAX = -128, 127
BLOCK = 32
#: Why a contender that takes long is not beside every tensor.
LEFT_OUT = "left out at this size"
_ours, _aten = torch.ops.detent, torch.ops.aten


def formula(x: Tensor, scale: Tensor, zero_point: Tensor, qmin: int = QMIN, qmax: int = QMAX) -> Tensor:
    """Fake quantization with learned scale and zero point as one writes it in Python, straight-through by detach()."""
    grid_zero = zero_point + (zero_point.round() - zero_point).detach()
    steps = x.float() / scale
    steps = steps + (steps.round() - steps).detach()
    return ((torch.clamp(steps + grid_zero, qmin, qmax) - grid_zero) * scale).to(x.dtype)


def compiled(
    wanted: bool, function: Callable[..., Tensor], arguments: tuple[Tensor, ...], grad: Tensor | None = None
) -> Contender:
    """``function`` under torch.compile, compiled now (its backward too if ``grad``), or why there is none.

    It holds until the next call of this: torch.compile keeps few versions of a function.
    """
    if not wanted:
        return LEFT_OUT
    torch._dynamo.reset()
    # The backward alone is timed on one kept graph, which must then keep what it saved.
    torch._functorch.config.donated_buffer = False
    try:
        fast = torch.compile(function, dynamic=False, fullgraph=True)
        result = fast(*arguments)
        if grad is not None:
            torch.autograd.grad(result, arguments, grad, retain_graph=True)
    except Exception as error:  # whatever a compiler, a missing one too, may raise
        return reason(error)
    return fast


def after(contender: Contender, make: Callable[[Callable[..., Tensor]], Callable[[], object]]) -> Contender:
    """What ``make`` makes of a function, or the reason why there is none."""
    return contender if isinstance(contender, str) else make(contender)


@dataclass
class Data:
    """One input and its encodings, in the shapes that each contender wants.

    ``aten``, ``compile``, ``eager``: whether ATen takes part, the formula under torch.compile, and in plain torch.
    """

    granularity: str
    x: Tensor
    axis: int | None = None
    block_size: tuple[int, ...] | None = None
    aten: bool = True
    compile: bool = True
    eager: bool = False

    def __post_init__(self) -> None:
        x = self.x
        blocks = self.block_size is not None
        shape = (*x.shape[:-1], x.shape[-1] // BLOCK) if blocks else () if self.axis is None else (x.shape[self.axis],)
        wobble = torch.rand(shape, device=x.device) * 0.25 + 0.875  # about one value in a hundred is clipped
        self.scale = 0.02 * wobble
        self.zero_point = torch.full(shape, 3.0, device=x.device)
        self.min, self.max = (QMIN - 3) * self.scale, (QMAX - 3) * self.scale
        self.learned = (self.scale, self.zero_point)
        # ATen knows channels only, so blocks are channels of the flattened input.
        self.aten_x = x.view(-1, BLOCK) if blocks else x
        self.aten_axis = 0 if blocks else self.axis
        beside = () if shape == () else (-1, 1) if blocks else (-1, *[1] * (x.dim() - 1 - self.axis))
        self.formula_learned = (self.scale.view(beside), self.zero_point.view(beside))

    def leaves(self, x: Tensor, encodings: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(tensor.detach().requires_grad_() for tensor in (x, *encodings))

    def ours(self, x: Tensor, scale: Tensor, zero_point: Tensor, **activation: float) -> Tensor:
        return functional.fake_quantize(
            x, scale, zero_point, qmin=QMIN, qmax=QMAX, axis=self.axis, block_size=self.block_size, **activation
        )

    def ours_range(self, x: Tensor, min: Tensor, max: Tensor, **activation: float) -> Tensor:
        return functional.fake_quantize_range(
            x, min, max, qmin=QMIN, qmax=QMAX, axis=self.axis, block_size=self.block_size, **activation
        )

    def aten_learnable(self, x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
        scale, zero_point = scale.view(-1), zero_point.view(-1)
        if self.aten_axis is None:
            return torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero_point, QMIN, QMAX, 1.0)
        return torch._fake_quantize_learnable_per_channel_affine(x, scale, zero_point, self.aten_axis, QMIN, QMAX, 1.0)

    def aten_learnable_backward(self, grad: Tensor) -> tuple[Tensor, ...]:
        grad, (scale, zero_point) = grad.view_as(self.aten_x), (t.view(-1) for t in self.learned)
        if self.aten_axis is None:
            return _aten._fake_quantize_learnable_per_tensor_affine_backward(
                grad, self.aten_x, scale, zero_point, QMIN, QMAX, 1.0
            )
        return _aten._fake_quantize_learnable_per_channel_affine_backward(
            grad, self.aten_x, scale, zero_point, self.aten_axis, QMIN, QMAX, 1.0
        )

    def if_aten(self, call: Callable[[], object]) -> Contender:
        return call if self.aten else LEFT_OUT

    def aten_fixed(self) -> Callable[[Tensor], Tensor]:
        if self.aten_axis is None:
            scale = self.scale.item()
            return lambda x: torch.fake_quantize_per_tensor_affine(x, scale, 3, QMIN, QMAX)
        scale, zero_point = self.scale.view(-1), self.zero_point.view(-1).int()
        return lambda x: torch.fake_quantize_per_channel_affine(x, scale, zero_point, self.aten_axis, QMIN, QMAX)

    def group(self, kind: str, unit: str, needed: int) -> Group:
        """The group with its unit and the copy."""
        x = self.x
        other = torch.randn_like(x) if unit == "torch.add(g, x)" else None  # a tensor of its own: its bytes count
        target = torch.empty_like(x)
        calls = {"unit": x.clone if other is None else lambda: torch.add(other, x), "copy": lambda: target.copy_(x)}
        return Group(kind, self.granularity, x.dtype, tuple(x.shape), unit, needed, contenders=calls)


def dataset(granularity: str, device: str, dtype: torch.dtype, shape: tuple[int, ...], **contenders: bool) -> Data:
    """Normal values, ``granularity`` one of per_tensor, per_channel_<axis>, per_block (of 32, along the last axis)."""
    torch.manual_seed(0)
    size = torch.Size(shape).numel()
    piece = torch.randn(min(size, 1 << 22), device=device).to(dtype)
    x = piece.repeat(-(-size // piece.numel()))[:size].view(shape)
    if granularity == "per_tensor":
        return Data(granularity, x, **contenders)
    if granularity == "per_block":
        return Data(granularity, x, block_size=(*[1] * (len(shape) - 1), BLOCK), **contenders)
    return Data(granularity, x, axis=int(granularity[-1]), **contenders)


def forward(data: Data) -> Group:
    """Values only, nothing wants a gradient."""
    x, plain = data.x, (data.aten_x, *data.formula_learned)
    group = data.group("forward", "x.clone()", 2 * x.nbytes)
    call, fixed = group.contenders, data.aten_fixed()
    call["detent fake_quantize"] = lambda: data.ours(x, *data.learned)
    call["detent fake_quantize_range"] = lambda: data.ours_range(x, data.min, data.max)
    call["aten fixed"] = data.if_aten(lambda: fixed(data.aten_x))
    call["aten learnable"] = data.if_aten(lambda: data.aten_learnable(data.aten_x, *data.learned))
    if data.eager:
        call["formula, eager"] = lambda: formula(*plain)
    call["formula, compiled"] = after(compiled(data.compile, formula, plain), lambda fast: lambda: fast(*plain))
    call["triton"] = triton_kernels.forward(data.aten_x, data.learned, data.aten_axis, QMIN, QMAX)
    return group


def learned_backward(data: Data) -> Group:
    """Gradients for x, scale and zero point, or min and max; the formula's by autograd on one kept graph."""
    x, where = data.x, (data.axis, data.block_size)
    grad = torch.randn_like(x)
    aten_grad = grad.view_as(data.aten_x)
    plain = data.leaves(data.aten_x, data.formula_learned)

    def on_kept_graph(function: Callable[..., Tensor]) -> Callable[[], object]:
        kept = function(*plain)
        return lambda: torch.autograd.grad(kept, plain, aten_grad, retain_graph=True)

    group = data.group("learned backward", "torch.add(g, x)", 3 * x.nbytes)
    call = group.contenders
    call["detent fake_quantize"] = lambda: _ours.fake_quantize_backward(grad, x, *data.learned, QMIN, QMAX, *where)
    call["detent fake_quantize_range"] = lambda: _ours.fake_quantize_range_backward(
        grad, x, data.min, data.max, QMIN, QMAX, False, None, *where
    )
    call["aten learnable"] = data.if_aten(lambda: data.aten_learnable_backward(grad))
    if data.eager:
        call["formula, eager"] = on_kept_graph(formula)
    call["formula, compiled"] = after(compiled(data.compile, formula, plain, aten_grad), on_kept_graph)
    call["triton"] = triton_kernels.learned_backward(aten_grad, data.aten_x, data.learned, data.aten_axis, QMIN, QMAX)
    return group


def fixed_backward(data: Data) -> Group:
    """A gradient for x only, from the mask that the forward kept."""
    grad, x = torch.randn_like(data.x), data.aten_x.detach().requires_grad_()
    aten_grad = grad.view_as(x)
    _, mask = _ours.fake_quantize_mask(data.x, *data.learned, QMIN, QMAX, data.axis, data.block_size)
    bools = data.x.abs() < 2
    order = None if grad.is_contiguous() else sorted(range(grad.dim()), key=grad.stride, reverse=True)

    def on_kept_graph(function: Callable[..., Tensor]) -> Callable[[], object]:
        kept = function(x)
        return lambda: torch.autograd.grad(kept, x, aten_grad, retain_graph=True)

    group = data.group("fixed backward", "g.clone()", 2 * grad.nbytes + mask.nbytes)
    call = group.contenders
    call["detent fake_quantize"] = lambda: _ours.fake_quantize_mask_backward(grad, mask, order)
    call["aten fixed"] = data.if_aten(lambda: _aten.fake_quantize_per_tensor_affine_cachemask_backward(grad, bools))
    fast = compiled(data.compile, lambda x: formula(x, *data.formula_learned), (x,), aten_grad)
    call["formula, compiled"] = after(fast, on_kept_graph)
    return group


def learned_step(data: Data) -> Group:
    """Forward and backward with gradients for x and both encodings."""
    grad = torch.randn_like(data.x)
    aten_grad = grad.view_as(data.aten_x)
    ours, ours_range = data.leaves(data.x, data.learned), data.leaves(data.x, (data.min, data.max))
    aten, plain = data.leaves(data.aten_x, data.learned), data.leaves(data.aten_x, data.formula_learned)
    group = data.group("learned forward + backward", "torch.add(g, x)", 5 * data.x.nbytes)
    call = group.contenders
    call["detent fake_quantize"] = lambda: torch.autograd.grad(data.ours(*ours), ours, grad)
    call["detent fake_quantize_range"] = lambda: torch.autograd.grad(data.ours_range(*ours_range), ours_range, grad)
    call["aten learnable"] = data.if_aten(lambda: torch.autograd.grad(data.aten_learnable(*aten), aten, aten_grad))
    call["formula, eager"] = lambda: torch.autograd.grad(formula(*plain), plain, aten_grad)
    fast = compiled(data.compile, formula, plain, aten_grad)
    call["formula, compiled"] = after(fast, lambda fast: lambda: torch.autograd.grad(fast(*plain), plain, aten_grad))
    return group


def fixed_step(data: Data) -> Group:
    """Forward and backward with a gradient for x alone."""
    grad, x = torch.randn_like(data.x), data.x.detach().requires_grad_()
    flat, fixed = data.aten_x.detach().requires_grad_(), data.aten_fixed()
    aten_grad = grad.view_as(flat)
    group = data.group("fixed forward + backward", "x.clone()", 4 * grad.nbytes + 2 * -(-grad.numel() // 8))
    call = group.contenders
    call["detent fake_quantize"] = lambda: torch.autograd.grad(data.ours(x, *data.learned), x, grad)
    call["detent fake_quantize_range"] = lambda: torch.autograd.grad(data.ours_range(x, data.min, data.max), x, grad)
    call["aten fixed"] = data.if_aten(lambda: torch.autograd.grad(fixed(flat), flat, aten_grad))
    call["formula, eager"] = lambda: torch.autograd.grad(formula(flat, *data.formula_learned), flat, aten_grad)
    fast = compiled(data.compile, lambda x: formula(x, *data.formula_learned), (flat,), aten_grad)
    call["formula, compiled"] = after(fast, lambda fast: lambda: torch.autograd.grad(fast(flat), flat, aten_grad))
    return group
