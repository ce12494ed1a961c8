"""The encoding of an affine quantizer as plain data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..defs import Granularity

__all__ = ["AffineEncoding"]

_ops = torch.ops.detent


@dataclass(frozen=True, eq=False)
class AffineEncoding:
    """What a runtime needs to know of one quantized tensor.

    Args:
        scale: Real units per step, > 0; CPU float tensor in the shape of the quantizer.
        offset: Legacy offset ``qmin - zero_point``, shaped like ``scale``: the code of real 0 on a grid that starts at
            0, negated. -128 for symmetric int8.
        bitwidth: Bits per integer.
        is_symmetric: Whether the zero point is fixed by the grid.
        granularity: Per tensor, per channel or per block.
        num_steps: ``qmax - qmin``; ``None`` is ``2**bitwidth - 1``.
        block_size: Elements per scale along each dimension, -1 where one scale spans it; ``None`` without blocks.
        axis: Dimension of the tensor that scales per channel, or blocks, lie on: from the left, or negative from the
            right; ``None`` where it is not known.
    Raises:
        ValueError: A scale is not positive and finite, or the shapes differ.
    Example:
        >>> encoding = AffineEncoding(torch.tensor([0.5]), torch.tensor([-2.0]), bitwidth=3, is_symmetric=False)
        >>> encoding.min, encoding.max
        (tensor([-1.]), tensor([2.5000]))
    """

    scale: Tensor
    offset: Tensor
    bitwidth: int
    is_symmetric: bool
    granularity: Granularity = Granularity.per_tensor
    num_steps: int | None = None
    block_size: tuple[int, ...] | None = None
    axis: int | None = None

    dtype = "INT"

    def __post_init__(self) -> None:
        if self.scale.shape != self.offset.shape:
            raise ValueError(
                f"AffineEncoding: scale has shape {tuple(self.scale.shape)} and offset {tuple(self.offset.shape)}, "
                "expected the same."
            )
        if not bool((torch.isfinite(self.scale) & (self.scale > 0)).all()):
            raise ValueError(
                f"AffineEncoding: scale is {self.scale.flatten()[:4].tolist()}..., expected positive finite numbers. "
                "A scale that is not one comes from a file or a training that went wrong."
            )
        if self.num_steps is None:
            object.__setattr__(self, "num_steps", 2**self.bitwidth - 1)

    @property
    def min(self) -> Tensor:
        """Smallest value on the grid, shaped like ``scale``."""
        return self.scale * self.offset

    @property
    def max(self) -> Tensor:
        """Largest value on the grid, shaped like ``scale``."""
        return self.scale * (self.offset + self.num_steps)

    def zero_point(self, qmin: int) -> Tensor:
        """The zero point on the grid that starts at ``qmin``, shaped like ``scale``."""
        return qmin - self.offset

    def range(self, qmin: int, qmax: int, symmetric: bool, zero_point: int | None = None) -> tuple[Tensor, Tensor]:
        """A range whose scale is this one to the last bit, for quantizers that hold min and max in float32.

        ``max - min`` is rounded on the way to a scale, so the naive ends may give a neighbour; the ends are moved by
        single steps, the upper one first, until they do not. Where no range has exactly this scale and zero point the
        nearest is given.
        """
        wanted = self.zero_point(qmin).double()
        ends = self.min.float(), self.max.float()
        best, error = ends, torch.full_like(self.scale, float("inf"), dtype=torch.float64)
        for down in _MOVES:
            for up in _MOVES:
                if not bool((error > 0).any()):
                    return best
                low, high = _moved(ends[0], down), _moved(ends[1], up)
                scale, point = _ops.encode_affine(low, high, qmin, qmax, symmetric, zero_point)
                off = (scale.double() - self.scale.double()).abs() / self.scale.double()
                off = off + (point.double() - wanted).abs() / self.num_steps
                closer = off < error
                best = torch.where(closer, low, best[0]), torch.where(closer, high, best[1])
                error = torch.minimum(off, error)
        return best


_MOVES = (0, -1, 1, -2, 2, -3, 3, -4, 4)


def _moved(end: Tensor, steps: int) -> Tensor:
    """``end``, that many numbers of its type up."""
    towards = torch.full_like(end, math.copysign(math.inf, steps))
    for _ in range(abs(steps)):
        end = torch.nextafter(end, towards)
    return end
