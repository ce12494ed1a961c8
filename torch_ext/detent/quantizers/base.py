"""What all affine quantizers share: the grid, the modes of its range, and what a call does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .._layout import Layout
from ..defs import Granularity
from ..observers import MinMaxObserver
from .aimet_names import AffineAimetNames
from .grid import FILL, PARAMETERS, Grid
from .numbers import Numbers
from .quantizer import Quantizer

__all__ = ["AffineQuantizer"]


class AffineQuantizer(Numbers, AffineAimetNames, Quantizer):
    """Base of :class:`Quantize` and :class:`QuantizeDequantize`; see there for the arguments.

    Its range lies on a grid of integers and is held in parameters. They require grad in mode ``"learned"`` and not in
    ``"fixed"``; ``requires_grad_()`` switches between the two. While a quantizer is off, or passes float because
    calibration showed it no data, its range does not require grad whatever the mode: DistributedDataParallel waits for
    the gradient of each parameter that does.
    """

    __jit_unused_properties__ = [
        *Quantizer.__jit_unused_properties__, "parametrization", "qmax", "qmin", "signed", "symmetric",
        "use_symmetric_encodings",
    ]  # fmt: skip

    _modes = ("fixed", "dynamic", "learned")
    _parametrizations = ("min_max", "scale_zero_point")
    _suspended = False  # learned, but without requires_grad while off or unseen

    def __init__(
        self,
        shape: int | Sequence[int],
        *grid: Any,
        bitwidth: int | None = None,
        qmin: int | None = None,
        qmax: int | None = None,
        symmetric: bool | None = None,
        zero_point: int | None = None,
        block_size: Sequence[int] | None = None,
        observer: MinMaxObserver | None = None,
        encoding_analyzer: MinMaxObserver | None = None,
        mode: str = "learned",
        parametrization: str = "min_max",
        grad_scale: float | str = 1.0,
    ):
        owner = type(self).__name__
        self._check_options(owner, mode, parametrization, grad_scale)
        layout = Layout.of(owner, shape, block_size)
        checked = self._read_grid(owner, grid, bitwidth, qmin, qmax, symmetric, zero_point)
        self._check_fit(owner, parametrization, layout, checked)
        super().__init__(layout, checked, mode, encoding_analyzer if observer is None else observer)
        self.grad_scale = grad_scale
        self._parametrization = parametrization
        #: Calibration of a symmetric range gives the grid 0 .. 2^b - 1 where there are no negative numbers.
        self.unsigned_symmetric = False
        self._signed_grid: Grid | None = None  # what it was before
        for name in PARAMETERS[parametrization]:
            self.register_parameter(name, None)
        self.register_buffer("_centre", None, persistent=False)
        self._install(layout, mode, torch.device("cpu"))

    @classmethod
    def _check_options(cls, owner: str, mode: str, parametrization: str, grad_scale: float | str) -> None:
        if mode not in cls._modes:
            raise ValueError(f"{owner}: mode is {mode!r}, expected 'fixed', 'dynamic' or 'learned'.")
        if parametrization not in cls._parametrizations:
            expected = ", ".join(map(repr, cls._parametrizations))
            raise ValueError(f"{owner}: parametrization is {parametrization!r}, expected one of {expected}.")
        if mode == "dynamic" and parametrization != "min_max":
            raise ValueError(
                f"{owner}: mode 'dynamic' came with parametrization {parametrization!r}, expected 'min_max'. "
                "A dynamic range is derived from the tensor and has no parameters of its own."
            )
        known = grad_scale == "lsq" or isinstance(grad_scale, (int, float))
        if not known or (grad_scale != "lsq" and not (math.isfinite(grad_scale) and grad_scale > 0)):
            raise ValueError(f"{owner}: grad_scale is {grad_scale!r}, expected a positive number or 'lsq'.")
        if grad_scale != 1.0 and parametrization != "scale_zero_point":
            raise ValueError(
                f"{owner}: grad_scale={grad_scale!r} came with parametrization {parametrization!r}, expected "
                "'scale_zero_point', the parametrization it belongs to."
            )

    @staticmethod
    def _check_fit(owner: str, parametrization: str, layout: Layout, grid: Grid) -> None:
        if parametrization == "pact" and not (layout.granularity is Granularity.per_tensor and grid.begins_at_zero()):
            raise ValueError(
                f"{owner}: parametrization 'pact' came with shape {layout.shape} and a grid of {grid.qmin} .. "
                f"{grid.qmax} that is {'symmetric' if grid.symmetric else 'asymmetric'}, expected one scale per tensor "
                "and a lowest code that stands for 0."
            )

    @staticmethod
    def _read_grid(owner, positional, bitwidth, qmin, qmax, symmetric, zero_point) -> Grid:
        names = ("bitwidth", "symmetric") if len(positional) > 1 and isinstance(positional[1], bool) else None
        if names is None:
            by_bits = bitwidth is not None or (len(positional) == 1 and qmax is None)
            names = ("bitwidth", "symmetric") if by_bits else ("qmin", "qmax", "symmetric")
        given = {"bitwidth": bitwidth, "qmin": qmin, "qmax": qmax, "symmetric": symmetric}
        for name, value in zip(names, positional):
            if given[name] is not None:
                raise TypeError(f"{owner}: {name} was given twice, as {value!r} and {given[name]!r}.")
            given[name] = value
        if len(positional) > len(names):
            raise TypeError(f"{owner}: got {len(positional)} arguments after shape, expected {', '.join(names)}.")
        missing = [name for name in names if given[name] is None]
        if missing:
            raise TypeError(
                f"{owner}: {' and '.join(missing)} missing; the arguments are (shape, bitwidth, symmetric) or "
                "(shape, qmin, qmax, symmetric)."
            )
        if given["bitwidth"] is None:
            return Grid.of(owner, given["qmin"], given["qmax"], given["symmetric"], zero_point)
        if given["qmin"] is not None or given["qmax"] is not None:
            raise TypeError(f"{owner}: got both bitwidth and qmin or qmax, expected one or the other.")
        return Grid.of_bitwidth(owner, given["bitwidth"], given["symmetric"], zero_point)

    # --- structure ----------------------------------------------------------------------------------------------------

    def _install(self, layout: Layout, mode: str, device: torch.device) -> None:
        dynamic = mode == "dynamic"
        for name in PARAMETERS[self._parametrization]:
            held = self._parameters[name]
            if dynamic or (name == "zero_point" and self._grid.symmetric):
                self._parameters[name] = None
            elif held is None or held.shape != torch.Size(layout.shape):
                fresh = torch.full(layout.shape, FILL[name], dtype=torch.float32, device=device)
                self._parameters[name] = nn.Parameter(fresh)
        self._suspended = False
        for parameter in self.parameters():
            parameter.requires_grad_(mode == "learned")
        self._install_centre(layout, device)
        super()._install(layout, mode, device)

    def _install_centre(self, layout: Layout, device: torch.device) -> None:
        """A symmetric grid's zero point as the operators take it, where the range is held as a scale."""
        needed = self._parametrization == "scale_zero_point" and self._grid.symmetric and self._grid.centre != 0
        centre = torch.full(layout.shape, float(self._grid.centre), dtype=torch.float32, device=device)
        self._centre = centre if needed else None

    def _refresh(self) -> None:
        super()._refresh()
        idle = self._unseen or not self._enabled
        if idle != self._suspended and (self._suspended or self.mode == "learned"):
            self._suspended = idle
            for parameter in self.parameters():
                parameter.requires_grad_(not idle)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def parametrization(self) -> str:
        """``"min_max"``, ``"scale_zero_point"`` or, for a range that begins at 0, ``"pact"``.

        Setting it keeps scale and zero point, makes new parameters, and sets ``grad_scale`` to 1; a dynamic range
        becomes learned.

        Raises (when set):
            ValueError: It is none of these, or the range does not fit it. Nothing has changed.
            RuntimeError: As for :attr:`mode`.
        """
        return self._parametrization

    @parametrization.setter
    def parametrization(self, parametrization: str) -> None:
        self._check_options(type(self).__name__, "learned", parametrization, 1.0)
        if parametrization == self._parametrization:
            return
        self._check_fit(self._title(), parametrization, self._layout, self._grid)
        if self.is_initialized() and parametrization == "pact":
            self._check_begins_at_zero(self._affine()[1])
        if self._dynamic:
            self.mode = "learned"
        mode, device = self.mode, self._device()
        affine = [tensor.detach() for tensor in self._affine()] if self.is_initialized() else None
        size = None
        if "scale_zero_point" not in (parametrization, self._parametrization):
            low, high = self._ends()
            size = (high - low).detach()  # divided by the same number of steps: the same scale
        self._hold_as(parametrization, 1.0)
        self._install(self._layout, mode, device)
        if affine is not None:
            if size is None:
                self._write_affine(*affine)
            else:
                self._write_range(torch.zeros_like(size), size)

    def _hold_as(self, parametrization: str, grad_scale: float | str) -> None:
        """Change what a range is held as; :meth:`_install` then makes the parameters."""
        if parametrization != self._parametrization:
            for name in PARAMETERS[self._parametrization]:
                del self._parameters[name]
            for name in PARAMETERS[parametrization]:
                self.register_parameter(name, None)
        self._parametrization, self.grad_scale = parametrization, grad_scale

    @property
    def qmin(self) -> int:
        """Lower end of the grid."""
        return self._grid.qmin

    @property
    def qmax(self) -> int:
        """Upper end of the grid."""
        return self._grid.qmax

    @property
    def bitwidth(self) -> int:
        """Bits per integer. Setting it keeps the range and rebuilds the grid with the same signedness."""
        return self._grid.bitwidth

    @bitwidth.setter
    def bitwidth(self, bitwidth: int) -> None:
        whole = Grid.of_bitwidth(type(self).__name__, bitwidth, True)
        shift = 0 if self.signed else -whole.qmin
        self._change_grid(whole.qmin + shift, whole.qmax + shift, self.symmetric, self._grid.zero_point)

    @property
    def signed(self) -> bool:
        """Whether the grid has negative codes. Setting it moves the grid by half its size."""
        return self._grid.qmin < 0

    @signed.setter
    def signed(self, signed: bool) -> None:
        if signed != self.signed:
            shift = 2 ** (self.bitwidth - 1) * (-1 if signed else 1)
            fixed = self._grid.zero_point
            self._change_grid(
                self.qmin + shift, self.qmax + shift, self.symmetric, None if fixed is None else fixed + shift
            )

    @property
    def symmetric(self) -> bool:
        """Whether the zero point is fixed by the grid."""
        return self._grid.symmetric

    @symmetric.setter
    def symmetric(self, symmetric: bool) -> None:
        self._change_grid(self.qmin, self.qmax, symmetric, self._grid.zero_point if symmetric else None)

    def _change_grid(self, qmin: int, qmax: int, symmetric: bool, zero_point: int | None) -> None:
        grid = Grid.of(type(self).__name__, qmin, qmax, symmetric, zero_point)
        self._check_fit(self._title(), self._parametrization, self._layout, grid)
        kept = None
        if self._parametrization == "scale_zero_point" and self.is_initialized():
            kept = self.get_min().detach(), self.get_max().detach()
        self._grid = grid
        self._install(self._layout, self.mode, self._device())
        if kept is not None:
            self._write_range(*kept)

    def _learns(self) -> bool:
        return self._suspended or any(parameter.requires_grad for parameter in self.parameters())

    def _check_mode(self, owner: str, mode: str) -> None:
        self._check_options(owner, mode, self._parametrization, self.grad_scale)

    def requires_grad_(self, requires_grad: bool = True) -> AffineQuantizer:
        """Switch between ``"learned"`` and ``"fixed"``. A dynamic range has no gradient to switch off and becomes
        learned when switched on."""
        if self._dynamic:
            if requires_grad:
                self.mode = "learned"
            return self
        self._suspended = False
        super().requires_grad_(requires_grad)
        self._refresh()
        return self

    # --- state --------------------------------------------------------------------------------------------------------

    def _plain_state(self) -> tuple:
        return *super()._plain_state(), self._parametrization

    def _state(self) -> dict[str, Any]:
        return {
            **super()._state(),
            "qmin": self.qmin,
            "qmax": self.qmax,
            "symmetric": self.symmetric,
            "zero_point": self._grid.zero_point,
            "parametrization": self._parametrization,
            "grad_scale": self.grad_scale,
        }

    def _take_over(self, state: dict[str, Any], tensors: dict[str, Any], prefix: str) -> None:
        parametrization, grad_scale = state["parametrization"], state["grad_scale"]
        layout = Layout.of(prefix[:-1], state["shape"], state["block_size"])
        grid = Grid.of(prefix[:-1], state["qmin"], state["qmax"], state["symmetric"], state["zero_point"])
        self._check_options(prefix[:-1], state["mode"], parametrization, grad_scale)
        self._check_fit(prefix[:-1], parametrization, layout, grid)
        for name in PARAMETERS[parametrization]:
            value = tensors.get(prefix + name)
            if value is not None and value.numel() != math.prod(layout.shape):
                raise ValueError(f"{prefix}{name} has shape {tuple(value.shape)}, expected {layout.shape}.")
        device = self._device()
        self._grid = grid
        self._hold_as(parametrization, grad_scale)
        self._install(layout, state["mode"], device)
        self._fit_clip(tensors.get(prefix + "clip"))

    def _type_in_words(self) -> str:
        return f"at {self.bitwidth} bits"

    def _grid_in_words(self) -> str:
        return f"{'symmetric' if self.symmetric else 'asymmetric'} {self.qmin} .. {self.qmax}"

    def extra_repr(self) -> str:
        parts = [f"shape={self.shape}", f"qmin={self.qmin}", f"qmax={self.qmax}", f"symmetric={self.symmetric}"]
        if self._grid.zero_point is not None:
            parts.append(f"zero_point={self._grid.zero_point}")
        if self.block_size is not None:
            parts.append(f"block_size={self.block_size}")
        parts.append(f"mode={self.mode!r}")
        if self._parametrization != "min_max":
            parts.append(f"parametrization={self._parametrization!r}")
        if not self.is_initialized():
            parts.append("no range yet")
        if not self._enabled:
            parts.append("off")
        return ", ".join(parts)
