"""The table of quantized leaf modules: what each quantizes, and its ONNX operator."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from . import forwards
from .base import QuantizedModule
from .calls import leaf_forward

__all__ = ["CLASSES", "SLOTS", "Slots", "is_leaf", "quantize_module", "quantized_class"]


@dataclass(frozen=True)
class Slots:
    """What can be quantized in a module, and which ONNX operator it is."""

    inputs: int
    params: tuple[str, ...]
    onnx_op: str
    outputs: int = 1


_WEIGHTED = ("weight", "bias")

# module: slots, what builds the quantized forward. Exact types only: a subclass may compute anything.
_TABLE = {
    nn.Conv1d: (Slots(1, _WEIGHTED, "Conv"), forwards.convolution),
    nn.Conv2d: (Slots(1, _WEIGHTED, "Conv"), forwards.convolution),
    nn.Conv3d: (Slots(1, _WEIGHTED, "Conv"), forwards.convolution),
    nn.ConvTranspose1d: (
        Slots(1, _WEIGHTED, "ConvTranspose"),
        lambda _: forwards.transposed_convolution(F.conv_transpose1d),
    ),
    nn.ConvTranspose2d: (
        Slots(1, _WEIGHTED, "ConvTranspose"),
        lambda _: forwards.transposed_convolution(F.conv_transpose2d),
    ),
    nn.ConvTranspose3d: (
        Slots(1, _WEIGHTED, "ConvTranspose"),
        lambda _: forwards.transposed_convolution(F.conv_transpose3d),
    ),
    nn.Linear: (Slots(1, _WEIGHTED, "Gemm"), forwards.linear),
    nn.Embedding: (Slots(0, ("weight",), "Gather"), forwards.embedding),
    nn.BatchNorm1d: (Slots(1, _WEIGHTED, "BatchNormalization"), forwards.batch_norm),
    nn.BatchNorm2d: (Slots(1, _WEIGHTED, "BatchNormalization"), forwards.batch_norm),
    nn.BatchNorm3d: (Slots(1, _WEIGHTED, "BatchNormalization"), forwards.batch_norm),
    nn.LayerNorm: (Slots(1, _WEIGHTED, "LayerNormalization"), forwards.layer_norm),
    nn.GroupNorm: (Slots(1, _WEIGHTED, "GroupNormalization"), forwards.group_norm),
    nn.PReLU: (Slots(1, ("weight",), "PRelu"), forwards.prelu),
}

_PLAIN = {
    "Relu": (nn.ReLU,),
    "Clip": (nn.ReLU6, nn.Hardtanh),
    "LeakyRelu": (nn.LeakyReLU, nn.RReLU),
    "ThresholdedRelu": (nn.Threshold,),
    "Sigmoid": (nn.Sigmoid,),
    "LogSigmoid": (nn.LogSigmoid,),
    "HardSigmoid": (nn.Hardsigmoid,),
    "HardSwish": (nn.Hardswish,),
    "Tanh": (nn.Tanh,),
    "Tanhshrink": (nn.Tanhshrink,),
    "Shrink": (nn.Hardshrink, nn.Softshrink),
    "Swish": (nn.SiLU,),
    "Mish": (nn.Mish,),
    "Gelu": (nn.GELU,),
    "Elu": (nn.ELU,),
    "Celu": (nn.CELU,),
    "Selu": (nn.SELU,),
    "Glu": (nn.GLU,),
    "Softplus": (nn.Softplus,),
    "Softsign": (nn.Softsign,),
    "Softmax": (nn.Softmax, nn.Softmax2d, nn.Softmin),
    "LogSoftmax": (nn.LogSoftmax,),
    "MaxPool": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    "AveragePool": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    "GlobalAveragePool": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    "GlobalMaxPool": (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    "Flatten": (nn.Flatten,),
    "Dropout": (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    "Identity": (nn.Identity,),
}
_TABLE.update({cls: (Slots(1, (), op), forwards.plain) for op, classes in _PLAIN.items() for cls in classes})

#: Slots by torch.nn class.
SLOTS: dict[type, Slots] = {cls: slots for cls, (slots, _) in _TABLE.items()}


def _generated(float_class: type, slots: Slots, build) -> type:
    name = f"Quantized{float_class.__name__}"
    members = {
        "__module__": __package__,  # where it can be imported from, for copies and pickles
        "__doc__": f":class:`torch.nn.{float_class.__name__}` with quantizers; see :class:`QuantizedModule`.",
        "_slots": slots,
        "_float_class": float_class,
        "forward": leaf_forward(build(float_class.forward), float_class.forward),
    }
    return type(name, (QuantizedModule, float_class), members)


#: Quantized class by torch.nn class.
CLASSES: dict[type, type] = {cls: _generated(cls, slots, build) for cls, (slots, build) in _TABLE.items()}


def quantized_class(float_class: type) -> type | None:
    """The quantized twin of exactly this class; ``None`` where there is none."""
    return CLASSES.get(float_class)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module becomes its quantized twin: it is of exactly such a class, with the forward of that class."""
    return quantized_class(type(module)) is not None and "forward" not in module.__dict__


def quantize_module(module: nn.Module) -> QuantizedModule:
    """Turn a module into its quantized twin in place: same object, parameters, buffers, hooks and attributes.

    All quantizers are ``None`` at first.

    Raises:
        TypeError: There is no quantized twin of exactly this class.
    Example:
        >>> layer = quantize_module(torch.nn.Linear(4, 2))
        >>> layer.param_quantizers["weight"] = QuantizeDequantize((2, 1), 8, symmetric=True)
        >>> [slot + ":" + name for slot, name, _ in layer.quantizers()]
        ['param:weight']
    """
    quantized = CLASSES.get(type(module))
    if quantized is None:
        raise TypeError(
            f"quantize_module: no quantized twin of {type(module).__module__}.{type(module).__qualname__}, expected "
            "exactly one of the classes in detent.nn.CLASSES (not a subclass, whose forward may compute anything)."
        )
    module.__class__ = quantized
    module._add_slots()
    return module
