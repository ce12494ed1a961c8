"""Settings of a simulation that is built already, under AIMET's names; before, use :meth:`detent.Config.override`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from .capture.policy import output_channels
from .capture.spec import Spec, blocks
from .nn.base import holder

if TYPE_CHECKING:
    from .quantsim import QuantizationSimModel

__all__ = ["set_blockwise_quantization_for_weights"]


def set_blockwise_quantization_for_weights(
    sim: QuantizationSimModel,
    arg: Sequence[type[nn.Module]] | Sequence[nn.Module] | Callable[[nn.Module], bool],
    bitwidth: int,
    symmetric: bool,
    block_size: int | Sequence[int],
) -> None:
    """Give weights scales per block. Calibrate afterwards.

    Args:
        sim: The simulation to change.
        arg: Which layers: types of modules, modules of ``sim.model``, or a predicate.
        bitwidth: 2 to 32.
        symmetric: Whether the zero point is fixed.
        block_size: How many input channels share a scale, with one scale per output channel; or one entry per dimension
            of the weight, -1 for a whole one.
    Raises:
        ValueError: Nothing has a weight there, or a weight does not divide into such blocks. Nothing has changed.
    Example:
        >>> sim = detent.QuantizationSimModel(torch.nn.Linear(8, 2), torch.randn(1, 8))
        >>> set_blockwise_quantization_for_weights(sim, [torch.nn.Linear], 4, symmetric=True, block_size=4)
        >>> sim.model.param_quantizers["weight"].shape, sim.model.param_quantizers["weight"].block_size
        ((2, 2), (1, 4))
    """
    made: dict[nn.Module, nn.Module] = {}
    for name, module in sim.model.named_modules():
        weight, held = getattr(module, "weight", None), holder(module, "param")
        if not (_selected(arg, module) and held.get("weight") is not None and isinstance(weight, Tensor)):
            continue
        old = held["weight"]
        title = f"set_blockwise_quantization_for_weights: {name}.weight"
        shape, sizes = blocks(title, weight.shape, output_channels(module), block_size)
        spec = Spec(bitwidth, symmetric, shape, sizes, strict=sim.config.defaults.strict_symmetric)
        made[old] = spec.make(old.mode, weight.device)
        made[old].observer, made[old]._label = old.observer, old._label
    if not made:
        raise ValueError(
            f"set_blockwise_quantization_for_weights: arg is {arg!r}, which selects no layer whose weight is "
            "quantized; expected types of modules, modules of sim.model, or a predicate of a module."
        )
    for module in sim.model.modules():  # tied weights keep one quantizer
        if (new := made.get(holder(module, "param").get("weight"))) is not None:
            module.param_quantizers["weight"] = new


def _selected(arg, module: nn.Module) -> bool:
    if callable(arg) and not isinstance(arg, (type, nn.Module)):
        return arg(module)
    chosen = arg if isinstance(arg, (list, tuple, set)) else [arg]
    return any(isinstance(module, one) if isinstance(one, type) else module is one for one in chosen)
