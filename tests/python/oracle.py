"""The formulas of kernels/include/detent, element by element, in plain torch and float64: what every result is held to.

``real`` is the arithmetic. float64 gives the truth; the kernels' own (``math_dtype``) gives their numbers bit for bit,
since each step is one correctly rounded operation. Gradients are written out, never taken by autograd, whose ``clamp``
has another one. The sums of gradients are returned as terms, one per element; ``reduced`` adds them in float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

FLOOR = 2.0**-23  # the 1.1920929e-7 of detent/base.h


def math_dtype(data: torch.dtype, qmin: int, qmax: int) -> torch.dtype:
    wide = data == torch.float64 or qmin < -(2**23) or qmax > 2**23
    return torch.float64 if wide else torch.float32


def centre(qmin: int, qmax: int) -> int:
    return round((qmin + qmax) / 2)  # Python rounds halves to even


# --- groups -----------------------------------------------------------------------------------------------------------


def block_sizes(x: Tensor, block_size) -> list[int]:
    return [max(size, 1) if block == -1 else block for size, block in zip(x.shape, block_size)]


def group_shape(x: Tensor, axis=None, block_size=None) -> tuple[int, ...]:
    if block_size is not None:
        return tuple(size // block for size, block in zip(x.shape, block_sizes(x, block_size)))
    return (1,) if axis is None else (x.shape[axis],)


def spread(encoding: Tensor, x: Tensor, axis=None, block_size=None) -> Tensor:
    """One value per group, brought to a shape that broadcasts against x."""
    if block_size is not None:
        for dim, block in enumerate(block_sizes(x, block_size)):
            encoding = encoding.repeat_interleave(block, dim)
        return encoding
    if axis is None:
        return encoding.reshape(())
    return encoding.reshape([-1 if dim == axis % x.dim() else 1 for dim in range(x.dim())])


def by_group(terms: Tensor, axis=None, block_size=None) -> Tensor:
    """terms as [groups..., elements of a group]."""
    if block_size is not None:
        blocks = block_sizes(terms, block_size)
        split = [n for size, block in zip(terms.shape, blocks) for n in (size // block, block)]
        order = [*range(0, len(split), 2), *range(1, len(split), 2)]
        return terms.reshape(split).permute(order).reshape(*split[::2], math.prod(blocks))
    if axis is None:
        return terms.reshape(1, -1)
    return terms.movedim(axis, 0).reshape(terms.shape[axis], terms.numel() // max(terms.shape[axis], 1))


def reduced(terms: Tensor, like: Tensor, axis=None, block_size=None) -> Tensor:
    return by_group(terms.double(), axis, block_size).sum(-1).reshape(like.shape)


# --- fake_quantize.h --------------------------------------------------------------------------------------------------


class Parts(NamedTuple):
    ratio: Tensor  # x / scale
    rounded: Tensor
    q: Tensor
    mask: Tensor
    scale: Tensor
    zero_point: Tensor


def clamp(q: Tensor, qmin, qmax) -> Tensor:
    low, high = torch.as_tensor(qmin, dtype=q.dtype), torch.as_tensor(qmax, dtype=q.dtype)
    q = torch.where(q < low, low, q)
    return torch.where(q > high, high, q)


def parts(x, scale, zero_point, qmin, qmax, axis=None, block_size=None, real=torch.float64) -> Parts:
    x = x.detach().to(real)
    scale = spread(scale.detach().to(real), x, axis, block_size)
    zero_point = torch.zeros((), dtype=real) if zero_point is None else zero_point.detach().to(real)
    zero_point = torch.round(zero_point if zero_point.dim() == 0 else spread(zero_point, x, axis, block_size))
    ratio = x / scale
    rounded = torch.round(ratio)  # halves to even
    code = rounded + zero_point
    mask = (code >= qmin) & (code <= qmax)
    return Parts(ratio, rounded, clamp(code, qmin, qmax), mask, scale, zero_point)


def fake_quantize(x, scale, zero_point, qmin, qmax, axis=None, block_size=None, real=torch.float64) -> Tensor:
    p = parts(x, scale, zero_point, qmin, qmax, axis, block_size, real)
    return (p.q - p.zero_point) * p.scale


def fake_quantize_gradients(g, x, scale, zero_point, qmin, qmax, axis=None, block_size=None, real=torch.float64):
    """(grad_x, terms of grad_scale, terms of grad_zero_point)."""
    p = parts(x, scale, zero_point, qmin, qmax, axis, block_size, real)
    g = g.detach().to(real).broadcast_to(x.shape)
    zero = torch.zeros((), dtype=real)
    ends = clamp(p.rounded, qmin - p.zero_point, qmax - p.zero_point)
    nan = torch.isnan(p.rounded)
    grad_x = torch.where(p.mask, g, zero)
    scale_terms = g * torch.where(p.mask, p.rounded - p.ratio, ends)
    zero_point_terms = torch.where(p.mask, zero, torch.where(nan, p.rounded, -g * p.scale))
    return grad_x, scale_terms, zero_point_terms


# --- encode.h and the range parametrization ---------------------------------------------------------------------------


def affine_of_range(min, max, qmin, qmax, symmetric, zero_point=None, real=torch.float64):
    min, max = min.detach().to(real), max.detach().to(real)
    steps = torch.tensor(float(qmax - qmin), dtype=real)
    floor = torch.minimum(torch.tensor(FLOOR, dtype=real), torch.tensor(0.01, dtype=real) / steps)
    scale = (max - min).abs() / steps
    scale = torch.where(scale < floor, floor, scale)
    if symmetric:
        fixed = centre(qmin, qmax) if zero_point is None else zero_point
        return scale, torch.full_like(scale, fixed)
    return scale, clamp(qmin - torch.round(min / scale), qmin, qmax)


def range_of_observed(lo, hi, qmin, qmax, symmetric, zero_point=None, real=torch.float64):
    lo, hi = lo.to(real), hi.to(real)
    fixed = centre(qmin, qmax) if zero_point is None else zero_point
    steps, above, below = (torch.tensor(float(n), dtype=real) for n in (qmax - qmin, qmax - fixed, fixed - qmin))
    floor = torch.minimum(torch.tensor(FLOOR, dtype=real), torch.tensor(0.01, dtype=real) / steps)
    zero = torch.zeros((), dtype=real)
    low, high = torch.where(lo < 0, lo, zero), torch.where(hi > 0, hi, zero)
    small = (high - low) / steps < floor
    high = torch.where(small, high + (above if symmetric else steps) * floor, high)
    low = torch.where(small, low - (below * floor if symmetric else zero), low)
    if symmetric:
        top = torch.tensor(2.0, dtype=real) if (above, below) == (1, 2) else above
        step = torch.maximum(high / top if above > 0 else zero, -low / below if below > 0 else zero)
        low, high = -below * step, above * step
    return low, high


def range_gradients(grad_scale, grad_zero_point, min, max, qmin, qmax, symmetric, real=torch.float64):
    """(grad_min, grad_max) from the reduced gradients of scale and zero_point, in float64."""
    min, max = min.detach().to(real), max.detach().to(real)
    scale, _ = affine_of_range(min, max, qmin, qmax, symmetric, real=real)
    free = qmin - torch.round(min / scale)
    moves = (free >= qmin) & (free <= qmax) & (not symmetric)
    slope = torch.where(max - min >= 0, 1.0, -1.0).double() / (qmax - qmin)
    scale, min, zero = scale.double(), min.double(), torch.zeros((), dtype=torch.float64)
    through = grad_scale + torch.where(moves, grad_zero_point * min / (scale * scale), zero)
    return -through * slope - torch.where(moves, grad_zero_point / scale, zero), through * slope


# --- quantize.h -------------------------------------------------------------------------------------------------------


def quantize(x, scale, zero_point, qmin, qmax, axis=None, block_size=None, real=torch.float64, integer=False) -> Tensor:
    p = parts(x, scale, zero_point, qmin, qmax, axis, block_size, real)
    return torch.where(torch.isnan(p.q), clamp(p.zero_point, qmin, qmax), p.q) if integer else p.q


def quantize_gradients(g, x, scale, zero_point, qmin, qmax, axis=None, block_size=None, real=torch.float64):
    p = parts(x, scale, zero_point, qmin, qmax, axis, block_size, real)
    g = g.detach().to(real).broadcast_to(x.shape)
    outside = torch.where(torch.isnan(p.rounded), p.rounded, torch.zeros((), dtype=real))
    grad_x = torch.where(p.mask, g / p.scale, torch.zeros((), dtype=real))
    return grad_x, torch.where(p.mask, -g * p.ratio / p.scale, outside), torch.where(p.mask, g, outside)


def dequantize(q, scale, zero_point, axis=None, block_size=None, real=torch.float64) -> Tensor:
    q = q.detach().to(real)
    zero_point = torch.zeros((), dtype=real) if zero_point is None else torch.round(zero_point.detach().to(real))
    zero_point = zero_point if zero_point.dim() == 0 else spread(zero_point, q, axis, block_size)
    return (q - zero_point) * spread(scale.detach().to(real), q, axis, block_size)


def dequantize_gradients(g, q, scale, zero_point, axis=None, block_size=None, real=torch.float64):
    g = g.detach().to(real).broadcast_to(q.shape)
    one = torch.ones_like(scale)
    through = g * spread(scale.detach().to(real), q, axis, block_size)
    return through, g * dequantize(q, one, zero_point, axis, block_size, real), -through


# --- observe.h --------------------------------------------------------------------------------------------------------


def observe(x, axis=None, block_size=None):
    """(min, max, ignored) of one batch."""
    values = by_group(x.detach().double(), axis, block_size)
    counts = values.abs() < torch.finfo(x.dtype).max / 2
    infinite = torch.full((*values.shape[:-1], 1), math.inf, dtype=torch.float64)
    low = torch.cat([torch.where(counts, values, math.inf), infinite], -1).amin(-1)
    high = torch.cat([torch.where(counts, values, -math.inf), -infinite], -1).amax(-1)
    return low, high, (~counts).sum(-1)
