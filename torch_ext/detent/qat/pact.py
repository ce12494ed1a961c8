"""PACT: the upper end of an activation's range as a trained clip (Choi 2018)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ..defs import Granularity
from ..quantizers import AffineQuantizer
from ._quantizers import changeable

if TYPE_CHECKING:
    from ..quantsim import QuantizationSimModel

__all__ = ["use_pact"]


def use_pact(sim: QuantizationSimModel | nn.Module) -> list[str]:
    """Train activation ranges by PACT's rule: ``clip(x, 0, max)`` is rounded, and the gradient of ``max`` is the sum of
    that of the output where ``x >= max``; rounding errors are no part of it (Choi 2018, section 3).

    It goes to activations whose calibrated range begins at 0, those after a ReLU among them, with one scale per tensor.
    Others learn min and max. Parameters stay in the modes they have. Values stay those of the moment bit for bit where
    the range is held as min and max. Encodings frozen for good (``allow_overwrite(False)``) stay as they are. The paper
    decays its bounds like weights: ``parameter_groups(..., range_weight_decay=...)``. A single quantizer does the same
    with ``parametrization="pact"``.

    Args:
        sim: A calibrated sim, or a module that contains its model.
    Returns:
        Names of the quantizers with PACT's rule.
    Raises:
        RuntimeError: An activation that is on has no range yet, so nobody knows where it begins; or the model is
            wrapped in DistributedDataParallel. Nothing has changed.
        ValueError: There are no quantizers.
    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> sim = detent.QuantizationSimModel(model, torch.randn(1, 4), default_output_bw=4)
        >>> sim.compute_encodings(lambda model: model(torch.randn(64, 4)))
        >>> use_pact(sim)
        ['1.output_quantizers.0']
        >>> sim.model[1].output_quantizers[0].max.requires_grad
        True
    """
    found = [
        (name, quantizer) for name, quantizer in changeable("use_pact", sim)
        if isinstance(quantizer, AffineQuantizer) and quantizer._source is None and not quantizer._unseen
    ]  # fmt: skip
    for name, quantizer in found:
        if quantizer.enabled and not quantizer.is_initialized():
            raise RuntimeError(
                f"use_pact: {name!r} has no range yet, expected a calibrated sim: PACT is for ranges that begin at 0. "
                "Run compute_encodings() first."
            )
    clipped = []
    for name, quantizer in found:
        if not quantizer.is_initialized():
            continue
        per_tensor = quantizer.granularity is Granularity.per_tensor
        if "pact" in quantizer._parametrizations and per_tensor and quantizer.get_zero_point().item() == quantizer.qmin:
            quantizer.parametrization = "pact"
            clipped.append(name)
        quantizer.mode = "learned"
    return clipped
