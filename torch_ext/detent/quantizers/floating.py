"""The quantizer to float formats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from .._layout import Layout
from ..defs import Granularity
from ..encodings import FloatEncoding
from ..float_format import FloatFormat
from ..observers import MinMaxObserver, PercentileObserver
from .aimet_names import FloatAimetNames
from .grid import FILL, REACH
from .quantizer import Operator, Quantizer

__all__ = ["FloatQuantizeDequantize"]

_ops = torch.ops.detent


def _modes_of(scaled: bool) -> tuple[str, ...]:
    return ("fixed", "dynamic") if scaled else ("fixed",)


class FloatQuantizeDequantize(FloatAimetNames, Quantizer):
    """Round a tensor to a float format of fewer bits and back, with a straight-through gradient.

    Without an observer the tensor is rounded to the format's own numbers; there is nothing to calibrate. With one there
    are scales: ``maxval``, the largest magnitude that calibration saw, falls on the format's largest number. Numbers
    beyond either become it, infinities too; NaN stays NaN (:func:`detent.functional.float_cast`).

    Percentile and moving-average observers choose ``maxval`` as they choose ranges; of the others, which weigh the
    steps of integer grids, the extremes count.

    Args:
        exponent_bits, mantissa_bits, finite, unsigned_zero: As :class:`detent.float_format.FloatFormat` takes them.
        dtype: Instead of these, what :meth:`FloatFormat.of` takes: a torch type, its name or a ``FloatFormat``.
        shape: Shape of the scales, as for :class:`QuantizeDequantize`; ``None``: the observer's, else ``(1,)``.
        block_size: Elements per scale along each dimension of ``shape``.
        encoding_analyzer: AIMET's name of ``observer``.
        observer: What calibration collects with; ``None``: no scale.
        mode: ``"fixed"``, or with a scale ``"dynamic"``: scales follow the parameter.
    Raises:
        ValueError: An argument is none of these. TypeError: the format is missing, or given twice.
        RuntimeError (from a call): There is to be a scale, and none yet.
    Example:
        >>> FloatQuantizeDequantize(dtype=torch.float8_e4m3fn)(torch.tensor([0.3, 17.0, 1e6])).tolist()
        [0.3125, 16.0, 448.0]
        >>> quantizer = FloatQuantizeDequantize(5, 2, encoding_analyzer=detent.observers.MinMaxObserver((1,)))
        >>> with quantizer.compute_encodings():
        ...     _ = quantizer(torch.tensor([-3.5, 2.0]))
        >>> quantizer.maxval, quantizer.get_scale()
        (tensor([3.5000]), tensor([6.1035e-05]))
    """

    __jit_unused_properties__ = [
        *Quantizer.__jit_unused_properties__, "exponent_bits", "format", "mantissa_bits", "scaled",
    ]  # fmt: skip

    def __init__(
        self,
        exponent_bits: int | None = None,
        mantissa_bits: int | None = None,
        finite: bool = False,
        unsigned_zero: bool = False,
        dtype: FloatFormat | torch.dtype | str | int | None = None,
        shape: int | Sequence[int] | None = None,
        block_size: Sequence[int] | None = None,
        encoding_analyzer: MinMaxObserver | None = None,
        *,
        observer: MinMaxObserver | None = None,
        mode: str = "fixed",
    ):
        owner = type(self).__name__
        given = exponent_bits is not None and mantissa_bits is not None
        if given == (dtype is not None) or (not given and (exponent_bits is not None or mantissa_bits is not None)):
            raise TypeError(
                f"{owner}: got exponent_bits={exponent_bits!r}, mantissa_bits={mantissa_bits!r} and dtype={dtype!r}, "
                "expected both numbers of bits, or a dtype."
            )
        if dtype is None:
            format = FloatFormat(exponent_bits, mantissa_bits, finite, unsigned_zero)
        else:
            format = FloatFormat.of(dtype)
        observer = encoding_analyzer if observer is None else observer
        if shape is None:
            shape = (1,) if observer is None else observer.shape
            block_size = None if observer is None else observer.block_size
        layout = Layout.of(owner, shape, block_size)
        super().__init__(layout, REACH, mode, observer)
        self._hold(format, observer is not None)
        self._check_mode(owner, mode)
        self.register_buffer("maxval", None)
        self.register_buffer("_unit", None, persistent=False)
        self._install(layout, mode, torch.device("cpu"))

    # --- structure ----------------------------------------------------------------------------------------------------

    def _hold(self, format: FloatFormat, scaled: bool) -> None:
        """Change what is rounded to; :meth:`_install` then makes the buffers."""
        if scaled and format.exponent_bits == 8:
            raise ValueError(
                f"{self._title()}: {format} came with a scale, expected none: it has the range of float32. Leave the "
                "observer out, or choose a format with fewer exponent bits."
            )
        self._format, self._scaled, self._modes = format, scaled, _modes_of(scaled)
        if not scaled:
            self._initialized, self._unseen = True, False

    def _install(self, layout: Layout, mode: str, device: torch.device) -> None:
        fixed = self._scaled and mode == "fixed"
        if not fixed:
            self.maxval = None
        elif self.maxval is None or self.maxval.shape != torch.Size(layout.shape):
            self.maxval = torch.full(layout.shape, FILL["maxval"], dtype=torch.float32, device=device)
        self._unit = None if self._scaled else torch.ones(1, dtype=torch.float32, device=device)
        super()._install(layout, mode, device)

    def _held(self) -> dict[str, Tensor]:
        return {} if self.maxval is None else {"maxval": self.maxval}

    def _calibrates(self) -> bool:
        return self._scaled and super()._calibrates()

    def _found_by(self, observer: MinMaxObserver, kind: type[MinMaxObserver] | None = None) -> tuple[Tensor, Tensor]:
        chosen = None if isinstance(observer, PercentileObserver) else MinMaxObserver
        return super()._found_by(observer, kind or chosen)

    # --- what it is ---------------------------------------------------------------------------------------------------

    @property
    def format(self) -> FloatFormat:
        """The format. Setting it (to what :meth:`FloatFormat.of` takes) keeps ``maxval``."""
        return self._format

    @format.setter
    def format(self, format: FloatFormat | torch.dtype | str | int) -> None:
        self._hold(FloatFormat.of(format), self._scaled)

    @property
    def exponent_bits(self) -> int:
        """Of the format."""
        return self._format.exponent_bits

    @property
    def mantissa_bits(self) -> int:
        """Of the format."""
        return self._format.mantissa_bits

    @property
    def bitwidth(self) -> int:
        """Bits of a number, the sign included."""
        return self._format.bits

    @property
    def scaled(self) -> bool:
        """Whether there are scales, to be calibrated."""
        return self._scaled

    @property
    def axis(self) -> int | None:
        """Channel dimension counted from the last (-1); ``None`` without scales per channel."""
        return super().axis if self._scaled else None

    @property
    def block_size(self) -> tuple[int, ...] | None:
        """Elements per scale along each dimension of ``shape``; ``None`` without blocks or without scales."""
        return super().block_size if self._scaled else None

    @property
    def granularity(self) -> Granularity:
        """Per tensor, per channel or per block; per tensor without scales."""
        return super().granularity if self._scaled else Granularity.per_tensor

    # --- numbers ------------------------------------------------------------------------------------------------------

    def is_initialized(self) -> bool:
        return not self._scaled or super().is_initialized()

    def _reach(self) -> Tensor:
        """What falls on the format's largest number."""
        if not self._scaled:
            return torch.full((1,), self._format.max, dtype=torch.float32, device=self._unit.device)
        return self._dynamic_range()[1] if self._dynamic else self.maxval

    def get_max(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """The largest value, shaped like the scales; ``None`` without a range.

        Args:
            dtype: Type to convert to; ``None``: float32.
        Raises:
            RuntimeError: The mode is ``"dynamic"`` and the parameter is not known.
        """
        return self._reach().to(dtype) if self.is_initialized() else None

    def get_min(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """The smallest value; otherwise as :meth:`get_max`."""
        reach = self.get_max(dtype)
        return None if reach is None else -reach

    def get_scale(self, dtype: torch.dtype | None = None) -> Tensor | None:
        """``maxval / format.max``; otherwise as :meth:`get_max`. ``None`` also where there are no scales."""
        return self._scale(self._reach()).to(dtype) if self._scaled and self.is_initialized() else None

    def _scale(self, reach: Tensor) -> Tensor:
        return reach / self._format.max

    @torch.no_grad()
    def _write_range(self, low: Tensor, high: Tensor) -> None:
        if not self._scaled:
            raise ValueError(
                f"{self._title()}: it rounds to the numbers of {self._format} and has no range to set. Build it with "
                "an observer for one."
            )
        grid = self._grid
        self.maxval.copy_(_ops.encode_min_max(low, high, grid.qmin, grid.qmax, grid.symmetric, None)[1])
        self._initialized, self._unseen = True, False
        self._refresh()

    def get_encoding(self) -> FloatEncoding | None:
        """The encoding as it is now, on the CPU; ``None`` where there is to be a range and none yet."""
        if not self.is_initialized():
            return None
        if not self._scaled:
            return FloatEncoding(self._format)
        return FloatEncoding(
            self._format, self.get_scale().cpu(), self.granularity, self._concrete_blocks(), self._known_axis()
        )

    def set_encoding(self, encoding: FloatEncoding, *, requires_grad: bool | None = None) -> None:
        """Take over an encoding: its format, and its scales or that it has none. The mode becomes ``"fixed"``.

        Args:
            encoding: Of no scales, or as many as ``shape`` has.
            requires_grad: Changes nothing: scales of float formats are not trained.
        Raises:
            ValueError: The encoding does not fit. Nothing has changed.
        """
        self._check_encoding(encoding, FloatEncoding)
        scale = encoding.scale
        if scale is not None and scale.numel() != math.prod(self.shape):
            raise ValueError(
                f"{self._title()}: the encoding has {scale.numel()} scales, expected {math.prod(self.shape)} for shape "
                f"{self.shape}."
            )
        self._hold(encoding.format, scale is not None)
        self._install(self._layout, "fixed", self._device())
        if scale is not None:
            reach = encoding.max.reshape(self.shape)
            self._write_range(-reach, reach)

    # --- state --------------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "format": asdict(self._format), "scaled": self._scaled}

    def _take_over(self, state: dict[str, Any], tensors: dict[str, Any], prefix: str) -> None:
        owner = prefix[:-1]
        if not isinstance(state["format"], dict):
            raise ValueError(f"{owner}: the state's format is {state['format']!r}, expected that of a FloatFormat.")
        format, scaled = FloatFormat(**state["format"]), bool(state["scaled"])
        layout = Layout.of(owner, state["shape"], state["block_size"])
        if state["mode"] not in _modes_of(scaled):
            raise ValueError(f"{owner}: mode is {state['mode']!r}, expected one of {', '.join(_modes_of(scaled))}.")
        device = self._device()
        self._hold(format, scaled)
        self._install(layout, state["mode"], device)
        self._fit_clip(tensors.get(prefix + "clip"))

    # --- the call -----------------------------------------------------------------------------------------------------

    def _forward(self, x: Tensor) -> Tensor:
        op, arguments = self._call(x)
        return op(x, *arguments)

    def _call(self, x: Tensor) -> tuple[Operator, tuple]:
        if not self._scaled:
            return self._cast(self._unit, None, None)
        return self._cast_with(x, self._range_of(x)[1] if self._dynamic else self.maxval)

    def _with_range(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        op, arguments = self._cast_with(x, high)
        return op(x, *arguments)

    def _cast_with(self, x: Tensor, reach: Tensor) -> tuple[Operator, tuple]:
        layout = self._layout
        scale = layout.on(x, self._scale(reach))
        return self._cast(scale, self._axis, layout.blocks_for(type(self).__name__, x))

    def _cast(self, scale: Tensor, axis: int | None, blocks: list[int] | None) -> tuple[Operator, tuple]:
        format = self._format
        return _ops.float_cast, (scale, format.mantissa_bits, format.min_exponent, format.max, axis, blocks)

    def _plain_state(self) -> tuple:
        return *super()._plain_state(), self._format, self._scaled

    def _type_in_words(self) -> str:
        return f"in {self._format}"

    def _grid_in_words(self) -> str:
        return str(self._format)

    def extra_repr(self) -> str:
        parts = [str(self._format)]
        if self._scaled:
            parts.append(f"shape={self.shape}")
            if self.block_size is not None:
                parts.append(f"block_size={self.block_size}")
            parts.append(f"mode={self.mode!r}")
        if not self.is_initialized():
            parts.append("no range yet")
        if not self._enabled:
            parts.append("off")
        return ", ".join(parts)
