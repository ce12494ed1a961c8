"""Settings of a simulation that is built already, under AIMET's names; before, use :meth:`detent.Config.override`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from .capture.policy import output_channels
from .capture.spec import Spec, blocks
from .block_format import BlockFormat
from .float_format import FloatFormat
from .nn.base import holder
from .quantizers import BlockQuantizeDequantize, FloatQuantizeDequantize, GroupedBlockQuantizeDequantize, Quantizer
from .quantizers.kinds import become

if TYPE_CHECKING:
    from .quantsim import QuantizationSimModel

__all__ = [
    "set_activation_quantizers_to_float",
    "set_block_format",
    "set_blockwise_quantization_for_weights",
    "set_grouped_blockwise_quantization_for_weights",
]

_Layers = Sequence[type[nn.Module]] | Sequence[nn.Module] | Callable[[nn.Module], bool]


def set_activation_quantizers_to_float(
    sim: QuantizationSimModel,
    arg: _Layers,
    exponent_bits: int | None = None,
    mantissa_bits: int | None = None,
    dtype: FloatFormat | torch.dtype | str | None = None,
) -> None:
    """Round the inputs and outputs of layers to a float format, without a scale, where they have quantizers.

    Args:
        sim: The simulation to change.
        arg: Which layers: types of modules, modules of ``sim.model``, or a predicate.
        exponent_bits, mantissa_bits, dtype: The format, as :class:`detent.quantizers.FloatQuantizeDequantize` takes it.
    Raises:
        ValueError: Nothing selected has a quantizer of activations, or there is no such format. Nothing has changed.
        TypeError: The format is missing, or given twice.
    Example:
        >>> sim = detent.QuantizationSimModel(torch.nn.Linear(8, 2), torch.randn(1, 8))
        >>> set_activation_quantizers_to_float(sim, [torch.nn.Linear], dtype=torch.float16)
        >>> sim.model.output_quantizers[0]
        FloatQuantizeDequantize(float16)
    """
    made: dict[Quantizer, Quantizer] = {}
    for module in sim._network.modules():
        if _selected(arg, module):
            for slot in ("input", "output"):
                made |= {
                    old: FloatQuantizeDequantize(exponent_bits, mantissa_bits, dtype=dtype)
                    for old in holder(module, slot).values() if old is not None
                }  # fmt: skip
    _replace("set_activation_quantizers_to_float", "whose inputs or outputs are quantized", arg, made)


def set_block_format(
    sim: QuantizationSimModel,
    arg: _Layers,
    format: BlockFormat | str,
    *,
    activations: bool = True,
    weights: bool = True,
    axis: int | None = None,
) -> None:
    """Round layers to a block format (MX, NVFP4), where they have quantizers: :class:`BlockQuantizeDequantize`.

    Weights are cut along their input channels. Scales follow the tensors, so there is nothing to calibrate; encodings
    files and exports have no place for them, and raise.

    Args:
        sim: The simulation to change.
        arg: Which layers: types of modules, modules of ``sim.model``, or a predicate.
        format: A :class:`detent.BlockFormat`, or a name: ``"mxfp8_e4m3"``, ``"mxfp4"``, ``"nvfp4"``, ...
        activations, weights: Whether inputs and outputs, and weights, are changed.
        axis: The dimension along which activations are cut; ``None``: the channels of convolutions, else the last.
    Raises:
        ValueError: Nothing selected has such a quantizer, or there is no such format. Nothing has changed.
    Example:
        >>> sim = detent.QuantizationSimModel(torch.nn.Linear(64, 2), torch.randn(1, 64))
        >>> set_block_format(sim, [torch.nn.Linear], "mxfp4")
        >>> sim.model.param_quantizers["weight"]
        BlockQuantizeDequantize(mxfp4, axis=1)
    """
    format = BlockFormat.of(format)
    made: dict[Quantizer, Quantizer] = {}
    for module in sim._network.modules():
        if not _selected(arg, module):
            continue
        weight = holder(module, "param").get("weight")
        if weights and weight is not None and module.weight.dim() > 1:
            made[weight] = BlockQuantizeDequantize(format, 1 - output_channels(module))
        channels = -1 - len(module.kernel_size) if isinstance(module, _ConvNd) else -1
        cut = channels if axis is None else axis
        for slot in ("input", "output") if activations else ():
            for old in holder(module, slot).values():
                if old is not None:
                    made[old] = BlockQuantizeDequantize(format, cut)
    _replace("set_block_format", "with such quantizers", arg, made)


def set_blockwise_quantization_for_weights(
    sim: QuantizationSimModel, arg: _Layers, bitwidth: int, symmetric: bool, block_size: int | Sequence[int]
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

    def make(title: str, module: nn.Module, old: Quantizer) -> Quantizer:
        shape, sizes = blocks(title, module.weight.shape, output_channels(module), block_size)
        spec = Spec(bitwidth, symmetric, shape, sizes, strict=sim.config.defaults.strict_symmetric)
        return spec.make(old.mode, module.weight.device)

    _replace_weight_quantizers("set_blockwise_quantization_for_weights", sim, arg, make)


def set_grouped_blockwise_quantization_for_weights(
    sim: QuantizationSimModel,
    arg: _Layers,
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
        block_size: As :func:`set_blockwise_quantization_for_weights` takes it.
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

    def make(title: str, module: nn.Module, old: Quantizer) -> Quantizer:
        axis = output_channels(module)
        shape, sizes = blocks(title, module.weight.shape, axis, block_size)
        groups = block_grouping
        if isinstance(groups, int):
            groups = [groups if dim == 1 - axis else 1 for dim in range(len(shape))]
        return GroupedBlockQuantizeDequantize(
            shape, bitwidth, symmetric, decompressed_bw, block_size=sizes, block_grouping=tuple(groups), mode=old.mode
        ).to(module.weight.device)

    _replace_weight_quantizers("set_grouped_blockwise_quantization_for_weights", sim, arg, make)


def _replace_weight_quantizers(
    function: str,
    sim: QuantizationSimModel,
    arg: _Layers,
    make: Callable[[str, nn.Module, Quantizer], Quantizer],
) -> None:
    """All selected layers get the quantizer that ``make(title, module, old quantizer)`` returns, or none does."""
    made: dict[Quantizer, Quantizer] = {}
    for name, module in sim._network.named_modules():
        old = holder(module, "param").get("weight")
        if old is not None and _selected(arg, module) and isinstance(getattr(module, "weight", None), Tensor):
            made[old] = make(f"{function}: {name}.weight", module, old)
            made[old].observer = old.observer
    _replace(function, "whose weight is quantized", arg, made)


def _replace(function: str, what: str, arg: _Layers, made: Mapping[Quantizer, Quantizer]) -> None:
    if not made:
        raise ValueError(
            f"{function}: arg is {arg!r}, which selects no layer {what}; expected types of modules, modules of "
            "sim.model, or a predicate of a module."
        )
    for old, new in made.items():
        become(old, new)


def _selected(arg: _Layers, module: nn.Module) -> bool:
    if callable(arg) and not isinstance(arg, (type, nn.Module)):
        return bool(arg(module))
    chosen = arg if isinstance(arg, (list, tuple, set)) else [arg]
    return any(isinstance(module, one) if isinstance(one, type) else module is one for one in chosen)
