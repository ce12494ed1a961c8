"""The two affine quantizers: to codes, and to codes and back."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .base import AffineQuantizer
from .quantizer import Operator

__all__ = ["Quantize", "QuantizeDequantize"]

_ops = torch.ops.detent

_ARGUMENTS = """
    ``(shape, bitwidth, symmetric)`` takes the signed grid if ``symmetric``, else the unsigned one;
    ``(shape, qmin, qmax, symmetric)`` takes the grid as it is. Which of the two it is follows from the third argument.

    Args:
        shape: Shape of the range, read against x from the right: ``()`` or ``(1,)`` per tensor, ``(C, 1, 1, 1)`` per
            channel of a 4-dimensional x, anything with more sizes other than 1 per block.
        bitwidth: 2 to 32.
        qmin, qmax: Inclusive grid ends, within -2**31 .. 2**32 - 1.
        symmetric: Whether the zero point is fixed, at the centre of the grid or at ``zero_point``.
        zero_point: The fixed zero point of a symmetric grid where it is not the centre, such as 0 on 0 .. 255.
        block_size: Elements per scale along each dimension of ``shape``; -1 divides the dimension evenly.
        observer: What calibration collects with; ``None``: a :class:`detent.observers.MinMaxObserver`.
        encoding_analyzer: AIMET's name of ``observer``.
        mode: ``"learned"``, ``"fixed"`` or ``"dynamic"``.
        parametrization: ``"min_max"`` (parameters ``min`` and ``max``), ``"scale_zero_point"`` (parameters ``scale``
            and, if asymmetric, ``zero_point``) or, of QuantizeDequantize per tensor, ``"pact"`` (parameter ``max``; the
            range begins at 0, and the gradient of ``max`` is that of x where ``x >= max``: Choi 2018).
        grad_scale: Factor on the gradients of ``scale`` and ``zero_point``; ``"lsq"``: 1 / sqrt(n * qmax) for n
            elements of x per scale (Esser 2020, section 2.2).
    Raises:
        ValueError: An argument is none of these. TypeError: there are too few or too many.
"""


class QuantizeDequantize(AffineQuantizer):
    __doc__ = (
        """Round a tensor to an integer grid and back, with a straight-through gradient.
"""
        + _ARGUMENTS
        + """        RuntimeError (from a call): there is no range yet.
    Example:
        >>> quantizer = QuantizeDequantize((1,), 3, symmetric=False)
        >>> quantizer.set_range(-1.0, 2.5)
        >>> quantizer(torch.tensor([-1.2, 0.3, 9.0])).detach()
        tensor([-1.0000,  0.5000,  2.5000])
    """
    )

    _parametrizations = (*AffineQuantizer._parametrizations, "pact")

    def activated(
        self, x: Tensor, activation_min: float | None, activation_max: float | None, residual: Tensor | None = None
    ) -> Tensor | None:
        """What the call makes of ``x`` after a ReLU (0, ``None``) or ReLU6 (0, 6), in one pass with the bits of two.

        With ``residual``, a tensor like ``x``, what it makes of ``x + residual``, after the activation if there is one.

        ``None`` where there would be more to it than the operator: the quantizer is off, observes, has no range, a
        dynamic one or PACT's, is of a subclass, or has hooks, which see the activation's result. And for a sum that
        :func:`detent.qat.compress_saved_tensors` computes with again: a learned range's.

        Example:
            >>> quantizer = QuantizeDequantize((1,), 3, symmetric=False)
            >>> quantizer.set_range(-1.0, 2.5)
            >>> x = torch.tensor([-1.2, 0.3, 9.0])
            >>> quantizer.activated(x, 0.0, None).detach()
            tensor([0.0000, 0.5000, 2.5000])
            >>> quantizer.activated(x, 0.0, None, residual=torch.ones(3)).detach()
            tensor([0.0000, 1.5000, 2.5000])
        """
        if not (self._is_one_pass() if residual is None else self.takes_sums()):
            return None
        y = self._forward(x, activation_min, activation_max, residual)
        if self._told is not None:
            self._told(self, x if residual is None else None, y, activation_min, activation_max)
        return y

    def takes_sums(self) -> bool:
        """Whether :meth:`activated` would take a residual, as the quantizer is now."""
        return self._is_one_pass() and (self._told is None or not self._learns())

    def _is_one_pass(self) -> bool:
        if self._bypass or self._dynamic or self._parametrization == "pact" or type(self) is not QuantizeDequantize:
            return False
        hooks = self._forward_pre_hooks or self._forward_hooks or self._backward_pre_hooks or self._backward_hooks
        return not hooks

    def _forward(self, x: Tensor, *before: float | Tensor | None) -> Tensor:
        """``before``: the ends of an activation and a residual."""
        if self._parametrization == "pact":
            return self._forward_pact(x)
        op, arguments = self._call(x, *before)
        y = op(x, *arguments)
        return y[0] if self._dynamic else y

    def _call(self, x: Tensor, *before: float | Tensor | None) -> tuple[Operator, tuple]:
        grid = self._grid
        if self._parametrization == "min_max" and not self._dynamic:
            return _ops.fake_quantize_range, (*self._range_arguments(x, self.min, self.max), *before)
        layout = self._layout
        blocks = None if layout.block_size is None else layout.blocks_for("QuantizeDequantize", x)
        if self._dynamic:
            clip = layout.on(x, self.clip) if self._clip_per_group else self.clip
            arguments = clip, grid.qmin, grid.qmax, grid.symmetric, self._axis, blocks, grid.zero_point
            return _ops.fake_quantize_dynamic, arguments
        scale, point = self.scale, self._centre if grid.symmetric else self.zero_point
        if not self._per_tensor:
            scale, point = layout.on(x, scale), None if point is None else layout.on(x, point)
        factor, (low, high, *residual) = self._grad_factor(x), before or (None, None)
        arguments = scale, point, grid.qmin, grid.qmax, self._axis, blocks, factor, low, high, True, *residual
        return _ops.fake_quantize, arguments

    def _forward_pact(self, x: Tensor) -> Tensor:
        """``fake_quantize(clip(x, 0, max))`` with the gradients of Choi 2018, section 3: 1 for x in (0, max), 1 for max
        where x >= max, and none for the rounding.

        The operator gives the zero point the sum of ``-scale * grad_y`` over what lies beyond the grid, in a fixed
        order. So max is handed over as a part of the zero point that is 0, and x from max on as infinite.
        """
        high, grid = self.max, self._grid
        if not (high.requires_grad and torch.is_grad_enabled()):
            return self._with_range(x, *self._ends())
        held = high.detach()
        if x.dtype == torch.float64:  # the arithmetic of float64 data is float64 throughout
            high, held = high.double(), held.double()
        scale, _ = _ops.encode_affine(torch.zeros_like(held), held, grid.qmin, grid.qmax, False)
        beyond = x.masked_fill(x >= scale * grid.steps, math.inf)
        point = grid.qmin - (high - held) / torch.where(held < 0, -scale, scale)
        return _ops.fake_quantize(beyond, scale, point, grid.qmin, grid.qmax, None, None, 1.0, 0.0)

    def _with_range(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return _ops.fake_quantize_range(x, *self._range_arguments(x, low, high))

    def _range_arguments(self, x: Tensor, low: Tensor, high: Tensor) -> tuple:
        grid, layout, blocks = self._grid, self._layout, None
        if not self._per_tensor:
            low, high = layout.on(x, low), layout.on(x, high)
            blocks = None if layout.block_size is None else layout.blocks_for("QuantizeDequantize", x)
        return low, high, grid.qmin, grid.qmax, grid.symmetric, grid.zero_point, self._axis, blocks


class Quantize(AffineQuantizer):
    __doc__ = (
        """Round a tensor to the codes of an integer grid.

    Codes are held as floats of x's type and carry a gradient, or with ``dtype`` as integers, which carry none.
"""
        + _ARGUMENTS
        + """        RuntimeError (from a call): there is no range yet.

    Further option: ``dtype``, one of torch.int8, uint8, int16, int32, or ``None``.

    Example:
        >>> quantizer = Quantize((1,), -4, 3, symmetric=True, dtype=torch.int8)
        >>> quantizer.set_range(-2.0, 1.5)
        >>> quantizer(torch.tensor([-1.2, 0.3, 9.0]))
        tensor([-2,  1,  3], dtype=torch.int8)
    """
    )

    def __init__(self, shape, *grid, dtype: torch.dtype | None = None, **options):
        super().__init__(shape, *grid, **options)
        self.dtype = dtype

    def _forward(self, x: Tensor) -> Tensor:
        if self._parametrization == "scale_zero_point":
            return self._codes(x, *self._trained_affine())
        if not self._dynamic:
            return self._with_range(x, self.min, self.max)
        return self._with_range(x, *self._range_of(x))

    def _with_range(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        if x.dtype == torch.float64:  # the arithmetic of float64 data is float64 throughout
            low, high = low.double(), high.double()
        return self._codes(x, *self._affine_of_range(low, high))

    def _codes(self, x: Tensor, scale: Tensor, point: Tensor | None) -> Tensor:
        grid, layout = self._grid, self._layout
        blocks = layout.blocks_for("Quantize", x)
        if not self._per_tensor:
            scale, point = layout.on(x, scale), None if point is None else layout.on(x, point)
        if point is not None and not point.requires_grad and grid.symmetric and grid.centre == 0:
            point = None
        return _ops.quantize(x, scale, point, grid.qmin, grid.qmax, self.dtype, self._axis, blocks)
