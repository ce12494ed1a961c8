"""Calibration of a quantizer: observing, and the range that follows from it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..observers import MinMaxObserver

if TYPE_CHECKING:
    from .quantizer import Quantizer

#: Bins that a quantizer's observer may hold at once while it looks at a parameter: 64 MiB of counts.
_MOST_BINS = 2**23


class Calibration:
    """Part of :class:`Quantizer`."""

    unsigned_symmetric = False

    def allow_overwrite(self, allow: bool) -> None:
        """Whether calibration and loaded encodings may replace the range; they may at first."""
        self._overwritable = bool(allow)

    @contextlib.contextmanager
    def compute_encodings(self) -> Iterator[Quantizer]:
        """Calibrate: inside, every tensor is observed, and quantized with the range of that tensor alone; on leaving,
        the range becomes that of all of them together. Nothing changes if the block raises or no data came.

        Example:
            >>> quantizer = QuantizeDequantize((1,), 8, symmetric=False)
            >>> with quantizer.compute_encodings():
            ...     _ = quantizer(torch.tensor([-1.0, 1.55]))
            >>> quantizer.get_scale()
            tensor([0.0100], grad_fn=<AddBackward0>)
        """
        if not self._calibrates():
            yield self
            return
        self._start_observing("quantize")
        try:
            yield self
        except BaseException:
            self._stop_observing()
            raise
        self._finish_observing()

    def _calibrates(self) -> bool:
        """Whether calibration finds it a range."""
        return self._enabled and self._overwritable

    def _start_observing(self, how: str) -> None:
        """``how``: what forward returns meanwhile, ``"pass"`` x itself, ``"quantize"`` x on its own range."""
        self._collector = self._new_observer()
        self._observing = how
        self._refresh()

    def _new_observer(self) -> MinMaxObserver:
        if self.observer is None:
            return MinMaxObserver(self.shape, self.block_size)
        return self.observer.fresh(self.shape, self.block_size)

    def _stop_observing(self) -> MinMaxObserver | None:
        collector, self._collector, self._observing = self._collector, None, None
        self._refresh()
        return collector

    def _finish_observing(self) -> bool:
        """Leave calibration with a new range; False where no data came, and then the old state stays."""
        collector = self._stop_observing()
        if collector is None or not collector.seen:
            return False
        self._choose_sign(collector.min)
        return self._settle([collector])

    def _calibrate_on(self, x: Tensor) -> bool:
        """Calibration with one tensor: the parameter that a quantizer is for. False where it holds nothing."""
        if self.unsigned_symmetric:
            extremes = MinMaxObserver(self.shape, self.block_size)
            extremes.update(x)
            if extremes.seen:
                self._choose_sign(extremes.min)
        return self._settle(self._observed_pieces(x.detach()))

    def _observed_pieces(self, x: Tensor) -> Iterator[MinMaxObserver]:
        """Observers of x, one after the other along its first dimension where all their bins at once were too many."""
        observer = self._new_observer()
        rows, groups = self.shape[0], math.prod(self.shape)
        most = _MOST_BINS // (getattr(observer, "bins", 0) or 1)
        if groups <= most or x.dim() != len(self.shape) or x.shape[0] % rows != 0:
            observer.update(x)
            yield observer
            return
        step = max(1, rows * most // groups)
        for first in range(0, rows, step):
            count = min(step, rows - first)
            piece = self._new_observer().fresh((count, *self.shape[1:]), self.block_size)
            piece.update(x.narrow(0, first * (x.shape[0] // rows), count * (x.shape[0] // rows)))
            yield piece

    def _found_by(self, observer: MinMaxObserver, kind: type[MinMaxObserver] | None = None) -> tuple[Tensor, Tensor]:
        """The range that an observer finds, or that one of another kind would have found."""
        grid = self._grid
        return (kind or type(observer)).range(observer, grid.qmin, grid.qmax, grid.symmetric, grid.zero_point)

    def _settle(self, observers: Iterable[MinMaxObserver]) -> bool:
        """Take the range that the observers found, one's groups after the other's; False where nothing was seen."""
        found, seen = [], False
        for observer in observers:
            low, high = self._found_by(observer)
            full_low, full_high = self._found_by(observer, MinMaxObserver) if self._dynamic else (low, high)
            found.append((low, high, (high - low) / (full_high - full_low)))
            seen = seen or observer.seen
        if not seen:
            return False
        low, high, clip = (torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*found))
        if self._dynamic:
            self._set_clip(clip if bool((clip != 1).any()) else torch.ones_like(self.clip[:1]))
            self._initialized, self._unseen = True, False
            self._refresh()
        else:
            self._write_range(low, high)
        return True

    def _set_clip(self, clip: Tensor) -> None:
        """One factor, or one per group."""
        clip = clip.detach().to(torch.float32).reshape(self.shape if clip.numel() > 1 else (1,))
        if self.clip.shape == clip.shape:
            self.clip.copy_(clip)
        else:
            self.clip = clip.to(self.clip.device)
        self._clip_per_group = clip.numel() > 1

    def _choose_sign(self, values: Tensor) -> None:
        """A hook for grids that depend on the sign of what was seen."""

    def _mark_unseen(self) -> None:
        """Calibration is over and no data came: pass float from now on, with one warning."""
        if not self.is_initialized():
            self._unseen = True
            self._refresh()

    def _snapshot(self) -> tuple:
        tensors = {name: tensor.detach().clone() for name, tensor in (*self.named_parameters(), *self.named_buffers())}
        return tensors, self._grid, self._initialized, self._unseen

    @torch.no_grad()
    def _restore(self, snapshot: tuple) -> None:
        tensors, self._grid, self._initialized, self._unseen = snapshot
        for name, tensor in tensors.items():
            if name == "clip":
                self._set_clip(tensor)
            else:
                getattr(self, name).copy_(tensor)
        self._note_versions()
        self._stop_observing()
