"""How one tensor is quantized, and the quantizer that does it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..float_format import FloatFormat
from ..observers import MinMaxObserver
from ..quantizers import FloatQuantizeDequantize, QuantizeDequantize, Quantizer

__all__ = ["Spec", "blocks", "channels"]


@dataclass(frozen=True)
class Spec:
    """Grid, scales and constraints of a quantizer.

    ``type``: the bits of an integer grid, or a float format, for which symmetry says nothing. ``strict``: a symmetric
    grid without its lowest code. ``unsigned``: a symmetric range without negative numbers takes the grid from 0.
    ``fixed``: the ends of a range that calibration and training leave alone.
    """

    type: int | FloatFormat
    symmetric: bool
    shape: tuple[int, ...] = (1,)
    block_size: tuple[int, ...] | None = None
    strict: bool = False
    unsigned: bool = False
    fixed: tuple[float, float] | None = None

    def make(self, mode: str, device: torch.device, unlearned: str = "fixed") -> Quantizer:
        """A quantizer without a range, but for a fixed one; ``unlearned``: the mode of one that has nothing to learn."""
        if isinstance(self.type, FloatFormat):
            return self._make_float(unlearned, device)
        fixed = self.fixed
        symmetric = self.symmetric or (fixed is not None and fixed[0] == -fixed[1])
        from_zero = symmetric and self.unsigned and fixed is not None and fixed[0] == 0
        low = -(2 ** (self.type - 1)) if symmetric and not from_zero else 0
        high = low + 2**self.type - 1
        quantizer = QuantizeDequantize(
            self.shape, low + (low < 0 and self.strict), high, symmetric, zero_point=0 if from_zero else None,
            block_size=self.block_size, mode=mode if fixed is None else "fixed",
        ).to(device)  # fmt: skip
        quantizer.unsigned_symmetric = symmetric and self.unsigned
        if fixed is None:
            quantizer.reset()
        else:
            reach = max(-fixed[0], fixed[1])
            quantizer.set_range(*((-reach, reach) if low < 0 else fixed))
            quantizer.allow_overwrite(False)
        return quantizer

    def _make_float(self, mode: str, device: torch.device) -> FloatQuantizeDequantize:
        layout, scaled = {"shape": self.shape, "block_size": self.block_size}, self.type.is_scaled
        if not scaled:
            return FloatQuantizeDequantize(dtype=self.type, **layout).to(device)
        observer = MinMaxObserver(**layout)
        mode = mode if self.fixed is None else "fixed"
        quantizer = FloatQuantizeDequantize(dtype=self.type, observer=observer, mode=mode, **layout).to(device)
        if self.fixed is None:
            quantizer.reset()
        else:
            quantizer.set_range(*self.fixed)
            quantizer.allow_overwrite(False)
        return quantizer


def channels(shape: Sequence[int], axis: int | None) -> tuple[int, ...]:
    """One scale per index of ``axis``; per tensor without one."""
    return (1,) if axis is None else tuple(size if dim == axis else 1 for dim, size in enumerate(shape))


def blocks(
    title: str, shape: Sequence[int], axis: int | None, block_size: int | Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shape of the scales and block size along each dimension of a weight with its output channels on ``axis``.

    Raises:
        ValueError: The weight does not divide into such blocks; ``title`` names it.
    """
    sizes = (block_size,) if isinstance(block_size, int) else tuple(block_size)
    if isinstance(block_size, int) and axis in (0, 1) and len(shape) > 1:
        sizes = tuple(1 if dim == axis else block_size if dim == 1 - axis else -1 for dim in range(len(shape)))
    divides = len(sizes) == len(shape) and all(
        block == -1 or (block > 0 and size % block == 0) for size, block in zip(shape, sizes)
    )
    if not divides:
        raise ValueError(
            f"{title} has shape {tuple(shape)}, which blocks of {tuple(sizes)} do not divide; expected one entry per "
            "dimension, each a divisor of it or -1. Choose another block_size, or leave this weight out."
        )
    return tuple(1 if block == -1 else size // block for size, block in zip(shape, sizes)), sizes
