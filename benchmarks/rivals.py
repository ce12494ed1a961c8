"""A simulation whose quantizers call somebody else's operator: ATen's, or the formula in plain torch.

Each is a subclass that quantizers become where they stand, so that everything else stays the simulation's. Ranges that
follow a weight are its extremes, found by ATen; learned ones are scale and zero point, used as they are held.
"""

from __future__ import annotations

import torch
from contenders import formula
from torch import Tensor

from detent import QuantizationSimModel
from detent.quantizers import QuantizeDequantize


class _Rival(QuantizeDequantize):
    def _operands(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """scale and zero point in the quantizer's shape."""
        if self.mode == "learned":
            return self.scale, torch.full_like(self.scale, self._grid.centre) if self.symmetric else self.zero_point
        if self.mode == "fixed":
            return self._affine_of_range(self.min, self.max)
        with torch.no_grad():
            if self.axis is None:
                low, high = (end.view(1) for end in torch.aminmax(x))
            else:
                rest = [dim for dim in range(-x.dim(), 0) if dim != self.axis]
                low, high = x.amin(rest, keepdim=True), x.amax(rest, keepdim=True)
            return self._affine_of_range(low.float(), high.float())


class Aten(_Rival):
    """``torch.fake_quantize_per_*_affine``, and ``torch._fake_quantize_learnable_per_*_affine`` of learned ranges."""

    def _forward(self, x: Tensor) -> Tensor:
        scale, zero_point = (tensor.flatten() for tensor in self._operands(x))
        grid = (self.qmin, self.qmax)
        if self.mode == "learned":
            zero_point = zero_point.clamp(*grid)  # it refuses one that a step has moved off the grid
            if self.axis is None:
                return torch._fake_quantize_learnable_per_tensor_affine(x, scale, zero_point, *grid, 1.0)
            return torch._fake_quantize_learnable_per_channel_affine(
                x, scale, zero_point, x.dim() + self.axis, *grid, 1.0
            )
        if self.axis is None:
            return torch.fake_quantize_per_tensor_affine(x, scale, zero_point.int(), *grid)
        return torch.fake_quantize_per_channel_affine(x, scale, zero_point.int(), x.dim() + self.axis, *grid)


class Formula(_Rival):
    """The formula as one writes it in torch, which torch.compile fuses with what is around it."""

    def _forward(self, x: Tensor) -> Tensor:
        return formula(x, *self._operands(x), self.qmin, self.qmax)


def replace(sim: QuantizationSimModel, rival: type[_Rival]) -> None:
    """Make the quantizers of ``sim``, which is calibrated, those of ``rival``."""
    for quantizer in sim.quantizers():
        if quantizer.mode == "learned":
            quantizer.parametrization = "scale_zero_point"
        quantizer.__class__ = rival
        quantizer._kept_weights = None  # which would be computed by our operators
