"""The table of quantized leaf modules: what each quantizes, and its ONNX operator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from . import forwards
from .base import QuantizedModule
from .calls import leaf_forward
from .tensors import argument_names

__all__ = ["CLASSES", "SLOTS", "Slots", "add_leaf", "is_leaf", "outside_leaves", "quantize_module"]
__all__ += ["quantized_class"]


@dataclass(frozen=True)
class Slots:
    """What can be quantized in a module, and which ONNX operator it is; ``params`` ``None``: every parameter it has."""

    inputs: int
    params: tuple[str, ...] | None
    onnx_op: str
    outputs: int = 1

    def params_of(self, module: nn.Module) -> tuple[str, ...]:
        """Names of the parameters of ``module`` that can be quantized."""
        return tuple(module._parameters) if self.params is None else self.params


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
    nn.Bilinear: (Slots(2, _WEIGHTED, "Bilinear"), forwards.general),
    nn.Embedding: (Slots(0, ("weight",), "Gather"), forwards.embedding),
    nn.EmbeddingBag: (Slots(0, ("weight",), "EmbeddingBag"), forwards.embedding_bag),
    nn.RNN: (Slots(2, None, "RNN", 2), forwards.general),
    nn.LSTM: (Slots(3, None, "LSTM", 3), forwards.general),
    nn.GRU: (Slots(2, None, "GRU", 2), forwards.general),
    nn.RNNCell: (Slots(2, None, "RNN"), forwards.general),
    nn.LSTMCell: (Slots(3, None, "LSTM", 2), forwards.general),
    nn.GRUCell: (Slots(2, None, "GRU"), forwards.general),
    nn.BatchNorm1d: (Slots(1, _WEIGHTED, "BatchNormalization"), forwards.batch_norm),
    nn.BatchNorm2d: (Slots(1, _WEIGHTED, "BatchNormalization"), forwards.batch_norm),
    nn.BatchNorm3d: (Slots(1, _WEIGHTED, "BatchNormalization"), forwards.batch_norm),
    nn.LayerNorm: (Slots(1, _WEIGHTED, "LayerNormalization"), forwards.layer_norm),
    nn.GroupNorm: (Slots(1, _WEIGHTED, "GroupNormalization"), forwards.group_norm),
    nn.RMSNorm: (Slots(1, ("weight",), "RMSNormalization"), forwards.general),
    nn.InstanceNorm1d: (Slots(1, _WEIGHTED, "InstanceNormalization"), forwards.general),
    nn.InstanceNorm2d: (Slots(1, _WEIGHTED, "InstanceNormalization"), forwards.general),
    nn.InstanceNorm3d: (Slots(1, _WEIGHTED, "InstanceNormalization"), forwards.general),
    nn.PReLU: (Slots(1, ("weight",), "PRelu"), forwards.prelu),
    nn.CosineSimilarity: (Slots(2, (), "CosineSimilarity"), forwards.general),
    nn.PairwiseDistance: (Slots(2, (), "PairwiseDistance"), forwards.general),
}

# what has one input, one output and no parameters
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
    "MaxPool": (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.FractionalMaxPool2d, nn.FractionalMaxPool3d),
    "MaxUnpool": (nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d),
    "LpPool": (nn.LPPool1d, nn.LPPool2d, nn.LPPool3d),
    "LocalResponseNormalization": (nn.LocalResponseNorm, nn.CrossMapLRN2d),
    "Resize": (nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d),
    "Pad": (
        nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d,
        nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d, nn.CircularPad1d, nn.CircularPad2d,
        nn.CircularPad3d,
    ),
    "ConstantPad": (nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d),  # its number is on no grid
    "DepthToSpace": (nn.PixelShuffle,),
    "SpaceToDepth": (nn.PixelUnshuffle,),
    "ChannelShuffle": (nn.ChannelShuffle,),
    "Col2Im": (nn.Fold,),
    "Im2Col": (nn.Unfold,),
    "Reshape": (nn.Unflatten,),
    "AveragePool": (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    "GlobalAveragePool": (nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    "GlobalMaxPool": (nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
    "Flatten": (nn.Flatten,),
    "Dropout": (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    "Identity": (nn.Identity,),
}
_TABLE.update({cls: (Slots(1, (), op), forwards.plain) for op, classes in _PLAIN.items() for cls in classes})
_TABLE[nn.ReLU] = _TABLE[nn.ReLU][0], forwards.bounded("relu")
_TABLE[nn.ReLU6] = _TABLE[nn.ReLU6][0], forwards.bounded("relu6")

#: Slots by float class.
SLOTS: dict[type, Slots] = {}

#: Quantized class by float class.
CLASSES: dict[type, type] = {}


def add_leaf(float_class: type, slots: Slots, build) -> None:
    """Make the quantized twin of a class; ``build`` makes its forward from the float one."""
    members = {
        "__module__": __package__,
        "__doc__": f":class:`{float_class.__name__}` with quantizers; see :class:`QuantizedModule`.",
        "_slots": slots,
        "_float_class": float_class,
        "_argument_names": argument_names(float_class.forward),
        "forward": leaf_forward(build(float_class.forward), float_class.forward),
    }
    SLOTS[float_class] = slots
    CLASSES[float_class] = type(f"Quantized{float_class.__name__}", (QuantizedModule, float_class), members)


for _float_class, (_slots, _build) in _TABLE.items():
    add_leaf(_float_class, _slots, _build)


def quantized_class(float_class: type) -> type | None:
    """The quantized twin of exactly this class; ``None`` where there is none."""
    return CLASSES.get(float_class)


def is_leaf(module: nn.Module) -> bool:
    """Whether a module becomes its quantized twin: it is of exactly such a class, with the forward of that class."""
    return quantized_class(type(module)) is not None and "forward" not in module.__dict__


def outside_leaves(modules: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Modules by name, without those below a leaf: these are computed in float."""
    leaves = tuple(f"{path}." if path else "" for path, module in modules.items() if is_leaf(module))
    return {path: module for path, module in modules.items() if not path or not path.startswith(leaves)}


def quantize_module(module: nn.Module) -> QuantizedModule:
    """Turn a module into its quantized twin in place: same object, parameters, buffers, hooks and attributes.

    All quantizers are ``None`` at first.

    Raises:
        TypeError: There is no quantized twin of exactly this class.
        ValueError: The class was registered with a parameter that the module does not have.
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
            "exactly one of the classes in detent.nn.CLASSES (not a subclass, whose forward may compute anything). "
            "Decorate a class of yours with detent.nn.register()."
        )
    missing = [name for name in quantized._slots.params_of(module) if name not in module._parameters]
    if missing:
        raise ValueError(
            f"quantize_module: {type(module).__qualname__} has no parameter {missing[0]!r}, expected one of "
            f"{list(module._parameters)}. Name only these in register(params=...)."
        )
    module.__class__ = quantized
    module._add_slots()
    return module
