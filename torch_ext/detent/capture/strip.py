"""The way back: a simulation's modules become the float modules they were made from."""

from __future__ import annotations

from torch import nn

from ..nn import GUARDED, QuantizedModule
from ..nn.base import ActivationQuantizers
from .mode import Captured

__all__ = ["float_class", "strip"]

_UNGUARDED = {guarded: float_ for float_, guarded in GUARDED.items()}
_SLOTS = ("param_quantizers", "input_quantizers", "output_quantizers")
_ATTRIBUTES = ("_detent", "_path", "_uses", "_exact", "_fuses")


def float_class(made: type) -> type:
    """The user's or torch's class that a generated one stands for; any other class itself.

    Example:
        >>> from detent.nn import QuantizedLinear
        >>> float_class(QuantizedLinear)
        <class 'torch.nn.modules.linear.Linear'>
    """
    while True:
        below = _UNGUARDED.get(made, made.__dict__.get("_float_class"))
        if below is None:
            return made
        made = below


def strip(model: nn.Module) -> None:
    """Take everything out of ``model``, in place, that a simulation put in. Parameters and buffers stay the same."""
    for module in list(model.modules()):
        if isinstance(module, (QuantizedModule, Captured)):
            for name, child in list(module._modules.items()):
                site = isinstance(child, ActivationQuantizers) and not isinstance(child, QuantizedModule)
                if site or name in _SLOTS:
                    del module._modules[name]
            own_forward = module._detent.forward if isinstance(module, Captured) else None
            for name in _ATTRIBUTES:
                module.__dict__.pop(name, None)
            if own_forward is not None:
                module.forward = own_forward
        original = float_class(type(module))
        if original is not type(module):
            module.__class__ = original
