"""Calibration of a quantizer: observing, and the range that follows from it."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from ..observers import MinMaxObserver

if TYPE_CHECKING:
    from .base import AffineQuantizer


class Calibration:
    """Part of :class:`AffineQuantizer`."""

    def allow_overwrite(self, allow: bool) -> None:
        """Whether calibration and loaded encodings may replace the range; they may at first."""
        self._overwritable = bool(allow)

    @contextlib.contextmanager
    def compute_encodings(self) -> Iterator[AffineQuantizer]:
        """Calibrate: inside, every tensor is observed, and quantized with the range of that tensor alone; on leaving,
        the range becomes that of all of them together. Nothing changes if the block raises or no data came.

        Example:
            >>> quantizer = QuantizeDequantize((1,), 8, symmetric=False)
            >>> with quantizer.compute_encodings():
            ...     _ = quantizer(torch.tensor([-1.0, 1.55]))
            >>> quantizer.get_scale()
            tensor([0.0100], grad_fn=<AddBackward0>)
        """
        if not self._overwritable or not self._enabled:
            yield self
            return
        self._start_observing("quantize")
        try:
            yield self
        except BaseException:
            self._stop_observing()
            raise
        self._finish_observing()

    def _start_observing(self, how: str) -> None:
        """``how``: what forward returns meanwhile, ``"pass"`` x itself, ``"quantize"`` x on its own range."""
        self._collector = self._new_observer()
        self._observing = how
        self._refresh()

    def _new_observer(self) -> MinMaxObserver:
        if self.observer is None or self.observer.shape != self.shape:
            return MinMaxObserver(self.shape, self.block_size)
        fresh = copy.deepcopy(self.observer)
        fresh.reset()
        return fresh

    def _stop_observing(self) -> MinMaxObserver | None:
        collector, self._collector, self._observing = self._collector, None, None
        self._refresh()
        return collector

    def _finish_observing(self) -> bool:
        """Leave calibration with a new range; False where no data came, and then the old state stays."""
        collector = self._stop_observing()
        if collector is None or not collector.seen:
            return False
        if self._dynamic:
            self.clip.fill_(1.0)
            self._initialized, self._unseen = True, False
            self._refresh()
        else:
            grid = self._grid
            self._write_range(*collector.range(grid.qmin, grid.qmax, grid.symmetric, grid.zero_point))
        return True

    def _mark_unseen(self) -> None:
        """Calibration is over and no data came: pass float from now on, with one warning."""
        if not self.is_initialized():
            self._unseen = True
            self._refresh()

    def _snapshot(self) -> tuple:
        tensors = {name: tensor.detach().clone() for name, tensor in (*self.named_parameters(), *self.named_buffers())}
        return tensors, self._initialized, self._unseen

    @torch.no_grad()
    def _restore(self, snapshot: tuple) -> None:
        tensors, self._initialized, self._unseen = snapshot
        for name, tensor in tensors.items():
            getattr(self, name).copy_(tensor)
        self._note_versions()
        self._stop_observing()
