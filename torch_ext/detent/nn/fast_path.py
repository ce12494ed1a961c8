"""Torch modules whose eval fast path reads the weights of their children and never calls them.

Quantization below such a module would be skipped without a word, so the fast path is off while a quantizer below is on.
With every quantizer off it is what it was.
"""

from __future__ import annotations

from torch import nn

from ..quantizers import Quantizer

__all__ = ["GUARDED", "guard_fast_paths"]


def _any_quantizer_on(module: nn.Module) -> bool:
    return any(isinstance(child, Quantizer) and child.enabled for child in module.modules())


def _guarded(float_class: type, condition: str) -> type:
    """``condition`` is an attribute that torch asks, and must find true, before it takes the fast path."""

    def asked(self):
        held = self.__dict__[condition]
        return held if self.training or not held or not _any_quantizer_on(self) else type(held)(0)

    def kept(self, value):
        self.__dict__[condition] = value

    members = {
        "__module__": __package__,
        "__doc__": f":class:`torch.nn.{float_class.__name__}`, without its fast path while a quantizer in it is on.",
        "__jit_unused_properties__": [condition],
        condition: property(asked, kept),
    }
    return type(f"Guarded{float_class.__name__}", (float_class,), members)


#: Guarded class by torch.nn class.
GUARDED: dict[type, type] = {
    nn.TransformerEncoder: _guarded(nn.TransformerEncoder, "use_nested_tensor"),
    nn.TransformerEncoderLayer: _guarded(nn.TransformerEncoderLayer, "activation_relu_or_gelu"),
}


def guard_fast_paths(model: nn.Module) -> None:
    """Swap the class of every such module in ``model``, the model included, for its guarded one."""
    for module in model.modules():
        guarded = GUARDED.get(type(module))
        if guarded is not None:
            module.__class__ = guarded
