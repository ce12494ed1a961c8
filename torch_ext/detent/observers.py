"""Observers collect statistics of the tensors they are shown and turn them into a range."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from ._layout import Layout

__all__ = ["MinMaxObserver", "MovingAverageObserver"]

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
        self._statistics: dict[torch.device, list[Tensor]] = {}  # device: min, max, ignored

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the range."""
        return self._layout.shape

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
            held = [held[0].double(), held[1].double(), held[2]]
        elif held[0].dtype == torch.float64:
            x = x.double()
        _ops.observe_min_max_update_(x, *held, self.momentum, self._layout.axis, blocks)
        self._statistics[x.device] = held

    def _empty(self, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        with torch.inference_mode(False):  # an inference tensor could not be updated outside that mode
            low = torch.full(self.shape, float("inf"), dtype=dtype, device=device)
            return [low, torch.full_like(low, float("-inf")), torch.zeros_like(low, dtype=torch.int64)]

    def merge(self, other: MinMaxObserver) -> None:
        """Take in what ``other`` has seen; its own statistics stay as they are.

        Raises:
            ValueError: ``other`` observes another shape.
        """
        if other._layout != self._layout:
            raise ValueError(
                f"merge: the other observer has shape {other.shape} and block_size {other._layout.block_size}, "
                f"expected {self.shape} and {self._layout.block_size}. Merge observers of the same tensor."
            )
        for device, (low, high, ignored) in other._statistics.items():
            held = self._statistics.get(device)
            mine = (
                [low.clone(), high.clone(), ignored.clone()] if held is None else self._joined(held, low, high, ignored)
            )
            self._statistics[device] = mine

    @staticmethod
    def _joined(held: list[Tensor], low: Tensor, high: Tensor, ignored: Tensor) -> list[Tensor]:
        device = held[0].device
        return [
            torch.minimum(held[0], low.to(device)),
            torch.maximum(held[1], high.to(device)),
            held[2] + ignored.to(device),
        ]

    def _collected(self) -> list[Tensor]:
        if not self._statistics:
            return self._empty(torch.device("cpu"), torch.float32)
        first, *others = self._statistics.values()
        for other in others:
            first = self._joined(first, *other)
        return first

    def reset(self) -> None:
        """Forget everything."""
        self._statistics.clear()

    @property
    def seen(self) -> bool:
        """Whether any value counted. Reads the device."""
        low, high, _ = self._collected()
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
        low, high, _ = self._collected()
        return _ops.encode_min_max(low, high, qmin, qmax, symmetric, zero_point)

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
