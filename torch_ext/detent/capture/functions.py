"""The table of torch functions: canonical name, arguments that can be quantized, ONNX operator, in place or not.

Three kinds. *Operators* compute new numbers and are call sites. *Movers* only move numbers, so what was on a grid stays
on it. Everything else is unknown: it passes through unquantized and the report names it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["MOVERS", "OPERATORS", "Operator", "arguments", "carries_floats", "is_quantizable", "replaced"]


@dataclass(frozen=True)
class Operator:
    """One way to call an operator.

    ``slots`` names the first arguments in order; ``""`` marks one that is never quantized. ``weight`` is the slot of a
    weight and ``channels`` its output axis. With ``listed`` the tensors come as one list, at argument ``first``.
    """

    name: str
    onnx_op: str
    slots: tuple[str, ...]
    weight: int | None = None
    channels: int = 0
    listed: bool = False
    in_place: bool = False

    def is_bias(self, slot: int) -> bool:
        """Whether a slot takes a bias, which is quantized where it is a parameter and the configuration says so."""
        return not self.listed and self.slots[slot] == "bias"


_NAMESPACES = (torch, Tensor, F, torch.special, torch._C._nn, torch._C._special)

_X = ("input",)
_XY = ("input", "other")
# names of functions and methods, the first one canonical: ONNX operator, slots
_ELEMENTWISE = {
    ("add", "__add__", "__radd__", "__iadd__"): ("Add", _XY),
    ("sub", "subtract", "rsub", "__sub__", "__rsub__", "__isub__"): ("Sub", _XY),
    ("mul", "multiply", "__mul__", "__rmul__", "__imul__"): ("Mul", _XY),
    ("div", "divide", "true_divide", "__truediv__", "__rtruediv__", "__itruediv__", "__rdiv__", "__idiv__"): (
        "Div",
        _XY,
    ),
    ("pow", "__pow__", "__rpow__", "__ipow__", "float_power"): ("Pow", _XY),
    ("maximum",): ("Max", _XY),
    ("minimum",): ("Min", _XY),
    ("where",): ("Where", ("", "input", "other")),
    ("lerp",): ("Lerp", ("input", "end")),
    ("addcmul",): ("Addcmul", ("input", "tensor1", "tensor2")),
    ("addcdiv",): ("Addcdiv", ("input", "tensor1", "tensor2")),
    ("masked_fill",): ("Where", _X),
}
_UNARY = {
    "Relu": ("relu",),
    "Clip": ("relu6", "hardtanh", "clamp", "clip", "clamp_min", "clamp_max"),
    "LeakyRelu": ("leaky_relu", "rrelu"),
    "Sigmoid": ("sigmoid",), "LogSigmoid": ("logsigmoid",), "HardSigmoid": ("hardsigmoid",),
    "HardSwish": ("hardswish",), "Tanh": ("tanh",), "Tanhshrink": ("tanhshrink",),
    "Shrink": ("hardshrink", "softshrink"), "Swish": ("silu",), "Mish": ("mish",), "Gelu": ("gelu",),
    "Elu": ("elu",), "Celu": ("celu",), "Selu": ("selu",), "Glu": ("glu",), "Softplus": ("softplus",),
    "Softsign": ("softsign",), "ThresholdedRelu": ("threshold",), "Exp": ("exp",), "Log": ("log",), "Sqrt": ("sqrt",),
    "Rsqrt": ("rsqrt",), "Reciprocal": ("reciprocal",), "Abs": ("abs",), "Erf": ("erf",), "Sin": ("sin",),
    "Cos": ("cos",), "Square": ("square",), "Neg": ("neg", "__neg__"), "Log1p": ("log1p",), "Expm1": ("expm1",),
    "Softmax": ("softmax",), "Softmin": ("softmin",), "LogSoftmax": ("log_softmax",),
    "ReduceMean": ("mean",), "ReduceSum": ("sum", "nansum"), "ReduceProd": ("prod",), "ReduceL2": ("norm",),
    "CumSum": ("cumsum",), "LpNormalization": ("normalize",), "Resize": ("interpolate", "upsample", "grid_sample"),
    "AveragePool": ("avg_pool1d", "avg_pool2d", "avg_pool3d"),
    "GlobalAveragePool": ("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
    "LayerNormalization": ("layer_norm",), "GroupNormalization": ("group_norm",),
    "RMSNormalization": ("rms_norm",), "InstanceNormalization": ("instance_norm",),
    "BatchNormalization": ("batch_norm",),
}  # fmt: skip
_PRODUCTS = {
    ("matmul", "__matmul__", "__rmatmul__", "__imatmul__"): ("MatMul", _XY),
    ("mm",): ("MatMul", ("input", "mat2")),
    ("mv",): ("MatMul", ("input", "vec")),
    ("bmm",): ("MatMul", ("input", "mat2")),
    ("addmm",): ("Gemm", ("", "mat1", "mat2")),
    ("baddbmm",): ("MatMul", ("input", "batch1", "batch2")),
    ("scaled_dot_product_attention",): ("Attention", ("query", "key", "value")),
}
_MOVERS = (
    "view", "reshape", "view_as", "reshape_as", "permute", "transpose", "t", "flatten", "ravel", "unflatten", "squeeze",
    "unsqueeze", "expand", "expand_as", "broadcast_to", "contiguous", "clone", "detach", "chunk", "split",
    "split_with_sizes", "tensor_split", "unbind", "narrow", "select", "index_select", "__getitem__", "gather",
    "take_along_dim", "repeat", "repeat_interleave", "tile", "roll", "flip", "movedim", "swapaxes", "swapdims",
    "max_pool1d", "max_pool2d", "max_pool3d", "_max_pool1d", "_max_pool2d", "_max_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout",
    "alpha_dropout", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "unfold", "amax", "amin", "max", "min",
    "topk", "sort", "to", "type", "float", "half", "bfloat16", "double", "type_as", "cuda", "cpu", "diagonal",
    "as_strided", "requires_grad_", "triu", "tril", "movedim", "_make_subclass", "alias", "pad", "narrow_copy",
)  # fmt: skip


def _spellings(*names: str) -> dict[object, bool]:
    """Functions and methods of these names, and whether each works in place."""
    found: dict[object, bool] = {}
    for name in names:
        for spelling in (name, f"{name}_"):
            in_place = spelling != name or (name.startswith("__i") and name.endswith("__") and name != "__invert__")
            for space in _NAMESPACES:
                function = getattr(space, spelling, None)
                if callable(function) and not isinstance(function, type):
                    found[function] = in_place
    return found


def _operators() -> dict[object, Operator]:
    table: dict[object, Operator] = {}

    def put(names: tuple[str, ...], onnx_op: str, slots: tuple[str, ...], **options) -> None:
        for function, in_place in _spellings(*names).items():
            table[function] = Operator(names[0], onnx_op, slots, in_place=in_place, **options)

    for names, (onnx_op, slots) in (_ELEMENTWISE | _PRODUCTS).items():
        put(names, onnx_op, slots)
    for onnx_op, names in _UNARY.items():
        for name in names:
            put((name, f"__{name}__") if name == "abs" else (name,), onnx_op, _X)
    for n in "123":
        put((f"conv{n}d",), "Conv", ("input", "weight", "bias"), weight=1)
        put((f"conv_transpose{n}d",), "ConvTranspose", ("input", "weight", "bias"), weight=1, channels=1)
    put(("linear",), "Gemm", ("input", "weight", "bias"), weight=1)
    put(("prelu",), "PRelu", ("input", ""))
    for names in (("cat", "concat", "concatenate"), ("stack",), ("hstack",), ("vstack",)):
        put(names, "Concat", ("tensors",), listed=True)
    put(("einsum",), "Einsum", ("", "operands"), listed=True)
    return table


#: Operator by the function a TorchFunctionMode is given.
OPERATORS: dict[object, Operator] = _operators()

#: Functions whose outputs hold only numbers of their inputs (and zeros).
MOVERS: frozenset = frozenset(_spellings(*_MOVERS)) | {
    getattr(Tensor, name).__get__ for name in ("T", "mT", "H", "mH", "data", "real")
}


def is_quantizable(value) -> bool:
    """A tensor of floats that is no scalar."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


def carries_floats(values) -> bool:
    """Whether a quantizable tensor is among ``values``, lists looked into."""
    for value in values:
        if isinstance(value, (tuple, list)):
            if carries_floats(value):
                return True
        elif is_quantizable(value):
            return True
    return False


def arguments(operator: Operator, args: tuple, kwargs: dict) -> list[tuple[int, object]]:
    """``(slot, value)`` of the arguments that can be quantized."""
    if operator.listed:
        given, where = _list_of(operator, args, kwargs)
        return list(enumerate(given)) if where is not None else []
    found = []
    for slot, name in enumerate(operator.slots):
        if not name:
            continue
        if slot < len(args):
            found.append((slot, args[slot]))
        elif name in kwargs:
            found.append((slot, kwargs[name]))
    return found


def _list_of(operator: Operator, args: tuple, kwargs: dict):
    """The listed tensors, and where they are: a position, a name, or a slice for operands given one by one."""
    first = len(operator.slots) - 1
    if first < len(args):
        if isinstance(args[first], (tuple, list)):
            return args[first], first
        return args[first:], slice(first, None)
    name = operator.slots[first]
    return (kwargs[name], name) if name in kwargs else ((), None)


def replaced(operator: Operator, args: tuple, kwargs: dict, new: dict[int, object]) -> tuple[tuple, dict]:
    """The arguments with the tensors of some slots replaced."""
    if operator.listed:
        given, where = _list_of(operator, args, kwargs)
        values = [new.get(slot, value) for slot, value in enumerate(given)]
        if isinstance(where, slice):
            return (*args[: where.start], *values), kwargs
        if isinstance(where, int):
            return (*args[:where], values, *args[where + 1 :]), kwargs
        return args, {**kwargs, where: values}
    args, kwargs = list(args), dict(kwargs)
    for slot, value in new.items():
        if slot < len(args):
            args[slot] = value
        else:
            kwargs[operator.slots[slot]] = value
    return tuple(args), kwargs
