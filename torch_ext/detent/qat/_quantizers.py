"""The quantizers of what a user hands in: a sim, or a module that contains its model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..distributed import unwrap
from ..quantizers import Quantizer

if TYPE_CHECKING:
    from ..quantsim import QuantizationSimModel


def _module_of(owner: str, sim: QuantizationSimModel | nn.Module) -> nn.Module:
    model = getattr(sim, "model", sim) if not isinstance(sim, nn.Module) else sim
    if not isinstance(model, nn.Module):
        raise TypeError(f"{owner}: got a {type(sim).__name__}, expected a QuantizationSimModel or a module.")
    return model


def model_of(owner: str, sim: QuantizationSimModel | nn.Module) -> nn.Module:
    """The module inside DataParallel and the like."""
    return unwrap(_module_of(owner, sim))


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


def changeable(owner: str, sim: QuantizationSimModel | nn.Module) -> list[tuple[str, Quantizer]]:
    """Those whose encodings are not frozen for good (``allow_overwrite(False)``), to change what they train.

    Raises:
        RuntimeError: DistributedDataParallel waits for the gradients of the parameters that it found, and no others.
    """
    if any(isinstance(module, DistributedDataParallel) for module in _module_of(owner, sim).modules()):
        raise RuntimeError(
            f"{owner}: the model is wrapped in DistributedDataParallel, which reduces the gradients of the parameters "
            "that trained when it was made, expected the bare model. Set sim.model = sim.model.module, change the "
            "ranges, and wrap it anew."
        )
    return [(name, quantizer) for name, quantizer in named_quantizers(owner, sim) if quantizer._overwritable]


def spread(quantizer: Quantizer, values: Tensor) -> Tensor:
    """One value per scale, so that they broadcast against the parameter that the quantizer rounds."""
    for dim, block in enumerate(quantizer._concrete_blocks() or ()):
        values = values.repeat_interleave(block, dim) if block > 1 and values.shape[dim] > 1 else values
    return values
