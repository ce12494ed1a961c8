"""Which parameters of a model have their quantized values kept."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn

from ..quantizers import Quantizer
from ..quantizers.keeping import KeptWeights
from .base import holder

__all__ = ["keeping_weights"]


@contextlib.contextmanager
def keeping_weights(*models: nn.Module, most_bytes: float = float("inf")) -> Iterator[None]:
    """Inside, each parameter of the models is quantized once for as long as it stays what it is.

    See :func:`detent.qat.cached_weights`. None is where all of them together take more than ``most_bytes``. Blocks
    inside one another are one.
    """
    followed = [pair for model in models for pair in _followed(model) if pair[0]._kept_weights is None]
    if sum(parameter.nbytes for parameter in {parameter for _, parameter in followed}) > most_bytes:
        followed = []
    kept = KeptWeights(parameter for _, parameter in followed)
    for quantizer, _ in followed:
        quantizer._kept_weights = kept
    try:
        yield
    finally:
        for quantizer, _ in followed:
            quantizer._kept_weights = None
        kept.close()


def _followed(model: nn.Module) -> Iterator[tuple[Quantizer, nn.Parameter]]:
    """Plain parameters, and the quantizers of classes that say which operator they call."""
    for module in model.modules():
        for name, quantizer in holder(module, "param").items():
            parameter = module._parameters.get(name)
            if type(parameter) is nn.Parameter and "_call" in vars(type(quantizer)):
                yield quantizer, parameter
