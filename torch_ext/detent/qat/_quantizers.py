"""The quantizers of what a user hands in: a sim, or a module that contains its model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ..quantizers import Quantizer

if TYPE_CHECKING:
    from ..quantsim import QuantizationSimModel


def model_of(owner: str, sim: QuantizationSimModel | nn.Module) -> nn.Module:
    model = getattr(sim, "model", sim) if not isinstance(sim, nn.Module) else sim
    if not isinstance(model, nn.Module):
        raise TypeError(f"{owner}: got a {type(sim).__name__}, expected a QuantizationSimModel or a module.")
    return model


def named_quantizers(owner: str, sim: QuantizationSimModel | nn.Module) -> list[tuple[str, Quantizer]]:
    """Every quantizer, once; at least one."""
    model = model_of(owner, sim)
    found = [(name, module) for name, module in model.named_modules() if isinstance(module, Quantizer)]
    if not found:
        raise ValueError(
            f"{owner}: the {type(model).__name__} holds no quantizers, expected a quantized model. Build a "
            "QuantizationSimModel from it and pass that."
        )
    return found


def changeable(owner: str, sim: QuantizationSimModel | nn.Module) -> list[Quantizer]:
    """Those whose encodings are not frozen for good (``allow_overwrite(False)``)."""
    return [quantizer for _, quantizer in named_quantizers(owner, sim) if quantizer._overwritable]
