"""Learned step sizes: LSQ (Esser 2020) and LSQ+ (Bhalgat 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..observers import MinMaxObserver
from ..quantizers import AffineQuantizer
from ._quantizers import changeable

if TYPE_CHECKING:
    from ..quantsim import QuantizationSimModel

__all__ = ["LsqObserver", "use_lsq"]

_ops = torch.ops.detent

_INITIALIZATIONS = ("lsq", "lsq+")


def _check(owner: str, initialization: str) -> None:
    if initialization not in _INITIALIZATIONS:
        raise ValueError(f"{owner}: initialization is {initialization!r}, expected 'lsq' or 'lsq+'.")


def use_lsq(sim: QuantizationSimModel | nn.Module, *, initialization: str | None = "lsq") -> None:
    """Train scale and zero point of every quantizer of integers, with LSQ's gradient scale 1 / sqrt(n * qmax).

    Call it before ``compute_encodings``, which then finds the published initial values, and build the optimizer
    afterwards. Called on a calibrated sim it keeps the ranges bit for bit until the next calibration. n counts the
    elements per scale, those of the batch among them. Encodings frozen for good (``allow_overwrite(False)``) stay as
    they are. A single quantizer does the same with ``parametrization="scale_zero_point"`` and ``grad_scale="lsq"``.

    The zero point is LSQ+'s offset in steps; it is rounded in forward, so that a device has it, and held to the grid.

    Args:
        sim: A sim, or a module that contains its model.
        initialization: ``"lsq"`` or ``"lsq+"``, what a later calibration computes (:class:`LsqObserver`); ``None``:
            what it would have computed.
    Raises:
        ValueError: ``initialization`` is none of these, or there are no quantizers. Nothing has changed.
        RuntimeError: The model is wrapped in DistributedDataParallel. Nothing has changed.
    Example:
        >>> sim = detent.QuantizationSimModel(nn.Linear(4, 2), torch.randn(1, 4))
        >>> use_lsq(sim)
        >>> sim.compute_encodings(lambda model: model(torch.randn(64, 4)))
        >>> scale = sim.model.param_quantizers["weight"].scale
        >>> torch.allclose(scale, 2 * sim.model.weight.abs().mean(1, keepdim=True) / 127**0.5)
        True
    """
    if initialization is not None:
        _check("use_lsq", initialization)
    for _, quantizer in changeable("use_lsq", sim):
        if not isinstance(quantizer, AffineQuantizer):
            continue
        quantizer.parametrization = "scale_zero_point"
        quantizer.mode = "learned"
        quantizer.grad_scale = "lsq"
        if initialization is not None:
            quantizer.observer = LsqObserver(quantizer.shape, quantizer.block_size, initialization=initialization)


class LsqObserver(MinMaxObserver):
    """Collects what LSQ and LSQ+ compute their initial scale from; what counts is as in :class:`MinMaxObserver`.

    ``"lsq"``: ``scale = 2 * mean|x| / sqrt(Q)`` (Esser 2020, section 2.1). Q is the number of steps above the zero
    point (below it where those are more by two or more), and the zero point of an asymmetric grid that of min and max.

    ``"lsq+"``: on symmetric grids ``scale = max|mean +- 3 * deviation| / (Q + 1)``, which for weights is the paper's
    2**(b - 1); on asymmetric ones min and max, the first of the paper's two ways (Bhalgat 2020).

    Args:
        shape, block_size: As in :class:`MinMaxObserver`.
        initialization: ``"lsq"`` or ``"lsq+"``.
    Raises:
        ValueError: ``initialization`` is neither.
    Example:
        >>> observer = LsqObserver((1,))
        >>> observer.update(torch.tensor([0.0, 1.0, 3.0, 4.0]))
        >>> observer.range(0, 15, symmetric=False)[1] / 15 * 15**0.5
        tensor([4.])
    """

    def __init__(
        self,
        shape: int | Sequence[int] = (1,),
        block_size: Sequence[int] | None = None,
        *,
        initialization: str = "lsq",
    ):
        _check("LsqObserver", initialization)
        super().__init__(shape, block_size)
        self.initialization = initialization

    # One statistic more than min, max and ignored, float64, (4, *shape): the number of values that count, and the sums
    # of their magnitudes, of themselves and of their squares.

    def _empty(self, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
        with torch.inference_mode(False):
            moments = torch.zeros((4, *self.shape), dtype=torch.float64, device=device)
        return [*super()._empty(device, dtype), moments]

    def _take(self, x: Tensor, held: list[Tensor], axis: int | None, blocks: list[int] | None) -> None:
        _ops.observe_moments_update_(x, *held, axis, blocks)

    def _joined(self, held: list[Tensor], other: list[Tensor]) -> list[Tensor]:
        return [*super()._joined(held[:3], other[:3]), held[3] + other[3].to(held[3].device)]

    def merge(self, other: MinMaxObserver) -> None:
        """As :meth:`MinMaxObserver.merge`; ``other`` is of this class, or it is a ValueError."""
        if not isinstance(other, LsqObserver):
            raise ValueError(f"merge: the other observer is a {type(other).__name__}, expected an LsqObserver.")
        super().merge(other)

    def range(self, qmin: int, qmax: int, symmetric: bool, zero_point: int | None = None) -> tuple[Tensor, Tensor]:
        low, high = super().range(qmin, qmax, symmetric, zero_point)
        if self.initialization == "lsq+" and not symmetric:
            return low, high
        _, point = _ops.encode_affine(low, high, qmin, qmax, symmetric, zero_point)
        count, size, total, square = self._collected()[3]
        steps = torch.maximum(qmax - point, point - qmin - 1).double()
        if self.initialization == "lsq":
            scale = 2 * size / count / steps.sqrt()
        else:
            mean = total / count
            deviation = (square / count - mean.square()).clamp_min(0).sqrt()
            scale = (mean.abs() + 3 * deviation) / (steps + 1)
        scale = torch.where(count > 0, scale.to(low.dtype), 0)
        return (qmin - point) * scale, (qmax - point) * scale
