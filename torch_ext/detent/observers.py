"""Observers collect statistics of the tensors they are shown and turn them into a range."""

from __future__ import annotations

import copy
import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from ._layout import Layout
from .defs import QuantScheme

__all__ = [
    "EntropyObserver",
    "HistogramObserver",
    "MinMaxObserver",
    "MovingAverageObserver",
    "MseObserver",
    "PercentileObserver",
    "SqnrObserver",
    "observer_of",
]

_ops = torch.ops.detent

# Replicas of a model share observers, and several may run on one device. One lock for all: copies and pickles of an
# observer need not know of it.
_updating = threading.Lock()


class MinMaxObserver:
    """Running minimum and maximum over all batches; values that do not count are left out and counted.

    A value counts when it is finite and below half of its type's largest number in magnitude, so that attention masks
    do not widen a range. Statistics live on the device of the tensors shown, one set per device, so that replicas of a
    model may observe at the same time.

    Args:
        shape: Shape of the range, as for :class:`detent.quantizers.QuantizeDequantize`.
        block_size: Elements per scale along each dimension of ``shape``, or ``None``.
    Raises:
        ValueError: ``shape`` or ``block_size`` is not a sequence of sizes.
    Example:
        >>> observer = MinMaxObserver((1,))
        >>> observer.update(torch.tensor([-1.0, 0.5, float("inf")]))
        >>> observer.range(-128, 127, symmetric=False), int(observer.ignored)
        ((tensor([-1.]), tensor([0.5000])), 1)
    """

    momentum: float | None = None

    def __init__(self, shape: int | Sequence[int] = (1,), block_size: Sequence[int] | None = None):
        self._layout = Layout.of(type(self).__name__, shape, block_size)
        self._statistics: dict[torch.device, list[Tensor]] = {}  # device: min, max, ignored, and what a subclass adds

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the range."""
        return self._layout.shape

    @property
    def block_size(self) -> tuple[int, ...] | None:
        """Elements per scale along each dimension of ``shape``; ``None`` without blocks."""
        return self._layout.block_size

    def update(self, x: Tensor) -> None:
        """Take in one batch.

        Args:
            x: Float tensor that ``shape`` broadcasts to (or divides into blocks). An empty one changes nothing.
        Raises:
            ValueError: ``x`` does not fit ``shape``, or is not of a float type.
        """
        x = x.detach()
        if x.numel() == 0:
            return
        blocks = self._layout.blocks_for(type(self).__name__, x)
        if torch.compiler.is_compiling():  # which knows no locks
            self._take_in(x, blocks)
            return
        with _updating:
            self._take_in(x, blocks)

    def _take_in(self, x: Tensor, blocks: list[int] | None) -> None:
        held = self._statistics.get(x.device)
        if held is None:
            wide = x.dtype == torch.float64
            held = self._empty(x.device, torch.float64 if wide else torch.float32)
        elif x.dtype == torch.float64 and held[0].dtype != torch.float64:
            held = [held[0].double(), held[1].double(), *held[2:]]
        elif held[0].dtype == torch.float64:
            x = x.double()
        self._take(x, held, self._layout.axis, blocks)
        self._statistics[x.device] = held

    def _take(self, x: Tensor, held: list[Tensor], axis: int | None, blocks: list[int] | None) -> None:
        _ops.observe_min_max_update_(x, *held, self.momentum, axis, blocks)

    def _empty(self, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        with torch.inference_mode(False):  # an inference tensor could not be updated outside that mode
            low = torch.full(self.shape, float("inf"), dtype=dtype, device=device)
            return [low, torch.full_like(low, float("-inf")), torch.zeros_like(low, dtype=torch.int64)]

    def merge(self, other: MinMaxObserver) -> None:
        """Take in what ``other`` has seen; its own statistics stay as they are.

        Raises:
            ValueError: ``other`` observes another shape, or is of another kind.
        """
        if other._layout != self._layout:
            raise ValueError(
                f"merge: the other observer has shape {other.shape} and block_size {other._layout.block_size}, "
                f"expected {self.shape} and {self._layout.block_size}. Merge observers of the same tensor."
            )
        for device, theirs in other._statistics.items():
            held = self._statistics.get(device)
            copied = [tensor.clone() for tensor in theirs]
            self._statistics[device] = copied if held is None else self._joined(held, copied)

    def _joined(self, held: list[Tensor], other: list[Tensor]) -> list[Tensor]:
        device = held[0].device
        low, high, ignored = (tensor.to(device) for tensor in other)
        return [torch.minimum(held[0], low), torch.maximum(held[1], high), held[2] + ignored]

    def _collected(self) -> list[Tensor]:
        if not self._statistics:
            return self._empty(torch.device("cpu"), torch.float32)
        first, *others = self._statistics.values()
        for other in others:
            first = self._joined(first, other)
        return first

    def fresh(self, shape: int | Sequence[int] | None = None, block_size: Sequence[int] | None = None) -> MinMaxObserver:
        """An observer of this kind that has seen nothing, of the same or another shape.

        Args:
            shape, block_size: As at construction; without ``shape`` those of this one.
        """
        made = copy.copy(self)
        made._statistics = {}
        if shape is not None:
            made._layout = Layout.of(type(self).__name__, shape, block_size)
        return made

    def reset(self) -> None:
        """Forget everything."""
        self._statistics.clear()

    @property
    def seen(self) -> bool:
        """Whether any value counted. Reads the device."""
        low, high, *_ = self._collected()
        return bool((low <= high).any())

    @property
    def min(self) -> Tensor:
        """Smallest value that counted, shaped like the range; +inf where none did."""
        return self._collected()[0]

    @property
    def max(self) -> Tensor:
        """Largest value that counted, shaped like the range; -inf where none did."""
        return self._collected()[1]

    @property
    def ignored(self) -> Tensor:
        """How many values did not count, int64, shaped like the range."""
        return self._collected()[2]

    def range(self, qmin: int, qmax: int, symmetric: bool, zero_point: int | None = None) -> tuple[Tensor, Tensor]:
        """The range for a grid: zero inside, wide enough to have a scale, both sides matched if ``symmetric``.

        Args:
            qmin, qmax: Inclusive grid ends.
            symmetric: Whether the zero point is fixed by the grid.
            zero_point: That zero point where it is not the centre of the grid.
        Returns:
            ``(min, max)``, shaped like the range.
        Raises:
            ValueError: The grid is not one, or ``zero_point`` came without ``symmetric``.
        """
        return _ops.encode_min_max(*self._collected()[:2], qmin, qmax, symmetric, zero_point)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(shape={self.shape}, block_size={self._layout.block_size})"


class MovingAverageObserver(MinMaxObserver):
    """Exponential moving average of each batch's minimum and maximum (Jacob 2018, section 3.1).

    The first batch sets the statistics; each later one moves them by ``momentum`` of the difference.

    Args:
        shape, block_size: As in :class:`MinMaxObserver`.
        momentum: Weight of a new batch, in (0, 1].
    Raises:
        ValueError: ``momentum`` is outside (0, 1].
    Example:
        >>> observer = MovingAverageObserver((1,), momentum=0.5)
        >>> for top in (1.0, 3.0):
        ...     observer.update(torch.tensor([0.0, top]))
        >>> observer.max
        tensor([2.])
    """

    def __init__(
        self, shape: int | Sequence[int] = (1,), block_size: Sequence[int] | None = None, *, momentum: float = 0.1
    ):
        super().__init__(shape, block_size)
        if not 0.0 < momentum <= 1.0:
            raise ValueError(f"MovingAverageObserver: momentum is {momentum}, expected a number in (0, 1].")
        self.momentum = float(momentum)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, momentum={self.momentum})"


class HistogramObserver(MinMaxObserver):
    """How many values fell into each of ``bins`` bins; its range is that of the extremes.

    Bins are 2**e wide, around 0, with e as small as the largest magnitude seen allows (detent/observe.h). Where a range
    grows, neighbouring bins join in pairs. So counts depend on the set of values alone, and neither on the order of the
    batches nor on how they were spread over observers that :meth:`merge` joins later.

    Args:
        shape, block_size: As in :class:`MinMaxObserver`.
        bins: A power of two from 16 to 2048. A group takes 8 bytes a bin.
    Raises:
        ValueError: ``bins`` is none of these.
    Example:
        >>> observer = HistogramObserver((1,), bins=16)
        >>> observer.update(torch.tensor([-0.5, 0.1, 0.2, 0.9]))
        >>> observer.counts.tolist(), observer.bin_width.item()
        ([[0, 0, 0, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 1]], 0.125)
    """

    def __init__(self, shape: int | Sequence[int] = (1,), block_size: Sequence[int] | None = None, *, bins: int = 2048):
        super().__init__(shape, block_size)
        if not isinstance(bins, int) or not 16 <= bins <= 2048 or bins & (bins - 1):
            raise ValueError(f"{type(self).__name__}: bins is {bins!r}, expected a power of two from 16 to 2048.")
        self.bins = bins

    def _empty(self, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        with torch.inference_mode(False):
            counts = torch.zeros((*self.shape, self.bins), dtype=torch.int64, device=device)
        return [*super()._empty(device, dtype), counts]

    def _take(self, x: Tensor, held: list[Tensor], axis: int | None, blocks: list[int] | None) -> None:
        _ops.observe_histogram_update_(x, *held, axis, blocks)

    def merge(self, other: MinMaxObserver) -> None:
        if getattr(other, "bins", None) != self.bins:
            raise ValueError(f"merge: the other observer is {other}, expected a histogram of {self.bins} bins.")
        super().merge(other)

    def _joined(self, held: list[Tensor], other: list[Tensor]) -> list[Tensor]:
        device, wide = held[0].device, torch.promote_types(held[0].dtype, other[0].dtype)
        joined = [held[0].to(wide, copy=True), held[1].to(wide, copy=True), held[2].clone(), held[3].clone()]
        extremes, counted = [t.to(device, wide) for t in other[:2]], [t.to(device) for t in other[2:]]
        _ops.observe_histogram_merge_(*joined, *extremes, *counted)
        return joined

    @property
    def counts(self) -> Tensor:
        """int64, shaped like the range with a last dimension of ``bins``; the first bin is the lowest."""
        return self._collected()[3]

    @property
    def bin_width(self) -> Tensor:
        """Width of the bins of each group, shaped like the range. Bin ``i`` starts at ``(i - bins / 2) * bin_width``."""
        low, high, *_ = self._collected()
        most = torch.maximum(low.abs(), high.abs()).double()
        exponent = torch.frexp(most).exponent - (int(math.log2(self.bins)) - 1)
        exponent = torch.where((most > 0) & most.isfinite(), exponent, -126).clamp(min=-126)
        return torch.ldexp(torch.ones_like(most), exponent)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, bins={self.bins})"


class PercentileObserver(HistogramObserver):
    """The range inside which ``percentile`` percent of the values lie from either end.

    Args:
        shape, block_size, bins: As in :class:`HistogramObserver`.
        percentile: 50 to 100; 99.9 leaves a thousandth out at either end, 100 nothing.
    Raises:
        ValueError: ``percentile`` is out of these bounds.
    Example:
        >>> observer = PercentileObserver((1,), percentile=75.0)
        >>> observer.update(torch.arange(0.0, 101.0))
        >>> observer.range(0, 255, symmetric=False)[1]
        tensor([75.0938])
    """

    def __init__(
        self, shape: int | Sequence[int] = (1,), block_size: Sequence[int] | None = None, *, bins: int = 2048,
        percentile: float = 100.0,
    ):  # fmt: skip
        super().__init__(shape, block_size, bins=bins)
        self.percentile = percentile

    @property
    def percentile(self) -> float:
        """Percent of the values that stay inside from either end, 50 to 100."""
        return self._percentile

    @percentile.setter
    def percentile(self, percentile: float) -> None:
        if not isinstance(percentile, (int, float)) or not 50 <= percentile <= 100:
            raise ValueError(f"percentile is {percentile!r}, expected a number from 50 to 100.")
        self._percentile = float(percentile)

    def range(self, qmin: int, qmax: int, symmetric: bool, zero_point: int | None = None) -> tuple[Tensor, Tensor]:
        low, high, _, counts = self._collected()
        return _ops.encode_percentile(low, high, counts, self.percentile, qmin, qmax, symmetric, zero_point)

    def __repr__(self) -> str:
        return f"{super().__repr__()[:-1]}, percentile={self.percentile})"


class SqnrObserver(HistogramObserver):
    """The range with the best ratio of signal to quantization noise: AIMET's ``tf_enhanced``.

    Args:
        shape, block_size, bins: As in :class:`HistogramObserver`.
        gamma: How much heavier the noise of a clipped value weighs.
        asymmetric_deltas, offsets, symmetric_deltas: How many candidates are tried, 2 to 1000 (offsets 3 to 1000).
    Raises:
        ValueError (from :meth:`range`): An argument is out of its bounds.
    Example:
        >>> observer = SqnrObserver((1,))
        >>> observer.update(torch.cat([torch.linspace(-1, 1, 10000), torch.tensor([9.0])]))
        >>> bool(observer.range(-8, 7, symmetric=True)[1] < 2)  # the outlier is given up
        True
    """

    def __init__(
        self, shape: int | Sequence[int] = (1,), block_size: Sequence[int] | None = None, *, bins: int = 2048,
        gamma: float = 3.0, asymmetric_deltas: int = 17, offsets: int = 21, symmetric_deltas: int = 101,
    ):  # fmt: skip
        super().__init__(shape, block_size, bins=bins)
        self.gamma = gamma
        self.candidates = (asymmetric_deltas, offsets, symmetric_deltas)

    def range(self, qmin: int, qmax: int, symmetric: bool, zero_point: int | None = None) -> tuple[Tensor, Tensor]:
        low, high, _, counts = self._collected()
        return _ops.encode_sqnr(low, high, counts, qmin, qmax, symmetric, zero_point, self.gamma, *self.candidates)


class MseObserver(HistogramObserver):
    """The range with the least mean squared error, searched more finely than :class:`SqnrObserver` does.

    Example:
        >>> observer = MseObserver((1,))
        >>> observer.update(torch.cat([torch.linspace(-1, 1, 10000), torch.tensor([9.0])]))
        >>> bool(observer.range(-8, 7, symmetric=True)[1] < 2)
        True
    """

    def range(self, qmin: int, qmax: int, symmetric: bool, zero_point: int | None = None) -> tuple[Tensor, Tensor]:
        low, high, _, counts = self._collected()
        return _ops.encode_mse(low, high, counts, qmin, qmax, symmetric, zero_point)


class EntropyObserver(HistogramObserver):
    """The range whose quantized histogram diverges least from the histogram itself (Kullback-Leibler).

    Example:
        >>> observer = EntropyObserver((1,))
        >>> observer.update(torch.cat([torch.linspace(-1, 1, 10000), torch.tensor([9.0])]))
        >>> bool(observer.range(-128, 127, symmetric=True)[1] < 9)
        True
    """

    def range(self, qmin: int, qmax: int, symmetric: bool, zero_point: int | None = None) -> tuple[Tensor, Tensor]:
        low, high, _, counts = self._collected()
        return _ops.encode_entropy(low, high, counts, qmin, qmax, symmetric, zero_point)


_OF_SCHEME = {
    QuantScheme.post_training_tf_enhanced: SqnrObserver,
    QuantScheme.training_range_learning_with_tf_enhanced_init: SqnrObserver,
    QuantScheme.post_training_percentile: PercentileObserver,
    QuantScheme.post_training_mse: MseObserver,
    QuantScheme.post_training_entropy: EntropyObserver,
    QuantScheme.post_training_moving_average: MovingAverageObserver,
}


def observer_of(
    scheme: QuantScheme, shape: int | Sequence[int] = (1,), block_size: Sequence[int] | None = None
) -> MinMaxObserver:
    """The observer that finds ranges as a scheme says.

    Example:
        >>> observer_of(QuantScheme.from_str("mse"))
        MseObserver(shape=(1,), block_size=None, bins=2048)
    """
    return _OF_SCHEME.get(scheme, MinMaxObserver)(shape, block_size)
