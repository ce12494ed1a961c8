"""Counts the inputs of matrix products and convolutions that are on no grid, by looking at their numbers."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from detent.quantizers import AffineQuantizer
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_BITS = 4
_LOOKED_AT = 1 << 14  # elements of a tensor

# Which arguments are no weights; None: all tensors.
_INPUTS = {
    F.linear: (0,), F.grouped_mm: (0,), F.conv1d: (0,), F.conv2d: (0,), F.conv3d: (0,), F.conv_transpose1d: (0,),
    F.conv_transpose2d: (0,), F.conv_transpose3d: (0,), F.bilinear: (0, 1), F.scaled_dot_product_attention: (0, 1, 2),
    torch.matmul: (0, 1), Tensor.matmul: (0, 1), Tensor.__matmul__: (0, 1), Tensor.__rmatmul__: (0, 1),
    torch.mm: (0, 1), Tensor.mm: (0, 1), torch.bmm: (0, 1), Tensor.bmm: (0, 1), torch.addmm: (1, 2),
    torch.baddbmm: (1, 2), Tensor.baddbmm: (1, 2), torch.einsum: None,
}  # fmt: skip


class _Products(TorchFunctionMode):
    """What one call computes: per product where it is, and its inputs with whether each is on a grid."""

    def __init__(self):
        super().__init__()
        self.weights: list[Tensor] = []  # quantized per channel
        self.where: list[str] = []
        self.found: list[tuple[str, bool, list[tuple]]] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _INPUTS:
            chosen = _INPUTS[func]
            given = [*args, *(kwargs or {}).values()]
            given = given[1:] if chosen is None else [given[at] for at in chosen if at < len(given)]
            inputs = []
            for number, tensor in enumerate(given):
                if any(tensor is weight for weight in self.weights):
                    continue
                if isinstance(tensor, Tensor) and tensor.is_floating_point() and tensor.dim():
                    inputs.append((number, tensor.shape, *_look(tensor)))
            where = self.where[-1] if self.where else "?"
            self.found.append((f"{where} {func.__name__}", chosen == (0,), inputs))
        return func(*args, **(kwargs or {}))


def _look(tensor: Tensor) -> tuple[int, float, float]:
    """How many distinct numbers there are, and two sums of all."""
    with torch._C.DisableTorchFunction():
        if tensor.layout is not torch.strided:
            return 0, 0.0, 0.0
        values = tensor.detach().flatten().nan_to_num()
        return values[:_LOOKED_AT].unique().numel(), float(values.double().sum()), float(values.double().norm())


def inputs_off_grid(
    model: nn.Module, call: Callable[[], object], other: Callable[[], object] | None = None
) -> tuple[list[str], int]:
    """``(those on no grid, how many were looked at)`` while ``call()`` runs ``model``.

    Every quantizer is set to 4 bits for good, so that a tensor on one grid has at most 16 distinct numbers. Weights, on
    a grid per channel, are not looked at, and neither are products whose inputs ``other()``, with other data, does not
    change: a table of positions, say. Layers with a weight always are.
    """
    runs, handles = [_Products() for _ in range(1 if other is None else 2)], []
    products = runs[0]
    for name, module in model.named_modules():
        if isinstance(module, AffineQuantizer):
            module.bitwidth = _BITS
            if module.axis is not None:
                handles.append(module.register_forward_hook(lambda *call: products.weights.append(call[-1]) and None))
        else:
            handles.append(module.register_forward_pre_hook(lambda *_, name=name: products.where.append(name)))
            handles.append(module.register_forward_hook(lambda *_: products.where.pop() and None, always_call=True))
    try:
        for products, function in zip(runs, (call, other)):
            with products:
                function()
    finally:
        for handle in handles:
            handle.remove()
    found, seen = runs[0].found, 0
    again = runs[-1].found if len(runs) > 1 and len(runs[-1].found) == len(found) else [None] * len(found)
    off = []
    for product, same in zip(found, again):
        title, layer, inputs = product
        if layer or product != same:
            seen += len(inputs)
            off += [f"{title} {number} {list(shape)}" for number, shape, distinct, *_ in inputs if distinct > 2**_BITS]
    return off, seen
