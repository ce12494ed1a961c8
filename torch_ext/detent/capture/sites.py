"""Call sites: what is quantized where a forward calls a torch function."""

from __future__ import annotations

from torch import nn

from ..nn.base import ActivationQuantizers, fused, param_quantizer
from .functions import Operator, arguments, is_quantizable, replaced

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

    def call(self, owner: nn.Module, func, operator: Operator, args: tuple, kwargs: dict):
        """``func`` with its inputs and its output quantized; what works in place still writes where it did."""
        new = {}
        for slot, value in arguments(operator, args, kwargs):
            quantizer = self.quantizer_of(owner, slot)
            if quantizer is not None and is_quantizable(value):
                new[slot] = quantizer(value.clone() if slot in self.copied else value)
        target = args[0] if args and (operator.in_place or kwargs.get("inplace") is True) else None
        if target is None:
            if new:
                args, kwargs = replaced(operator, args, kwargs, new)
            return self._quantized(func, operator, args, kwargs, exact=0 not in self.copied or 0 in new)
        # Computed on a copy: the quantizer may save its input for the gradient, which must not be written over then.
        first = new.get(0, target)
        new[0] = first.clone() if first is target else first
        args, kwargs = replaced(operator, args, kwargs, new)
        target.copy_(self._quantized(func, operator, args, kwargs))
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
