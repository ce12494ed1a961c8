"""The encoding of an affine quantizer as plain data."""

from __future__ import annotations

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
        """A range whose scale is this one to the last bit, for quantizers that hold min and max.

        ``max - min`` is rounded on the way to a scale, so the naive ends may give a neighbour; the upper end is moved
        by single steps until they do not. Where no range has exactly this scale the nearest is given.
        """
        low, high = self.min, self.max
        best, error = high, torch.full_like(high, float("inf"))
        for steps in range(-4, 5):
            candidate = high
            for _ in range(abs(steps)):
                candidate = torch.nextafter(
                    candidate, torch.full_like(candidate, float("inf") if steps > 0 else float("-inf"))
                )
            scale, _ = _ops.encode_affine(low, candidate, qmin, qmax, symmetric, zero_point)
            off = (scale - self.scale).abs()
            best, error = torch.where(off < error, candidate, best), torch.minimum(off, error)
        return low, best
