"""Parameters that are quantized where torch functions read them, in a forward that is not ours."""

from __future__ import annotations

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .base import quantize_param

__all__ = ["QuantizedReads", "quantized_parameters"]


class QuantizedReads(TorchFunctionMode):
    """Functions get the second tensor of each pair for the first. Nothing on the module changes meanwhile."""

    def __init__(self, pairs: list[tuple[Tensor, Tensor]]):
        super().__init__()
        self.pairs = pairs

    def __torch_function__(self, func, types, args=(), kwargs=None):
        args = self.replaced(args)
        if not kwargs:
            return func(*args)
        return func(*args, **{name: self.replaced(value) for name, value in kwargs.items()})

    def replaced(self, value):
        if isinstance(value, Tensor):
            for parameter, quantized in self.pairs:
                if value is parameter:
                    return quantized
        elif type(value) in (tuple, list):
            return type(value)([self.replaced(part) for part in value])
        return value


def quantized_parameters(module: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Each parameter that a quantizer of ``module`` changes, and what it makes of it."""
    pairs = []
    for name, quantizer in module._modules["param_quantizers"]._modules.items():
        if quantizer is not None and getattr(module, name) is not None:
            parameter, quantized = getattr(module, name), quantize_param(module, name)
            if quantized is not parameter:
                pairs.append((parameter, quantized))
    return pairs
