"""What is timed: our operators, ATen's, and the formula in plain torch, eager and compiled, on the same data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from detent import functional
from harness import Contender, Group, reason
from torch import Tensor

QMIN, QMAX = -128, 127
SHAPE = (128, 32, 32, 32)  # 4,194,304 elements
QUICK_SHAPE = (32, 32, 32, 32)
BLOCK = 32
_ours, _aten = torch.ops.detent, torch.ops.aten


def formula(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Fake quantization with learned scale and zero point as one writes it in Python, straight-through by detach()."""
    grid_zero = zero_point + (zero_point.round() - zero_point).detach()
    steps = x.float() / scale
    steps = steps + (steps.round() - steps).detach()
    return ((torch.clamp(steps + grid_zero, QMIN, QMAX) - grid_zero) * scale).to(x.dtype)


def formula_int8(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.clamp((x / scale).round() + zero_point, QMIN, QMAX).to(torch.int8)


def compiled(
    wanted: bool, function: Callable[..., Tensor], arguments: tuple[Tensor, ...], grad: Tensor | None = None
) -> Contender:
    """``function`` under torch.compile, compiled now (its backward too if ``grad``), or why it does not compile."""
    if not wanted:
        return "not compiled in this run"
    torch._dynamo.reset()
    # The backward alone is timed on one kept graph, which must then keep what it saved.
    torch._functorch.config.donated_buffer = False
    try:
        fast = torch.compile(function, dynamic=False, fullgraph=True)
        result = fast(*arguments)
        if grad is not None:
            torch.autograd.grad(result, arguments, grad)
    except Exception as error:  # whatever a compiler, a missing one too, may raise
        return reason(error)
    return fast


@dataclass
class Data:
    """One input and its encodings, in the shapes that each contender wants."""

    granularity: str
    x: Tensor
    axis: int | None = None
    block_size: tuple[int, ...] | None = None

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

    def aten_fixed(self) -> Callable[[Tensor], Tensor]:
        if self.aten_axis is None:
            scale = self.scale.item()
            return lambda x: torch.fake_quantize_per_tensor_affine(x, scale, 3, QMIN, QMAX)
        scale, zero_point = self.scale.view(-1), self.zero_point.view(-1).int()
        return lambda x: torch.fake_quantize_per_channel_affine(x, scale, zero_point, self.aten_axis, QMIN, QMAX)

    def group(self, kind: str, unit: str, moves: float) -> Group:
        x = self.x
        grad = torch.randn_like(x) if unit == "torch.add(g, x)" else None  # a tensor of its own: its bytes count
        calls = {"x.clone()": x.clone, "torch.add(g, x)": lambda: torch.add(grad, x), "g.clone()": x.clone}
        group = Group(kind, self.granularity, x.dtype, tuple(x.shape), unit, moves, {"unit": calls[unit]})
        if x.is_cuda:
            target = torch.empty_like(x)
            group.contenders["copy"] = lambda: target.copy_(x)
        return group


def dataset(granularity: str, device: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Data:
    """Normal values, ``granularity`` one of per_tensor, per_channel_0, per_channel_1, per_block."""
    torch.manual_seed(0)
    x = torch.randn(shape, device=device).to(dtype)
    if granularity == "per_tensor":
        return Data(granularity, x)
    if granularity == "per_block":
        return Data(granularity, x, block_size=(*[1] * (len(shape) - 1), BLOCK))
    return Data(granularity, x, axis=int(granularity[-1]))


def forward(data: Data, compile: bool) -> Iterator[Group]:
    """Values only, nothing wants a gradient."""
    group = data.group("forward", "x.clone()", 2)
    call, x = group.contenders, data.x
    where = (data.axis, data.block_size)
    call["detent fake_quantize"] = lambda: data.ours(x, *data.learned)
    call["detent fake_quantize_range"] = lambda: data.ours_range(x, data.min, data.max)
    call["detent fake_quantize_dynamic"] = lambda: _ours.fake_quantize_dynamic(x, None, QMIN, QMAX, False, *where)
    call["detent fake_quantize with mask"] = lambda: _ours.fake_quantize_mask(x, *data.learned, QMIN, QMAX, *where)
    fixed = data.aten_fixed()
    call["aten fixed"] = lambda: fixed(data.aten_x)
    call["aten learnable"] = lambda: data.aten_learnable(data.aten_x, *data.learned)
    call["formula, eager"] = lambda: formula(data.aten_x, *data.formula_learned)
    fast = compiled(compile, formula, (data.aten_x, *data.formula_learned))
    call["formula, compiled"] = fast if isinstance(fast, str) else lambda: fast(data.aten_x, *data.formula_learned)
    yield group


def learned_backward(data: Data, compile: bool) -> Iterator[Group]:
    """Gradients for x, scale and zero point (or min and max): backward alone, then forward and backward."""
    grad = torch.randn_like(data.x)
    aten_grad = grad.view_as(data.aten_x)
    where = (data.axis, data.block_size)
    ours = data.leaves(data.x, data.learned)
    ours_range = data.leaves(data.x, (data.min, data.max))
    aten = data.leaves(data.aten_x, data.learned)
    plain = data.leaves(data.aten_x, data.formula_learned)
    fast = compiled(compile, formula, plain, aten_grad)

    alone = data.group("learned backward alone", "torch.add(g, x)", 3)
    call = alone.contenders
    call["detent fake_quantize"] = lambda: _ours.fake_quantize_backward(grad, data.x, *data.learned, QMIN, QMAX, *where)
    call["detent fake_quantize_range"] = lambda: _ours.fake_quantize_range_backward(
        grad, data.x, data.min, data.max, QMIN, QMAX, False, None, *where
    )
    call["aten learnable"] = lambda: data.aten_learnable_backward(grad)
    kept = formula(*plain)
    call["formula, eager"] = lambda: torch.autograd.grad(kept, plain, aten_grad, retain_graph=True)
    if isinstance(fast, str):
        call["formula, compiled"] = fast
    else:
        kept_fast = fast(*plain)
        call["formula, compiled"] = lambda: torch.autograd.grad(kept_fast, plain, aten_grad, retain_graph=True)
    yield alone

    both = data.group("learned forward + backward", "torch.add(g, x)", 5)
    call = both.contenders
    call["detent fake_quantize"] = lambda: torch.autograd.grad(data.ours(*ours), ours, grad)
    call["detent fake_quantize_range"] = lambda: torch.autograd.grad(data.ours_range(*ours_range), ours_range, grad)
    call["aten learnable"] = lambda: torch.autograd.grad(data.aten_learnable(*aten), aten, aten_grad)
    call["formula, eager"] = lambda: torch.autograd.grad(formula(*plain), plain, aten_grad)
    call["formula, compiled"] = fast if isinstance(fast, str) else (
        lambda: torch.autograd.grad(fast(*plain), plain, aten_grad)
    )  # fmt: skip
    yield both


def fixed_backward(data: Data, compile: bool) -> Iterator[Group]:
    """A gradient for x only, from the mask that the forward kept: backward alone, then forward and backward."""
    grad = torch.randn_like(data.x)
    where = (data.axis, data.block_size)
    _, mask = _ours.fake_quantize_mask(data.x, *data.learned, QMIN, QMAX, *where)
    bools = torch.rand_like(data.x, dtype=torch.float32) < 0.99
    alone = data.group("fixed backward alone", "g.clone()", 2)
    alone.contenders["detent fake_quantize"] = lambda: _ours.fake_quantize_mask_backward(grad, mask)
    alone.contenders["aten fixed"] = lambda: _aten.fake_quantize_per_tensor_affine_cachemask_backward(grad, bools)
    yield alone

    x = data.x.detach().requires_grad_()
    flat = data.aten_x.detach().requires_grad_()
    aten_grad = grad.view_as(flat)
    fixed = data.aten_fixed()
    both = data.group("fixed forward + backward", "x.clone()", 4)
    call = both.contenders
    call["detent fake_quantize"] = lambda: torch.autograd.grad(data.ours(x, *data.learned), x, grad)
    call["aten fixed"] = lambda: torch.autograd.grad(fixed(flat), flat, aten_grad)
    call["formula, eager"] = lambda: torch.autograd.grad(formula(flat, *data.formula_learned), flat, aten_grad)
    fast = compiled(compile, lambda x: formula(x, *data.formula_learned), (flat,), aten_grad)
    call["formula, compiled"] = fast if isinstance(fast, str) else (
        lambda: torch.autograd.grad(fast(flat), flat, aten_grad)
    )  # fmt: skip
    yield both


def activation(data: Data) -> Iterator[Group]:
    """A ReLU before the quantizer: in the same pass, and in one of its own."""
    grad, relu = torch.randn_like(data.x), {"activation_min": 0.0}

    def two(quantize, x: Tensor, *encoding: Tensor) -> Tensor:
        return quantize(torch.relu(x), *encoding)

    ways = {
        "detent fake_quantize": (data.ours, data.learned),
        "detent fake_quantize_range": (data.ours_range, (data.min, data.max)),
    }
    group = data.group("ReLU, forward", "x.clone()", 2)
    for name, (quantize, encoding) in ways.items():
        group.contenders[f"{name}, one pass"] = lambda q=quantize, e=encoding: q(data.x, *e, **relu)
        group.contenders[f"{name}, two passes"] = lambda q=quantize, e=encoding: two(q, data.x, *e)
    yield group
    for kind, unit, moves in (("learned", "torch.add(g, x)", 5), ("fixed", "x.clone()", 4)):
        group = data.group(f"ReLU, {kind} forward + backward", unit, moves)
        for name, (quantize, encoding) in ways.items():
            x, *learned = data.leaves(data.x, encoding)
            encoding = learned if kind == "learned" else encoding
            leaves = (x, *learned) if kind == "learned" else (x,)
            group.contenders[f"{name}, one pass"] = lambda q=quantize, x=x, e=encoding, leaves=leaves: (
                torch.autograd.grad(q(x, *e, **relu), leaves, grad)
            )
            group.contenders[f"{name}, two passes"] = lambda q=quantize, x=x, e=encoding, leaves=leaves: (
                torch.autograd.grad(two(q, x, *e), leaves, grad)
            )
        yield group


def integers(data: Data, compile: bool) -> Iterator[Group]:
    """quantize to int8 and back, per tensor."""
    x, scale = data.x, data.scale.item()
    codes = functional.quantize(x, *data.learned, qmin=QMIN, qmax=QMAX, dtype=torch.int8)
    group = data.group("quantize to int8", "x.clone()", 1.25)
    call = group.contenders
    call["detent quantize"] = lambda: functional.quantize(x, *data.learned, qmin=QMIN, qmax=QMAX, dtype=torch.int8)
    call["aten quantize_per_tensor"] = lambda: torch.quantize_per_tensor(x, scale, 3, torch.qint8)
    call["formula, eager"] = lambda: formula_int8(x, *data.learned)
    fast = compiled(compile, formula_int8, (x, *data.learned))
    call["formula, compiled"] = fast if isinstance(fast, str) else lambda: fast(x, *data.learned)
    yield group

    group = data.group("dequantize from int8", "x.clone()", 1.25)
    quantized = torch.quantize_per_tensor(x, scale, 3, torch.qint8)
    group.contenders["detent dequantize"] = lambda: functional.dequantize(codes, *data.learned)
    group.contenders["aten dequantize"] = lambda: quantized.dequantize()
    group.contenders["formula, eager"] = lambda: (codes.float() - data.zero_point) * data.scale
    yield group


def observe(data: Data) -> Iterator[Group]:
    """Minimum and maximum."""
    group = data.group("observe_min_max", "x.clone()", 1)
    x, where = data.x, (data.axis, data.block_size)
    rest = [dim for dim in range(x.dim()) if dim != data.axis]
    group.contenders["detent observe_min_max"] = lambda: _ours.observe_min_max(x, *where)
    if data.axis is None:
        group.contenders["aten aminmax"] = lambda: torch.aminmax(x)
    group.contenders["aten amin and amax"] = lambda: (x.amin(rest), x.amax(rest))
    yield group


def sweep(data: Data, compile: bool) -> Iterator[Group]:
    """Ours and ATen's, per tensor, over sizes; with the compiled formula where it compiles fast (CUDA)."""
    for group in forward(data, compile):
        for name in ("detent fake_quantize_dynamic", "detent fake_quantize with mask", "aten fixed", "formula, eager"):
            del group.contenders[name]
        group.kind = "sweep, forward"
        yield group
    group = data.group("sweep, learned backward alone", "torch.add(g, x)", 3)
    x, grad = data.x, torch.randn_like(data.x)
    call = group.contenders
    call["detent fake_quantize"] = lambda: _ours.fake_quantize_backward(grad, x, *data.learned, QMIN, QMAX)
    call["detent fake_quantize_range"] = lambda: _ours.fake_quantize_range_backward(
        grad, x, data.min, data.max, QMIN, QMAX, False
    )
    call["aten learnable"] = lambda: data.aten_learnable_backward(grad)
    plain = data.leaves(x, data.learned)
    fast = compiled(compile, formula, plain, grad)
    kept = fast if isinstance(fast, str) else fast(*plain)
    call["formula, compiled"] = kept if isinstance(kept, str) else (
        lambda: torch.autograd.grad(kept, plain, grad, retain_graph=True)
    )  # fmt: skip
    yield group
