"""The numbers of a quantizer: range, scale and zero point as they are now, read and written."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from ..encodings import AffineEncoding
from .grid import Grid

_ops = torch.ops.detent


class Numbers:
    """Part of :class:`AffineQuantizer`."""

    def _affine_of_range(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """scale and zero_point of a range: the kernel's numbers, with a gradient where the range carries one."""
        grid = self._grid
        with torch.no_grad():
            scale, zero_point = _ops.encode_affine(
                low.detach(), high.detach(), grid.qmin, grid.qmax, grid.symmetric, grid.zero_point
            )
        if not (low.requires_grad or high.requires_grad):
            return scale, zero_point
        # The value is the kernel's; what is added is zero and carries the slope of the formula in detent/encode.h.
        low, high = low.to(scale.dtype), high.to(scale.dtype)
        step = (high - low) / grid.steps
        scale = scale + torch.where(step < 0, -1.0, 1.0) * (step - step.detach())
        if not grid.symmetric:
            code = grid.qmin - low / scale
            inside = (torch.round(code.detach()) >= grid.qmin) & (torch.round(code.detach()) <= grid.qmax)
            zero_point = zero_point + torch.where(inside, code - code.detach(), torch.zeros_like(code))
        return scale, zero_point

    def _ends(self) -> tuple[Tensor, Tensor]:
        """min and max, where a range is held as such."""
        return (torch.zeros_like(self.max) if self._parametrization == "pact" else self.min), self.max

    def _affine(self) -> tuple[Tensor, Tensor]:
        """The effective scale and zero_point, shaped like the range."""
        if self._dynamic:
            return self._affine_of_range(*self._dynamic_range())
        if self._parametrization != "scale_zero_point":
            return self._affine_of_range(*self._ends())
        return self._trained_affine()

    def _trained_affine(self) -> tuple[Tensor, Tensor]:
        """The held scale and zero_point as the kernels use them, with a gradient where they carry one."""
        grid, held = self._grid, self.scale.detach()
        point = torch.full_like(held, grid.centre) if grid.symmetric else self.zero_point
        scale, zero_point = _ops.encode_trained(held, point.detach(), grid.qmin, grid.qmax)
        # What is added is zero and carries the slope.
        if self.scale.requires_grad:
            scale = torch.addcmul(scale, torch.where(held < 0, -1.0, 1.0), self.scale - held)
        if point.requires_grad:
            zero_point = zero_point + (point - point.detach())
        return scale, zero_point

    def _grad_factor(self, x: Tensor) -> float:
        if self.grad_scale != "lsq":
            return float(self.grad_scale)
        elements = x.numel()
        if torch.jit.is_tracing():  # a traced module keeps the factor of the sample
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", torch.jit.TracerWarning)
                elements = int(elements)
        return 1.0 / math.sqrt(max(elements // math.prod(self.shape), 1) * max(self._grid.qmax, 1))

    def get_scale(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Real units per step as the kernels use them, shaped like the range; ``None`` without a range.

        In mode ``"learned"`` it carries a gradient to the parameters.

        Args:
            dtype: Type to convert to; ``None``: float32, float64 for grids beyond +-2**23.
        Raises:
            RuntimeError: The mode is ``"dynamic"`` and the parameter is not known.
        """
        return self._affine()[0].to(dtype) if self.is_initialized() else None

    def get_zero_point(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """The integer that stands for 0.0, held in a float type; otherwise as :meth:`get_scale`."""
        if not self.is_initialized():
            return None
        point = self._affine()[1]
        return (point + (point.round() - point).detach()).to(dtype)

    def get_offset(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """``-zero_point``, as encodings files count it before they add ``qmin``."""
        point = self.get_zero_point(dtype)
        return None if point is None else 0 - point  # never -0

    def get_min(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Smallest value on the grid, shaped like the range; otherwise as :meth:`get_scale`."""
        return self._end(self._grid.qmin, dtype)

    def get_max(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """Largest value on the grid, shaped like the range; otherwise as :meth:`get_scale`."""
        return self._end(self._grid.qmax, dtype)

    def _end(self, code: int, dtype: torch.dtype | None) -> Tensor | None:
        if not self.is_initialized():
            return None
        scale, point = self._affine()
        point = point + (point.round() - point).detach()
        return ((code - point) * scale).to(dtype)

    def get_encoding(self) -> AffineEncoding | None:
        """The encoding as it is now, on the CPU; ``None`` without a range.

        Raises:
            ValueError: The scale is not finite, because training diverged.
        """
        if not self.is_initialized():
            return None
        with torch.no_grad():
            scale, point = (tensor.cpu() for tensor in self._affine())
        return AffineEncoding(
            scale, self._grid.qmin - point.round(), self.bitwidth, self.symmetric, self.granularity, self._grid.steps,
            self._concrete_blocks(), self._known_axis(),
        )  # fmt: skip

    def set_encoding(self, encoding: AffineEncoding, *, requires_grad: bool | None = None) -> None:
        """Take over an encoding: bitwidth, symmetry and range. Mode ``"dynamic"`` becomes ``"fixed"``.

        Args:
            encoding: As many scales as this quantizer has groups. Its grid keeps this quantizer's signedness, or where
                only the other fits its zero point, takes that.
            requires_grad: ``True`` and ``False`` make the mode ``"learned"`` and ``"fixed"``; ``None`` leaves it.
        Raises:
            ValueError: The encoding does not fit. Nothing has changed.
        """
        self._check_encoding(encoding, AffineEncoding)
        if encoding.scale.numel() != math.prod(self.shape):
            raise ValueError(
                f"{self._title()}: the encoding has {encoding.scale.numel()} scales, expected {math.prod(self.shape)} "
                f"for shape {self.shape}."
            )
        bits = encoding.bitwidth
        low = -(2 ** (bits - 1)) if self.signed else 0
        high = low + 2**bits - 1
        low = high - encoding.num_steps  # a strict grid leaves out its lowest code
        points = encoding.zero_point(low)
        if not bool(((points >= low) & (points <= high)).all()):
            raise ValueError(f"{self._title()}: the encoding's offset is {encoding.offset.flatten()[:4].tolist()}, "
                             f"expected {-encoding.num_steps} .. 0.")  # fmt: skip
        fixed = None
        if encoding.is_symmetric:
            first = int(points.flatten()[0])
            if not bool((points == first).all()):
                raise ValueError(f"{self._title()}: a symmetric encoding has several zero points, expected one.")
            fixed = None if first == round((low + high) / 2) else first
        grid = Grid.of(type(self).__name__, low, high, encoding.is_symmetric, fixed)
        self._check_fit(self._title(), self._parametrization, self._layout, grid)
        if self._parametrization == "pact":
            self._check_begins_at_zero(points, low)
        held = AffineEncoding(
            encoding.scale.reshape(self.shape), encoding.offset.reshape(self.shape), bits,
            encoding.is_symmetric, self.granularity, encoding.num_steps, self.block_size,
        )  # fmt: skip
        ends = held.range(grid.qmin, grid.qmax, grid.symmetric, grid.zero_point)
        mode = "fixed" if self._dynamic else self.mode
        if requires_grad is not None:
            mode = "learned" if requires_grad else "fixed"
        self._grid = grid
        self._install(self._layout, mode, self._device())
        self._write_range(*ends)

    def _check_ends(self, low: Tensor, high: Tensor) -> None:
        super()._check_ends(low, high)
        if self._parametrization == "pact" and bool(low.any()):
            raise ValueError(
                f"{self._title()}: min is {low.item():.4g}, expected 0, where ranges of parametrization 'pact' begin. "
                "Set another parametrization first."
            )

    def _check_begins_at_zero(self, point: Tensor, qmin: int | None = None) -> None:
        qmin = self._grid.qmin if qmin is None else qmin
        if not bool((point == qmin).all()):
            raise ValueError(
                f"{self._title()}: the range has zero point {point.flatten()[:4].tolist()} on a grid from {qmin}, "
                f"expected a range that begins at 0, zero point {qmin}, for parametrization 'pact'."
            )

    def _choose_sign(self, values: Tensor) -> None:
        """With ``unsigned_symmetric``, ``0 .. 2^b - 1`` around zero point 0 where nothing is negative."""
        if not (self.unsigned_symmetric and self.symmetric) or self._parametrization == "pact":
            return
        nonnegative = bool((values >= 0).all())
        if nonnegative and self.signed:
            self._signed_grid = self._grid
            self._change_grid(0, 2**self.bitwidth - 1, True, 0)
        elif not nonnegative and not self.signed:
            whole, kept = Grid.of_bitwidth(self._title(), self.bitwidth, True), self._signed_grid
            grid = whole if kept is None or kept.bitwidth != self.bitwidth else kept
            self._change_grid(grid.qmin, grid.qmax, True, grid.zero_point)

    @torch.no_grad()
    def _write_range(self, low: Tensor, high: Tensor) -> None:
        if self._parametrization == "scale_zero_point":
            grid = self._grid
            self._write_affine(*_ops.encode_affine(low, high, grid.qmin, grid.qmax, grid.symmetric, grid.zero_point))
            return
        if self._parametrization == "min_max":
            self.min.copy_(low)
        self.max.copy_(high)
        self._initialized, self._unseen = True, False
        self._refresh()

    @torch.no_grad()
    def _write_affine(self, scale: Tensor, point: Tensor) -> None:
        grid = self._grid
        if self._parametrization != "scale_zero_point":
            self._write_range((grid.qmin - point) * scale, (grid.qmax - point) * scale)
            return
        self.scale.copy_(scale)
        if not grid.symmetric:
            self.zero_point.copy_(point)
        self._initialized, self._unseen = True, False
        self._refresh()
