"""Call sites: what is quantized where a forward calls a torch function."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from ..nn.base import ActivationQuantizers, fused, param_quantizer
from .functions import Operator, arguments, is_quantizable, replaced, summands_of

if TYPE_CHECKING:
    from .mode import Calls

__all__ = ["CallSite"]


class CallSite(ActivationQuantizers):
    """Quantizers of one call of a torch function inside the forward of its parent.

    ``params`` says which slots take a parameter, by its name in the parent (``weight``, ``out_proj.weight``), whose
    quantizer is its owner's ``param_quantizers[name]``. ``copied`` are the slots whose tensors are written over later:
    a quantizer may save its input for the gradient, so it is given a copy. Called as a module, which happens in code
    that loops over its children, it returns its argument.
    """

    def __init__(self, function: str, onnx_op: str, inputs: int, outputs: int = 1):
        super().__init__()
        self.function = function
        self.onnx_op = onnx_op
        self.params: dict[int, str] = {}
        self.copied: set[int] = set()
        self.input_quantizers = nn.ModuleList([None] * inputs)
        self.output_quantizers = nn.ModuleList([None] * outputs)

    def forward(self, x):
        return x

    def on(self, owner: nn.Module) -> bool:
        """Whether any of its quantizers is on."""
        for held in (self.input_quantizers, self.output_quantizers):
            for quantizer in held._modules.values():
                if quantizer is not None and getattr(quantizer, "enabled", True):
                    return True
        for name in self.params.values():
            quantizer = param_quantizer(owner, name)
            if quantizer is not None and getattr(quantizer, "enabled", True):
                return True
        return False

    def quantizer_of(self, owner: nn.Module, slot: int):
        name = self.params.get(slot)
        if name is not None:
            return param_quantizer(owner, name)
        return self.input_quantizers._modules.get(str(slot))

    def call(
        self, calls: Calls, func, operator: Operator, args: tuple, kwargs: dict, reader: tuple[str, ...] | None = None
    ):
        """``func`` with its inputs and its output quantized; what works in place still writes where it did.

        ``reader`` is the activation that a sum is put off for.
        """
        owner = calls.owner
        if calls.sum is not None:  # it stands for the input of this activation
            y = calls.sum.activated(self, operator.bounds) if self.quantizer_of(owner, 0) is None else None
            if y is not None:
                return y
            calls.settle()
        new = {}
        for slot, value in arguments(operator, args, kwargs):
            quantizer = self.quantizer_of(owner, slot)
            if quantizer is not None and is_quantizable(value):
                new[slot] = quantizer(value.clone() if slot in self.copied else value)
        target = args[0] if args and (operator.in_place or kwargs.get("inplace") is True) else None
        if new:
            args, kwargs = replaced(operator, args, kwargs, new)
        y = self._sum(operator, args, kwargs)
        if target is None:
            if y is None and reader is not None:
                y = calls.deferred(operator, args, kwargs, reader)
            exact = 0 not in self.copied or 0 in new
            return self._quantized(func, operator, args, kwargs, exact) if y is None else y
        if y is None:
            # Computed on a copy: the quantizer may save its input for the gradient, which must not be written over.
            if args[0] is target:
                args = (target.clone(), *args[1:])
            y = self._quantized(func, operator, args, kwargs)
        target.copy_(y)
        return target

    def _quantized(self, func, operator: Operator, args: tuple, kwargs: dict, exact: bool = True):
        """The call and the quantizer of its output: one pass where there is one and it is ``exact``."""
        if operator.bounds is not None and exact:
            y = fused(self, args[0] if args else kwargs.get("input"), operator.bounds)
            if y is not None:
                return y
        y = func(*args, **kwargs)
        quantizer = self.output_quantizers._modules["0"]
        if quantizer is None:
            return y
        return (quantizer(y[0]), *y[1:]) if isinstance(y, tuple) else quantizer(y)

    def _sum(self, operator: Operator, args: tuple, kwargs: dict) -> Tensor | None:
        """A sum and the quantizer of its output in one pass; ``None`` where it takes two, or is no sum."""
        summands = summands_of(operator, args, kwargs)
        return None if summands is None else fused(self, summands[0], (None, None), summands[1])
