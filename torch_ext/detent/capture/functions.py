"""The table of torch functions: canonical name, arguments that can be quantized, ONNX operator, in place or not.

Four kinds. *Operators* compute new numbers and are call sites. *Movers* only move numbers, so what was on a grid stays
on it. *Writers* put numbers together that come from elsewhere, or from nowhere: on no grid, until an operator reads
them. Everything else is unknown: it passes through unquantized and the report names it. Functions that are made of
these are in :mod:`detent.capture.composites`.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload, OpOverloadPacket

from ..nn.forwards import BOUNDS
from ..nn.sums import summable
from .composites import BODIES

__all__ = [
    "FILLERS", "KEEP_AXES", "NOISE", "WRITERS", "Operator", "activates", "arguments", "carries_floats", "find",
    "is_quantizable", "pole", "replaced", "summands_of",
]  # fmt: skip


@dataclass(frozen=True)
class Operator:
    """One way to call an operator.

    ``slots`` names the first arguments in order; ``""`` marks one that is never quantized. ``weight`` is the slot of a
    weight and ``channels`` its output axis; ``None``: one scale for all. With ``listed`` the tensors come as one list,
    at argument ``first``. With ``moves`` its outputs hold only numbers of its input (and zeros). With ``body`` it is
    what that calls. With ``bounds`` it holds its input to them.
    """

    name: str
    onnx_op: str
    slots: tuple[str, ...]
    weight: int | None = None
    channels: int | None = 0
    listed: bool = False
    in_place: bool = False
    moves: bool = False
    body: Callable | None = None
    bounds: tuple[float | None, float | None] | None = None

    def holds_parameter(self, slot: int) -> bool:
        """Whether a slot takes a weight or a bias, whatever tensor that is."""
        return slot == self.weight or (not self.listed and self.slots[slot : slot + 1] == ("bias",))


_NAMESPACES = (
    torch, Tensor, F, torch.special, torch.fft, torch._C._nn, torch._C._special, torch._C._VariableFunctions,
)  # fmt: skip

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
    ("maximum", "fmax"): ("Max", _XY),
    ("minimum", "fmin"): ("Min", _XY),
    ("where",): ("Where", ("", "input", "other")),
    ("lerp",): ("Lerp", ("input", "end")),
    ("addcmul",): ("Addcmul", ("input", "tensor1", "tensor2")),
    ("addcdiv",): ("Addcdiv", ("input", "tensor1", "tensor2")),
    ("masked_fill",): ("Where", _X),
    ("index_add",): ("ScatterElements", ("input", "", "", "source")),
    ("scatter_add",): ("ScatterElements", ("input", "", "", "src")),
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
    "Cos": ("cos",), "Tan": ("tan",), "Asin": ("asin",), "Acos": ("acos",), "Atan": ("atan",), "Sinh": ("sinh",),
    "Cosh": ("cosh",), "Square": ("square",), "Neg": ("neg",), "Log1p": ("log1p",), "Expm1": ("expm1",),
    "Exp2": ("exp2",), "Log2": ("log2",), "Log10": ("log10",), "Floor": ("floor",), "Ceil": ("ceil",),
    "Round": ("round",), "Trunc": ("trunc",), "Sign": ("sign",),
    "Softmin": ("softmin",), "LogSoftmax": ("log_softmax",),
    "ReduceMean": ("mean",), "ReduceSum": ("sum", "nansum"), "ReduceProd": ("prod",), "ReduceL2": ("norm",),
    "ReduceVariance": ("var", "std"), "ReduceLogSumExp": ("logsumexp",), "CumSum": ("cumsum",),
    "CumProd": ("cumprod",), "LpNormalization": ("normalize",),
    "Resize": ("interpolate", "upsample", "upsample_nearest", "upsample_bilinear", "grid_sample"),
    "Col2Im": ("fold",), "LpPool": ("lp_pool1d", "lp_pool2d", "lp_pool3d"),
    "LocalResponseNormalization": ("local_response_norm",),
    "DFT": ("fft", "ifft", "rfft", "irfft", "fft2", "ifft2", "rfft2", "irfft2", "fftn", "ifftn", "rfftn", "irfftn"),
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
    ("outer",): ("MatMul", ("input", "vec2")),
    ("affine_grid",): ("AffineGrid", ("theta",)),
    ("bilinear",): ("Bilinear", ("input1", "input2", "")),
    ("cdist",): ("Cdist", ("x1", "x2")),
    ("cosine_similarity",): ("CosineSimilarity", ("x1", "x2")),
    ("pairwise_distance",): ("PairwiseDistance", ("x1", "x2")),
    ("pdist",): ("Cdist", _X),
}
_MOVERS = (
    "view", "reshape", "view_as", "reshape_as", "permute", "transpose", "t", "flatten", "ravel", "unflatten", "squeeze",
    "unsqueeze", "expand", "expand_as", "broadcast_to", "contiguous", "clone", "detach", "chunk", "split",
    "split_with_sizes", "tensor_split", "unbind", "narrow", "select", "index_select", "__getitem__", "gather",
    "take_along_dim", "repeat", "repeat_interleave", "tile", "roll", "flip", "movedim", "swapaxes", "swapdims",
    "max_pool1d", "max_pool2d", "max_pool3d", "_max_pool1d", "_max_pool2d", "_max_pool3d", "adaptive_max_pool1d",
    "adaptive_max_pool2d", "adaptive_max_pool3d", "max_pool1d_with_indices", "max_pool2d_with_indices",
    "max_pool3d_with_indices", "adaptive_max_pool1d_with_indices", "adaptive_max_pool2d_with_indices",
    "adaptive_max_pool3d_with_indices", "fractional_max_pool2d", "fractional_max_pool3d",
    "fractional_max_pool2d_with_indices", "fractional_max_pool3d_with_indices", "max_unpool1d", "max_unpool2d",
    "max_unpool3d", "feature_alpha_dropout", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout",
    "alpha_dropout", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "unfold", "amax",
    "amin", "max", "min", "topk", "sort", "to", "type", "float", "half", "bfloat16", "double", "type_as", "cuda", "cpu",
    "diagonal",
    "as_strided", "requires_grad_", "triu", "tril", "moveaxis", "_make_subclass", "alias", "pad", "narrow_copy",
    "rot90", "hsplit", "vsplit", "dsplit", "masked_select", "index", "broadcast_tensors", "meshgrid", "median",
    "kthvalue", "cummax", "cummin", "diag", "diag_embed", "atleast_1d", "atleast_2d", "atleast_3d", "positive",
    "view_as_real", "resolve_conj", "resolve_neg", "nan_to_num",
)  # fmt: skip
_WRITERS = (
    "__setitem__", "copy_", "fill_", "zero_", "scatter", "index_copy", "index_put", "index_fill", "masked_scatter",
    "select_scatter", "slice_scatter", "diagonal_scatter", "put_", "zeros_like", "ones_like", "full_like", "empty_like",
    "rand_like", "randn_like", "new_zeros", "new_ones", "new_full", "new_empty", "new_tensor", "bernoulli", "uniform_",
    "normal_", "histc", "complex", "polar", "view_as_complex",
)  # fmt: skip
_NOISE = (
    "rand", "randn", "randint", "randperm", "rand_like", "randn_like", "randint_like", "normal", "bernoulli", "poisson",
    "multinomial", "uniform_", "random_", "exponential_", "cauchy_", "log_normal_", "geometric_",
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
            put((name, f"__{name}__"), onnx_op, _X, bounds=BOUNDS.get(name))
    put(("softmax",), "Softmax", _X)
    table[torch.ops.aten._safe_softmax.default] = Operator("softmax", "Softmax", _X)
    for n in "123":
        put((f"conv{n}d",), "Conv", ("input", "weight", "bias"), weight=1)
        put((f"conv_transpose{n}d",), "ConvTranspose", ("input", "weight", "bias"), weight=1, channels=1)
    put(("conv_tbc",), "Conv", ("input", "weight", "bias"), weight=1, channels=2)
    put(("linear",), "Gemm", ("input", "weight", "bias"), weight=1)
    put(("grouped_mm", "_grouped_mm"), "MatMul", ("input", "weight"), weight=1, channels=2)
    put(("prelu",), "PRelu", ("input", ""))
    for names in (("cat", "concat", "concatenate"), ("stack",), ("hstack",), ("vstack",)):
        put(names, "Concat", ("tensors",), listed=True)
    put(("einsum",), "Einsum", ("", "operands"), listed=True)
    table[torch.embedding] = Operator("embedding", "Gather", ("weight",), weight=0, channels=None)
    table[torch.embedding_bag] = Operator("embedding_bag", "EmbeddingBag", ("weight",), weight=0, channels=None)
    return table


def _movers() -> dict[object, Operator]:
    found = {function: name for name in _MOVERS for function in _spellings(name)}
    found |= {getattr(Tensor, name).__get__: name for name in ("T", "mT", "H", "mH", "data", "real")}
    return {function: Operator(name, "", _X, moves=True) for function, name in found.items()}


_composites = {function: Operator(function.__name__, "", (), body=body) for function, body in BODIES.items()}
_TABLE = _movers() | _operators() | _composites


def _show_to_compiler() -> None:
    """torch.compile hands modes the functions that torch.overrides lists. Some are not listed and would go to the graph
    unseen, ``F.hardswish`` say, though eagerly they, or what they call, come to every mode."""
    listed = torch.overrides.get_overridable_functions()
    known = {function for functions in listed.values() for function in functions}
    plain = (function for name, function in vars(F).items() if isinstance(function, FunctionType) and name[0] != "_")
    listed[F].extend(function for function in plain if function in _TABLE and function not in known)
    read = getattr(sys.modules.get("torch._dynamo.variables.torch"), "get_overridable_functions", None)
    if hasattr(read, "cache_clear"):  # it may have read the list already
        read.cache_clear()


_show_to_compiler()
# torch.compile does not find a Tensor method that is written in Python in a dictionary of functions.
_METHODS = {
    function.__name__: (function, operator)
    for function, operator in _TABLE.items()
    if isinstance(function, FunctionType) and function in vars(Tensor).values()
}

# Operators of other libraries, by library and name.
_LIBRARIES = {
    ("torchvision", "roi_align"): Operator("roi_align", "RoiAlign", ("input", "")),
    ("torchvision", "ps_roi_align"): Operator("ps_roi_align", "RoiAlign", ("input", "")),
    ("torchvision", "deform_conv2d"): Operator("deform_conv2d", "DeformConv", ("input", "weight"), weight=1),
}

#: Functions that write numbers from elsewhere, constants, counts or noise.
WRITERS: frozenset = frozenset(_spellings(*_WRITERS))

#: Those that may put one number into places of their first argument.
FILLERS: frozenset = frozenset(_spellings("__setitem__", "scatter", "index_fill"))
#: Functions whose results are others each time, whatever they are given.
NOISE: frozenset = frozenset(_spellings(*_NOISE))


def find(function) -> Operator | None:
    """What is known of the function that a TorchFunctionMode is given."""
    if isinstance(function, FunctionType):
        method = _METHODS.get(function.__name__)
        if method is not None and method[0] is function:
            return method[1]
    operator = _TABLE.get(function)
    if operator is None and isinstance(function, (OpOverload, OpOverloadPacket)):
        return _of_library(str(function))
    return operator


@functools.cache
def _of_library(name: str) -> Operator | None:
    """What is known of an operator that a forward calls by the library it is in: ``aten.mul.Tensor``."""
    library, name = name.split(".")[:2]
    if library == "aten":
        for space in _NAMESPACES:
            function = getattr(space, name, None)
            if function in _TABLE:
                return _TABLE[function]
    return _LIBRARIES.get((library, name))


def pole(function, operator: Operator, args: tuple) -> int | None:
    """The argument, if there is one, that must not become zero: the result or its slope is infinite there."""
    if operator.name == "div":
        return 0 if function in (Tensor.__rtruediv__, Tensor.__rdiv__) else 1
    if operator.name == "pow" and function is not Tensor.__rpow__:
        return 0 if len(args) > 1 and isinstance(args[1], (int, float)) and args[1] < 1 else None
    return 0 if operator.name in ("reciprocal", "rsqrt", "sqrt", "log", "log2", "log10") else None


#: Movers that leave the dimensions where they are.
KEEP_AXES = frozenset(
    ("split", "split_with_sizes", "chunk", "tensor_split", "narrow", "index_select", "contiguous", "clone", "detach",
     "data", "alias", "to", "type", "type_as", "float", "half", "bfloat16", "double", "cuda", "cpu")
)  # fmt: skip


def is_quantizable(value) -> bool:
    """A tensor of floats that is no scalar."""
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() > 0


def summands_of(operator: Operator, args: tuple, kwargs: dict) -> tuple[Tensor, Tensor] | None:
    """The two tensors of a plain sum that an operator with a residual computes bit for bit, if it is one."""
    if operator.name != "add" or len(args) + len(kwargs) != 2 or not kwargs.keys() <= {"input", "other"}:
        return None
    x, residual = (*args, *(kwargs[name] for name in ("input", "other") if name in kwargs))
    return (x, residual) if summable(x, residual) else None


def activates(operator: Operator, args: tuple, kwargs: dict) -> bool:
    """Whether a call holds its input to bounds and leaves it as it is."""
    in_place = operator.in_place or len(args) > 1 or kwargs.get("inplace")
    return operator.bounds is not None and not in_place


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
