"""Settings of a simulation that is built already, under AIMET's names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from .nn.base import holder
from .quantizers import GroupedBlockQuantizeDequantize

if TYPE_CHECKING:
    from .quantsim import QuantizationSimModel

__all__ = ["set_grouped_blockwise_quantization_for_weights"]

_NAME = "set_grouped_blockwise_quantization_for_weights"


def set_grouped_blockwise_quantization_for_weights(
    sim: QuantizationSimModel,
    arg: Sequence[type[nn.Module]] | Sequence[nn.Module] | Callable[[nn.Module], bool],
    bitwidth: int,
    symmetric: bool,
    decompressed_bw: int,
    block_size: int | Sequence[int],
    block_grouping: int | Sequence[int] = -1,
) -> None:
    """Give weights a :class:`detent.quantizers.GroupedBlockQuantizeDequantize` (LPBQ). Calibrate afterwards.

    Args:
        sim: The simulation to change.
        arg: Which layers: types of modules, modules of ``sim.model``, or a predicate of a module.
        bitwidth, symmetric, decompressed_bw: As that quantizer takes them.
        block_size: Input channels that share a scale, with scales per output channel; or one entry per dimension of the
            weight, -1 for a whole one.
        block_grouping: Blocks along the input channels that share a float scale, -1 for all of them; or one entry per
            dimension.
    Raises:
        ValueError: Nothing quantized is selected, or a weight does not divide into such blocks. Nothing has changed.
    Example:
        >>> sim = detent.QuantizationSimModel(torch.nn.Linear(8, 2), torch.randn(1, 8))
        >>> set_grouped_blockwise_quantization_for_weights(sim, [torch.nn.Linear], 4, True, 8, block_size=4)
        >>> sim.model.param_quantizers["weight"].shape, sim.model.param_quantizers["weight"].block_grouping
        ((2, 2), (1, 2))
    """
    made: dict[nn.Module, GroupedBlockQuantizeDequantize] = {}
    for name, module in sim.model.named_modules():
        old = holder(module, "param").get("weight")
        if old is None or not _selected(arg, module):
            continue
        weight = module.weight
        sizes, groups = _per_dimension(f"{name}.weight" if name else "weight", module, block_size, block_grouping)
        shape = tuple(1 if block == -1 else size // block for size, block in zip(weight.shape, sizes))
        made[old] = GroupedBlockQuantizeDequantize(
            shape, bitwidth, symmetric, decompressed_bw, block_size=sizes, block_grouping=groups, mode=old.mode
        ).to(weight.device)
        made[old]._label = old._label
    if not made:
        raise ValueError(
            f"{_NAME}: arg is {arg!r}, which selects no layer whose weight is quantized; expected types of modules, "
            "modules of sim.model, or a predicate of a module."
        )
    for module in sim.model.modules():  # tied weights keep one quantizer
        new = made.get(holder(module, "param").get("weight"))
        if new is not None:
            module.param_quantizers["weight"] = new


def _selected(arg, module: nn.Module) -> bool:
    if not isinstance(arg, (list, tuple, set)):
        return bool(arg(module))
    return any(isinstance(module, one) if isinstance(one, type) else module is one for one in arg)


def _per_dimension(name: str, module: nn.Module, block_size, block_grouping) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """block_size and block_grouping with one entry for each dimension of the weight."""
    shape = tuple(module.weight.shape)
    outputs = 1 if isinstance(module, _ConvTransposeNd) else 0
    inputs = 1 - outputs

    def spread(number, at_outputs: int, elsewhere: int) -> tuple[int, ...]:
        if not isinstance(number, int):
            return tuple(number)
        special = {outputs: at_outputs, inputs: number}
        return tuple(special.get(dimension, elsewhere) for dimension in range(len(shape)))

    sizes, groups = spread(block_size, 1, -1), spread(block_grouping, 1, 1)
    whole = len(shape) > 1 and len(sizes) == len(shape)
    if not whole or any(block != -1 and (block < 1 or size % block) for size, block in zip(shape, sizes)):
        raise ValueError(
            f"{_NAME}: {name} has shape {shape} and block_size is {block_size}, expected a divisor of its "
            "input channels, or one entry per dimension, each a divisor of it or -1. Leave this layer out otherwise."
        )
    return sizes, groups
