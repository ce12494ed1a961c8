"""Freezing single weights that swing between two codes (Nagel 2022)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..distributed import check_whole
from ..quantizers import AffineQuantizer, Quantizer
from ._quantizers import model_of, named_quantizers, spread

if TYPE_CHECKING:
    from ..quantsim import QuantizationSimModel

__all__ = ["OscillationFreezer"]


class OscillationFreezer:
    """Freezes weights that oscillate: late in training some swing between two codes from step to step, and what batch
    norms have counted fits neither (Nagel 2022, section 4.3 and algorithm 1).

    After each step of the optimizer, a weight oscillates where its code changed in the direction opposite to the change
    before. ``frequency = momentum * oscillates + (1 - momentum) * frequency``, and ``average`` likewise of its
    code. Where the frequency exceeds ``threshold``, the weight stays at the rounded average from then on; with a scale
    that is trained it moves with the scale. Everything is computed on the weight's device, without waiting for it.

    A weight's codes are those of its quantizer, whatever its mode; weights whose quantizer is off are left alone. Under
    DistributedDataParallel every rank freezes the same weights.

    Args:
        sim: A calibrated sim, or a module that contains its model. Codes of this moment are where watching begins.
        threshold: Frequency, 0 to 1, above which weights freeze; it may be set anew before any step. The paper lowers
            it along a cosine in the course of training, from where hardly any weight freezes.
        momentum: Of frequency and average, above 0 and at most 1.
    Raises:
        ValueError: A number is out of its range, or no parameter has a quantizer with a range.
        RuntimeError: The parameters are sharded over ranks.
    Example:
        >>> sim = detent.QuantizationSimModel(nn.Linear(16, 4), torch.randn(1, 16), default_param_bw=3)
        >>> sim.compute_encodings(lambda model: model(torch.randn(8, 16)))
        >>> optimizer = torch.optim.SGD(sim.model.parameters(), lr=0.1)
        >>> freezer = OscillationFreezer(sim, threshold=0.04)
        >>> for step in range(20):
        ...     optimizer.zero_grad()
        ...     sim.model(torch.randn(8, 16)).square().sum().backward()
        ...     optimizer.step()
        ...     freezer.step()
        >>> 0 <= freezer.share().item() <= 1
        True
    """

    def __init__(self, sim: QuantizationSimModel | nn.Module, *, threshold: float, momentum: float = 0.01):
        self.threshold = threshold
        if not 0 < momentum <= 1:
            raise ValueError(f"OscillationFreezer: momentum is {momentum!r}, expected a number above 0 and at most 1.")
        self._momentum = momentum
        check_whole(model_of("OscillationFreezer", sim), "OscillationFreezer")
        self._watched: dict[str, tuple[AffineQuantizer, dict[str, Tensor]]] = {}
        seen: set[int] = set()
        for name, quantizer in named_quantizers("OscillationFreezer", sim):
            weight = _weight(quantizer)
            if weight is None or id(weight) in seen:
                continue
            seen.add(id(weight))
            codes = _codes(quantizer, weight)[0]
            self._watched[name] = (
                quantizer,
                {
                    "code": codes,
                    "average": codes.clone(),
                    "frequency": torch.zeros_like(codes),
                    "direction": torch.zeros_like(codes, dtype=torch.int8),
                    "frozen": torch.zeros_like(codes, dtype=torch.bool),
                },
            )
        if not self._watched:
            raise ValueError(
                "OscillationFreezer: no parameter has a quantizer with a range, expected a calibrated sim."
            )

    @property
    def threshold(self) -> float:
        """Frequency above which a weight freezes."""
        return self._threshold

    @threshold.setter
    def threshold(self, threshold: float) -> None:
        if not (math.isfinite(threshold) and 0 <= threshold <= 1):
            raise ValueError(f"OscillationFreezer: threshold is {threshold!r}, expected a number of 0 to 1.")
        self._threshold = threshold

    @torch.no_grad()
    def step(self) -> None:
        """Look at what the optimizer made of the weights, freeze those that oscillate, and put the frozen ones back."""
        for quantizer, held in self._watched.values():
            weight = _weight(quantizer)
            if weight is None:
                continue
            codes, scale = _codes(quantizer, weight)
            change = torch.sign(codes - held["code"]).to(torch.int8)
            oscillates = (change * held["direction"] < 0) & ~held["frozen"]
            held["direction"].copy_(torch.where(change != 0, change, held["direction"]))
            held["frequency"].lerp_(oscillates.to(torch.float32), self._momentum)
            average = torch.lerp(held["average"], codes, self._momentum)
            freezes = (held["frequency"] > self._threshold) & ~held["frozen"]
            held["average"].copy_(
                torch.where(held["frozen"], held["average"], torch.where(freezes, average.round(), average))
            )
            held["frozen"].logical_or_(freezes)
            held["code"].copy_(torch.where(held["frozen"], held["average"], codes))
            weight.copy_(torch.where(held["frozen"], (held["average"] * scale).to(weight.dtype), weight))

    def share(self) -> Tensor:
        """Share of the watched weights that are frozen, a 0-dim tensor."""
        frozen = [held["frozen"] for _, held in self._watched.values()]
        return torch.stack([mask.sum() for mask in frozen]).sum() / sum(mask.numel() for mask in frozen)

    def frozen(self) -> dict[str, Tensor]:
        """Which weights are frozen: a mask shaped like the weight, by the name of its quantizer."""
        return {name: held["frozen"].clone() for name, (_, held) in self._watched.items()}

    def state_dict(self) -> dict[str, Any]:
        """What :meth:`load_state_dict` takes; numbers and tensors, which ``torch.load(weights_only=True)`` reads."""
        weights = {name: dict(held) for name, (_, held) in self._watched.items()}
        return {"threshold": self._threshold, "momentum": self._momentum, "weights": weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another freezer of such a sim stopped: the same steps freeze the same weights, bit for bit.

        Raises:
            ValueError: The state is of other weights. Nothing has changed.
        """
        given = state["weights"]
        if given.keys() != self._watched.keys():
            odd = min(given.keys() ^ self._watched.keys())
            raise ValueError(
                f"OscillationFreezer: {odd} is {'only in the state' if odd in given else 'not in the state'}, expected "
                "the weights that were watched when it was saved."
            )
        for name, (_, held) in self._watched.items():
            for key, tensor in held.items():
                if given[name][key].shape != tensor.shape:
                    raise ValueError(
                        f"OscillationFreezer: {key} of {name} has shape {tuple(given[name][key].shape)}, expected "
                        f"{tuple(tensor.shape)}."
                    )
        self.threshold, self._momentum = state["threshold"], state["momentum"]
        for name, (_, held) in self._watched.items():
            for key, tensor in held.items():
                tensor.copy_(given[name][key])


def _weight(quantizer: Quantizer) -> nn.Parameter | None:
    """The parameter that a quantizer rounds to integers now; ``None`` where it rounds none."""
    if not isinstance(quantizer, AffineQuantizer) or quantizer._source is None:
        return None
    weight = quantizer._source.tensor()
    rounded = isinstance(weight, nn.Parameter) and quantizer.enabled and quantizer.is_initialized()
    return weight if rounded and weight.requires_grad else None


@torch.no_grad()
def _codes(quantizer: AffineQuantizer, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Steps from 0 to where each weight is rounded, float32, and the size of a step."""
    scale = spread(quantizer, quantizer.get_scale())
    return (quantizer(weight).to(scale.dtype) / scale).round().to(torch.float32), scale
