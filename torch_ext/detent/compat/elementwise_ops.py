"""``aimet_torch.elementwise_ops``: functions as modules.

detent quantizes functions where a forward calls them, so models need none of these; code that has them runs.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

_FUNCTIONS = {
    "Add": torch.add, "Subtract": torch.sub, "Multiply": torch.mul, "Divide": torch.div,
    "FloorDivide": torch.floor_divide, "Remainder": torch.remainder, "Fmod": torch.fmod, "Pow": torch.pow,
    "Maximum": torch.maximum, "Max": torch.max, "Minimum": torch.minimum, "Min": torch.min, "MatMul": torch.matmul,
    "Bmm": torch.bmm, "Baddbmm": torch.baddbmm, "Addmm": torch.addmm, "Where": torch.where, "Equal": torch.eq,
    "NotEqual": torch.ne, "Greater": torch.gt, "GreaterEqual": torch.ge, "Less": torch.lt, "LessEqual": torch.le,
    "LogicalAnd": torch.logical_and, "LogicalOr": torch.logical_or, "LogicalXor": torch.logical_xor,
    "LogicalNot": torch.logical_not, "Exponential": torch.exp, "Log": torch.log, "Sqrt": torch.sqrt,
    "RSqrt": torch.rsqrt, "Abs": torch.abs, "Neg": torch.neg, "Sin": torch.sin, "Cos": torch.cos, "Tan": torch.tan,
    "Asin": torch.asin, "Atan": torch.atan, "Erf": torch.erf, "Round": torch.round, "Ceil": torch.ceil,
    "Floor": torch.floor, "Sign": torch.sign, "Clamp": torch.clamp, "Square": torch.square, "Mean": torch.mean,
    "Sum": torch.sum, "Prod": torch.prod, "CumSum": torch.cumsum, "Norm": torch.norm, "Argmax": torch.argmax,
    "Argmin": torch.argmin, "TopK": torch.topk, "Einsum": torch.einsum, "Reshape": torch.reshape,
    "Permute": torch.permute, "Transpose": torch.transpose, "Squeeze": torch.squeeze, "Unsqueeze": torch.unsqueeze,
    "Split": torch.split, "Chunk": torch.chunk, "Gather": torch.gather, "IndexSelect": torch.index_select,
    "Tile": torch.tile, "Roll": torch.roll, "Pad": F.pad, "Interpolate": F.interpolate, "Normalize": F.normalize,
    "GridSample": F.grid_sample, "Softmax": torch.softmax,
}  # fmt: skip


def _module(name: str, function) -> type[nn.Module]:
    def forward(self, *args, **kwargs):
        return function(*args, **kwargs)

    members = {"__module__": __name__, "__doc__": f"``{function.__name__}`` as a module.", "forward": forward}
    return type(name, (nn.Module,), members)


class Concat(nn.Module):
    """``torch.cat`` of its arguments as a module.

    Example:
        >>> Concat(axis=1)(torch.zeros(2, 1), torch.ones(2, 1))
        tensor([[0., 1.],
                [0., 1.]])
    """

    def __init__(self, axis: int = 0):
        super().__init__()
        self._axis = axis

    def forward(self, *tensors):
        return torch.cat(tensors, dim=self._axis)


globals().update({name: _module(name, function) for name, function in _FUNCTIONS.items()})

__all__ = ["Concat"]
__all__ += list(_FUNCTIONS)
