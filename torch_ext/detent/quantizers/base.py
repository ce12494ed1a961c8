"""What all affine quantizers share: the grid, the modes of its range, and what a call does."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._layout import Layout
from ..defs import Granularity
from ..observers import MinMaxObserver
from .aimet_names import AimetNames
from .calibration import Calibration
from .grid import FILL, PARAMETERS, Grid
from .numbers import Numbers
from .saving import Saving
from .source import Source

__all__ = ["AffineQuantizer", "quantization_disabled"]

_MODES = ("fixed", "dynamic", "learned")


class AffineQuantizer(Numbers, Calibration, Saving, AimetNames, nn.Module):
    """Base of :class:`Quantize` and :class:`QuantizeDequantize`; see there for the arguments.

    A quantizer has a grid, a range and a mode. ``mode`` is

    ``"learned"``: the range is trained; its parameters require grad.
    ``"fixed"``: the range stays as calibrated; its parameters do not require grad. ``requires_grad_()`` switches.
    ``"dynamic"``: for parameters of a model: the range is ``clip`` times the tensor's own at every call.

    Setting ``mode`` moves between them; leaving ``"dynamic"`` starts at the range of that moment. Ranges stay float32
    under ``half()``, ``bfloat16()`` and ``to(dtype)``. While a quantizer is off, or passes float because calibration
    showed it no data, its range does not require grad whatever the mode: DistributedDataParallel waits for the gradient
    of each parameter that does.
    """

    # Tracing would compile properties; these are for people.
    __jit_unused_properties__ = [
        "axis", "bitwidth", "block_size", "enabled", "encoding_analyzer", "granularity", "mode", "parametrization",
        "qmax", "qmin", "shape", "signed", "symmetric", "use_symmetric_encodings",
    ]  # fmt: skip

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
        if observer is None:
            observer = encoding_analyzer
        if observer is not None and observer.shape != layout.shape:
            raise ValueError(
                f"{owner}: the observer has shape {observer.shape}, expected {layout.shape}, the quantizer's."
            )
        super().__init__()
        self.observer = observer
        self.grad_scale = grad_scale
        self._parametrization = parametrization
        self._enabled = True
        self._initialized = mode == "dynamic"
        self._unseen = False
        self._overwritable = True
        #: Calibration of a symmetric range gives the grid 0 .. 2^b - 1 where there are no negative numbers.
        self.unsigned_symmetric = False
        self._signed_grid: Grid | None = None  # what it was before
        self._observing: str | None = None
        self._collector: MinMaxObserver | None = None
        self._source: Source | None = None
        self._label = ""
        self._grid = checked
        for name in PARAMETERS[parametrization]:
            self.register_parameter(name, None)
        self.register_buffer("clip", None)
        self.register_buffer("_centre", None, persistent=False)
        self._install(layout, mode, torch.device("cpu"))

    @classmethod
    def _check_options(cls, owner: str, mode: str, parametrization: str, grad_scale: float | str) -> None:
        if mode not in _MODES:
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
        """Make parameters and buffers those of ``mode``; those that already fit are kept as they are."""
        self._layout = layout
        self._axis = layout.axis
        self._per_tensor = layout.granularity is Granularity.per_tensor
        self._dynamic = mode == "dynamic"
        for name in PARAMETERS[self._parametrization]:
            held = self._parameters[name]
            if self._dynamic or (name == "zero_point" and self._grid.symmetric):
                self._parameters[name] = None
            elif held is None or held.shape != torch.Size(layout.shape):
                fresh = torch.full(layout.shape, FILL[name], dtype=torch.float32, device=device)
                self._parameters[name] = nn.Parameter(fresh)
        self._suspended = False
        for parameter in self.parameters():
            parameter.requires_grad_(mode == "learned")
        if not self._dynamic:
            self.clip = None
        elif self.clip is None:
            self.clip = torch.ones(1, dtype=torch.float32, device=device)
        self._clip_per_group = self.clip is not None and self.clip.numel() > 1
        self._install_centre(device)
        self._note_versions()
        self._refresh()

    def _install_centre(self, device: torch.device) -> None:
        """A symmetric grid's zero point as the operators take it, where the range is held as a scale."""
        needed = self._parametrization == "scale_zero_point" and self._grid.symmetric and self._grid.centre != 0
        centre = torch.full(self._layout.shape, float(self._grid.centre), dtype=torch.float32, device=device)
        self._centre = centre if needed else None

    def _device(self) -> torch.device:
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")

    def _refresh(self) -> None:
        self._bypass = not (self._enabled and self._initialized) or self._observing is not None
        idle = self._unseen or not self._enabled
        if idle != self._suspended and (self._suspended or self.mode == "learned"):
            self._suspended = idle
            for parameter in self.parameters():
                parameter.requires_grad_(not idle)

    def _note_versions(self) -> None:
        self._versions = [parameter._version for parameter in self.parameters() if not parameter.is_inference()]

    def _apply(self, fn, recurse=True):
        def keeping_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keeping_dtype, recurse)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the range."""
        return self._layout.shape

    @property
    def block_size(self) -> tuple[int, ...] | None:
        """Elements per scale along each dimension of ``shape``; ``None`` without blocks."""
        return self._layout.block_size

    @property
    def axis(self) -> int | None:
        """Channel dimension counted from the last (-1); ``None`` per tensor and per block."""
        return self._layout.axis

    @property
    def granularity(self) -> Granularity:
        """Per tensor, per channel or per block."""
        return self._layout.granularity

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

    @property
    def enabled(self) -> bool:
        """Off, the quantizer returns its input untouched and observes nothing."""
        return self._enabled

    @enabled.setter
    def enabled(self, enabled: bool) -> None:
        self._enabled = bool(enabled)
        self._refresh()

    @property
    def mode(self) -> str:
        """``"fixed"``, ``"dynamic"`` or ``"learned"``.

        Raises (when set):
            ValueError: It is none of the three, or ``"dynamic"`` with scale and zero_point parameters.
            RuntimeError: Leaving ``"dynamic"`` without knowing the parameter that the range is derived from.
        """
        if self._dynamic:
            return "dynamic"
        learned = self._suspended or any(parameter.requires_grad for parameter in self.parameters())
        return "learned" if learned else "fixed"

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode == self.mode:
            return
        self._check_options(type(self).__name__, mode, self._parametrization, self.grad_scale)
        device = self._device()
        if mode == "dynamic":
            self._install(self._layout, mode, device)
            self._initialized, self._unseen = True, False
            self._refresh()
        elif self._dynamic and self._initialized:
            low, high = self._dynamic_range()
            self._install(self._layout, mode, device)
            self._write_range(low, high)
        else:
            self._install(self._layout, mode, device)

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

    def _replicate_for_data_parallel(self) -> AffineQuantizer:
        self._initialized = self.is_initialized()  # replicas hold no parameters that could tell
        self._refresh()
        return super()._replicate_for_data_parallel()

    # --- the call -----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        if self._bypass:
            return self._forward_otherwise(x)
        return self._forward(x)

    def _forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _with_range(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        raise NotImplementedError

    def _forward_otherwise(self, x: Tensor) -> Tensor:
        """Off, observing, or without a range."""
        if not self._enabled:
            return x
        if self._observing is not None:
            self._collector.update(x)
            if self._observing == "pass":
                return x
            alone, grid = self._new_observer(), self._grid
            alone.update(x)
            return self._with_range(x, *alone.range(grid.qmin, grid.qmax, grid.symmetric, grid.zero_point))
        if self._unseen:
            self._warn_unseen()
            return x
        if not self.is_initialized():
            raise RuntimeError(
                f"{self._title()} has no range yet. Run compute_encodings() with a few batches of representative data "
                "first, give it one with set_range(min, max), or load a calibrated state_dict."
            )
        self._initialized = True
        self._refresh()
        return self._forward(x)

    def _warn_unseen(self) -> None:
        if not getattr(self, "_warned", False):
            self._warned = True
            warnings.warn(
                f"{self._title()} saw no data during calibration and passes its input in float. Calibrate with data "
                "that reaches it.",
                stacklevel=4,
            )

    def _title(self) -> str:
        return f"{type(self).__name__} {self._label!r}" if self._label else type(self).__name__

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


@contextlib.contextmanager
def quantization_disabled(module: nn.Module) -> Iterator[nn.Module]:
    """Inside, every quantizer in ``module`` is off: a quantized model computes what its float twin does, bit for bit.

    On leaving, each quantizer is on or off as it was before.

    Example:
        >>> quantizer = QuantizeDequantize((1,), 8, symmetric=True)
        >>> quantizer.set_range(-1.28, 1.27)
        >>> with quantization_disabled(quantizer), torch.no_grad():
        ...     quantizer(torch.tensor([0.123]))
        tensor([0.1230])
    """
    before = [(child, child.enabled) for child in module.modules() if isinstance(child, AffineQuantizer)]
    for quantizer, _ in before:
        quantizer.enabled = False
    try:
        yield module
    finally:
        for quantizer, enabled in before:
            quantizer.enabled = enabled
