"""Tensors as models hold them: sizes, layouts, granularities, awkward numbers."""

from __future__ import annotations

import math

import torch
from torch import Tensor

import oracle

FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
# Around the vector width, the block of 512 and the unit of a thread, and a few primes.
LENGTHS = [0, 1, 2, 7, 8, 9, 31, 127, 511, 512, 513, 1031, 16383, 16384, 16385, 40009]
GRIDS = [(-128, 127), (0, 255), (-127, 127), (-8, 7), (-2, 1), (0, 1), (3, 200), (-(2**15), 2**15 - 1)]
WIDE_GRIDS = [(-(2**31), 2**31 - 1), (0, 2**32 - 1), (-(2**23) - 1, 2**23)]

LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "last two swapped": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "every other": lambda x: torch.stack([x, torch.full_like(x, math.nan)], -1).flatten(-2)[..., ::2],
    "rows of a wider one": lambda x: torch.cat([x, torch.full_like(x, math.nan)], -1)[..., : x.shape[-1]],
    "offset by one": lambda x: torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape),
}


def spiced(x: Tensor, scale: float) -> Tensor:
    """x with halves, signed zeros, subnormals, infinities, NaN and grid ends in its first places."""
    info = torch.finfo(x.dtype)
    halves = [(k + 0.5) * scale for k in (-3, -2, -1, 0, 1, 2)]
    rare = [
        0.0,
        -0.0,
        info.smallest_normal / 2,
        -info.smallest_normal / 2,
        info.max,
        info.min,
        math.inf,
        -math.inf,
        math.nan,
    ]
    flat = x.flatten()
    values = torch.tensor(halves + rare, dtype=torch.float64).to(x.dtype)[: flat.numel()]
    return torch.cat([values, flat[values.numel() :]]).view(x.shape)


def data(shape, dtype=torch.float32, spread: float = 4.0, scale: float | None = None) -> Tensor:
    """Random values; with ``scale`` also the awkward ones."""
    x = (torch.randn(shape, dtype=torch.float64) * spread).to(dtype)
    return x if scale is None else spiced(x, scale)


# name: (shape, axis, block_size)
GRANULARITIES = {
    "tensor": ((6, 4, 8, 10), None, None),
    "first axis": ((6, 4, 8, 10), 0, None),
    "middle axis": ((6, 4, 8, 10), 1, None),
    "last axis": ((6, 4, 8, 10), 3, None),
    "negative axis": ((6, 4, 8, 10), -2, None),
    "one axis of one": ((613,), 0, None),
    "blocks of the last": ((6, 4, 8, 10), None, [1, 1, 1, 5]),
    "blocks of the last, shared before": ((6, 4, 8, 10), None, [-1, -1, 1, 1]),
    "blocks along input channels": ((6, 4, 8, 10), None, [1, 2, -1, -1]),
    "interleaved": ((6, 4, 8, 10), None, [3, 2, 4, 5]),
    "interleaved, two of four": ((6, 4, 8, 10), None, [2, 4, 1, 5]),
    "one block": ((6, 4, 8, 10), None, [-1, -1, -1, -1]),
    "every element": ((6, 4, 8, 10), None, [1, 1, 1, 1]),
}
FOUR_DIMENSIONAL = [name for name, (shape, _, _) in GRANULARITIES.items() if len(shape) == 4]


def encodings(x: Tensor, axis, block_size, power_of_two: bool, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    """(scale, zero_point) for every group of x."""
    shape = oracle.group_shape(x, axis, block_size)
    exponents = torch.randint(-6, 1, shape)
    scale = torch.exp2(exponents.double()) * (1.0 if power_of_two else 1.0 + torch.rand(shape, dtype=torch.float64))
    return scale.to(dtype), torch.randint(-4, 5, shape).to(dtype)
