"""What all quantizers share: whether they are on, what range they have, and what a call does."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .._layout import Layout
from ..defs import Granularity
from ..encodings import AffineEncoding, FloatEncoding
from ..observers import MinMaxObserver
from .aimet_names import AimetNames
from .calibration import Calibration
from .grid import FILL, Grid
from .keeping import KeptWeights
from .saving import Saving
from .source import Source

__all__ = ["Operator", "Quantizer", "quantization_disabled"]

_ops = torch.ops.detent

#: One of torch.ops.detent.
Operator = Callable[..., Any]


class Quantizer(Calibration, Saving, AimetNames, nn.Module):
    """Base of all quantizers: modules that round a tensor to what a device can hold.

    A quantizer has a range and a ``mode``, which says how the range moves:

    ``"fixed"``: it stays as calibrated.
    ``"dynamic"``: for parameters of a model: it is ``clip`` times the tensor's own at every call.
    ``"learned"``: it is trained; of integer grids only.

    Setting ``mode`` moves between them; leaving ``"dynamic"`` starts at the range of that moment. Ranges stay float32
    under ``half()``, ``bfloat16()`` and ``to(dtype)``. A call without a range raises.

    Subclasses say what they round to: ``_forward``, ``_with_range``, ``_install``, ``_check_mode``, ``_write_range``,
    ``_take_over``, and the numbers of their encoding.
    """

    # Tracing would compile properties; these are for people.
    __jit_unused_properties__ = [
        "axis", "bitwidth", "block_size", "enabled", "encoding_analyzer", "granularity", "mode", "shape",
    ]  # fmt: skip

    #: Whether it has scales.
    scaled = True
    #: What ``mode`` may be.
    _modes: tuple[str, ...] = ("fixed", "dynamic")
    #: Told what a call made of what: ``(quantizer, x, y)``; ``None`` for an x that was never made.
    _told: Callable[..., None] | None = None
    #: What was made of parameters and still holds, see :func:`detent.qat.cached_weights`.
    _kept_weights: KeptWeights | None = None

    def __init__(self, layout: Layout, grid: Grid, mode: str, observer: MinMaxObserver | None):
        if observer is not None and observer.shape != layout.shape:
            raise ValueError(
                f"{type(self).__name__}: the observer has shape {observer.shape}, expected {layout.shape}, the "
                "quantizer's."
            )
        super().__init__()
        self.observer = observer
        self._layout, self._grid = layout, grid  # a range is found for the grid
        self._dynamic = mode == "dynamic"
        self._enabled = True
        self._initialized = mode == "dynamic"
        self._unseen = False
        self._overwritable = True
        self._observing: str | None = None
        self._collector: MinMaxObserver | None = None
        self._source: Source | None = None
        self._label = ""
        self.register_buffer("clip", None)

    # --- structure ----------------------------------------------------------------------------------------------------

    def _install(self, layout: Layout, mode: str, device: torch.device) -> None:
        """Make parameters and buffers those of ``mode``; those that already fit are kept as they are."""
        self._layout = layout
        self._axis = layout.axis
        self._per_tensor = layout.granularity is Granularity.per_tensor
        self._dynamic = mode == "dynamic"
        if not self._dynamic:
            self.clip = None
        elif self.clip is None:
            self.clip = torch.ones(1, dtype=torch.float32, device=device)
        self._clip_per_group = self.clip is not None and self.clip.numel() > 1
        self._note_versions()
        self._refresh()

    def _held(self) -> dict[str, Tensor]:
        """The tensors that hold the range, by name."""
        return dict(self.named_parameters())

    def _refresh(self) -> None:
        self._bypass = not (self._enabled and self._initialized) or self._observing is not None

    def _device(self) -> torch.device:
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")

    def _note_versions(self) -> None:
        self._versions = [held._version for held in self._held().values() if not held.is_inference()]

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
            ValueError: It is none of those that this quantizer has, or does not go with what holds its range.
            RuntimeError: Leaving ``"dynamic"`` without knowing the parameter that the range is derived from.
        """
        return "dynamic" if self._dynamic else "learned" if self._learns() else "fixed"

    @mode.setter
    def mode(self, mode: str) -> None:
        if mode == self.mode:
            return
        self._check_mode(type(self).__name__, mode)
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

    def _learns(self) -> bool:
        return False

    def _check_mode(self, owner: str, mode: str) -> None:
        """Raise ValueError where this quantizer cannot be in ``mode``."""
        if mode not in self._modes:
            raise ValueError(f"{owner}: mode is {mode!r}, expected {' or '.join(map(repr, self._modes))}.")

    def _replicate_for_data_parallel(self) -> Quantizer:
        self._initialized = self.is_initialized()  # replicas hold no parameters that could tell
        self._refresh()
        return super()._replicate_for_data_parallel()

    # --- the range --------------------------------------------------------------------------------------------------

    def is_initialized(self) -> bool:
        """Whether there is a range: calibrated, set, loaded, or written in place into what holds it."""
        if self._initialized:
            return True
        held = {name: tensor for name, tensor in self._held().items() if not tensor.is_inference()}
        if not held or len(held) != len(self._versions):
            return False
        if not all(tensor._version > noted for tensor, noted in zip(held.values(), self._versions)):
            return False
        # DistributedDataParallel writes, in place, what rank 0 has: perhaps no range either.
        return any(bool((tensor != FILL[name]).any()) for name, tensor in held.items())

    def _followed(self) -> Tensor:
        tensor = self._source.tensor() if self._source is not None else None
        if tensor is None:
            raise RuntimeError(
                f"{self._title()} is dynamic and belongs to no parameter, so it has no range between calls. Put it "
                "into a quantized module's param_quantizers, or give it a range with set_range(min, max)."
            )
        return tensor.detach()

    def _range_of(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The dynamic range of x; no gradient goes through it."""
        layout, grid = self._layout, self._grid
        clip = layout.on(x, self.clip) if self._clip_per_group else self.clip
        blocks = layout.blocks_for(type(self).__name__, x)
        with torch.no_grad():
            _, low, high = _ops.fake_quantize_dynamic(
                x, clip, grid.qmin, grid.qmax, grid.symmetric, self._axis, blocks, grid.zero_point
            )
        return low.reshape(self.shape), high.reshape(self.shape)

    def _dynamic_range(self) -> tuple[Tensor, Tensor]:
        """The range of the followed parameter as it is now."""
        return self._range_of(self._followed())

    def _concrete_blocks(self) -> tuple[int, ...] | None:
        """block_size with the sizes of the followed parameter, where it is known."""
        tensor = self._source.tensor() if self._source is not None else None
        if self.block_size is None or tensor is None or tensor.dim() != len(self.shape):
            return self.block_size
        return tuple(self._layout.blocks_for(type(self).__name__, tensor))

    def _known_axis(self) -> int | None:
        """The axis of scales per channel, counted from the left where the rank of the followed parameter is known."""
        tensor = self._source.tensor() if self._source is not None else None
        return self._axis if self._axis is None or tensor is None else self._axis + tensor.dim()

    def set_range(self, min: Tensor | float | Sequence[float], max: Tensor | float | Sequence[float]) -> None:
        """Give the quantizer a range. Mode ``"dynamic"`` becomes ``"fixed"``; the others stay.

        Args:
            min, max: Ends of the range in real units, numbers or tensors that broadcast to ``shape`` (or have as many
                elements); finite, ``min <= max``.
        Raises:
            ValueError: They do not fit ``shape``, are not finite, or ``min > max``. Nothing has changed.
        """
        low, high = self._read_end("min", min), self._read_end("max", max)
        self._check_ends(low, high)
        if self._dynamic:
            self._install(self._layout, "fixed", self._device())
        self._write_range(low, high)

    def _check_ends(self, low: Tensor, high: Tensor) -> None:
        if not bool((torch.isfinite(low) & torch.isfinite(high) & (low <= high)).all()):
            raise ValueError(
                f"{self._title()}: min is {low.flatten()[:4].tolist()} and max {high.flatten()[:4].tolist()}, expected "
                "finite numbers with min <= max."
            )

    def _read_end(self, name: str, value: Tensor | float | Sequence[float]) -> Tensor:
        device = self._device()
        end = torch.as_tensor(value, dtype=torch.float32, device=device).detach()
        if end.numel() == math.prod(self.shape):
            return end.reshape(self.shape)
        try:
            return end.expand(self.shape)
        except RuntimeError:
            raise ValueError(
                f"{self._title()}: {name} has shape {tuple(end.shape)}, expected one that broadcasts to {self.shape}."
            ) from None

    def _check_takes_range(self) -> None:
        """Raise ValueError where there is no range to set, whatever it is."""

    def _check_encoding(self, encoding: AffineEncoding | FloatEncoding, kind: type) -> None:
        """Raise ValueError where an encoding is of another kind of quantizer."""
        if not isinstance(encoding, kind):
            raise ValueError(
                f"{self._title()}: the encoding is a {type(encoding).__name__}, expected {kind.__name__}. "
                "sim.load_encodings changes quantizers to the kind that a file says."
            )

    def reset(self) -> None:
        """Forget the range: the next forward raises until the quantizer is calibrated again."""
        self._initialized, self._unseen = False, False
        self._note_versions()
        self._refresh()

    # --- the call -----------------------------------------------------------------------------------------------------

    def forward(self, x: Tensor) -> Tensor:
        if self._bypass:
            return self._forward_otherwise(x)
        if not torch.compiler.is_compiling() and self._kept_weights is not None:
            kept = self._kept_weights.values(self, x)
            if kept is not None:
                return kept
        y = self._forward(x)
        if self._told is not None:
            self._told(self, x, y)
        return y

    def _forward(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def _with_range(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        raise NotImplementedError

    def _call(self, x: Tensor) -> tuple[Operator, tuple]:
        """The operator that :meth:`_forward` calls, and what it gives it after ``x``; of classes that can be kept."""
        raise NotImplementedError

    def _plain_state(self) -> tuple:
        """What :meth:`_call` depends on, beside tensors."""
        return self._dynamic, self._grid, self._layout

    def _forward_otherwise(self, x: Tensor) -> Tensor:
        """Off, observing, or without a range."""
        if not self._enabled:
            return x
        if self._observing is not None:
            self._collector.update(x)
            if self._observing == "pass":
                return x
            alone = self._new_observer()
            alone.update(x)
            return self._with_range(x, *self._found_by(alone))
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
    before = [(child, child.enabled) for child in module.modules() if isinstance(child, Quantizer)]
    for quantizer, _ in before:
        quantizer.enabled = False
    try:
        yield module
    finally:
        for quantizer, enabled in before:
            quantizer.enabled = enabled
