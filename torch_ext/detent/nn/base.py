"""The quantizers of a module, and how its call goes through them."""

from __future__ import annotations

import copyreg
import weakref

import torch
from torch import Tensor, nn

from ..quantizers import QuantizeDequantize, Quantizer
from ..quantizers.source import Source
from .calls import Caller
from .tensors import map_tensors

__all__ = ["ActivationQuantizers", "ParamQuantizers", "QuantizedModule", "Use", "entries", "holder", "param_quantizer"]
__all__ += ["fused", "parameters_of"]


class ParamQuantizers(nn.ModuleDict):
    """Quantizers by parameter name; one that is put in learns which parameter it follows."""

    def __init__(self, owner: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self._owner = weakref.ref(owner)
        for name in names:
            self.add_module(name, None)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        super().add_module(name, module)
        owner = self._owner()
        if isinstance(module, Quantizer) and owner is not None:
            module._source = Source(owner, name)

    # A weak reference neither pickles nor follows a copy: both are told the owner anew.
    def __deepcopy__(self, memo: dict) -> ParamQuantizers:
        owner = self._owner()
        made = ParamQuantizers.__new__(ParamQuantizers)
        memo[id(self)] = made
        state = {key: value for key, value in self.__dict__.items() if key != "_owner"}
        made.__dict__.update(_deepcopied(state, memo))
        made._owner = self._owner if owner is None else weakref.ref(memo.get(id(owner), owner))
        return made

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_owner": self._owner()}

    def __setstate__(self, state: dict) -> None:
        owner = state.pop("_owner")
        super().__setstate__(state)
        self._owner = weakref.ref(owner) if owner is not None else lambda: None


def _deepcopied(state: dict, memo: dict) -> dict:
    import copy

    return copy.deepcopy(state, memo)


def entries(module: nn.Module):
    """``(slot, name, quantizer)`` of every entry that is not ``None``; slot is "input", "param" or "output"."""
    for slot in ("input", "param", "output"):
        for name, quantizer in holder(module, slot).items():
            if quantizer is not None:
                yield slot, name, quantizer


def holder(module: nn.Module, slot: str) -> dict[str, nn.Module | None]:
    """The entries of one slot; empty for a module that quantizes nothing there."""
    if isinstance(module, torch.jit.ScriptModule):
        return {}
    held = module._modules.get(f"{slot}_quantizers")
    if held is None or not (isinstance(module, ActivationQuantizers) or isinstance(held, ParamQuantizers)):
        return {}
    return held._modules


def parameters_of(model: nn.Module):
    """``(quantizer, owner, name)`` of every parameter that has a quantizer; a shared quantizer comes once."""
    seen: set[nn.Module] = set()
    for module in model.modules():
        for name, quantizer in holder(module, "param").items():
            if quantizer is not None and quantizer not in seen and isinstance(getattr(module, name, None), Tensor):
                seen.add(quantizer)
                yield quantizer, module, name


class ActivationQuantizers(nn.Module):
    """What has ``input_quantizers`` and ``output_quantizers``; an entry that is ``None`` leaves its tensor as it is."""

    _fuses = True  # a sum, an activation and its output quantizer are one pass, where that is exact
    _exact = (False, False)  # for a leaf whose activation works not in place, and in place

    def quantizers(self):
        """``(slot, name, quantizer)`` of every entry that is not ``None``; slot is "input", "param" or "output"."""
        return entries(self)


class Use(ActivationQuantizers):
    """Quantizers of a further use of a module, as its child ``use_<j>``: its own, or call sites as children.

    Called as a module, which happens in code that loops over its children, it returns its argument.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.input_quantizers = nn.ModuleList([None] * inputs)
        self.output_quantizers = nn.ModuleList([None] * outputs)

    def forward(self, x):
        return x


class QuantizedModule(ActivationQuantizers):
    """A module with quantizers.

    ``input_quantizers`` and ``output_quantizers`` are lists, ``param_quantizers`` a dictionary by parameter name; an
    entry that is ``None`` leaves its tensor as it is. With no quantizer, or all of them off, the module computes what
    its float twin does, bit for bit. Tensors that are not of a float type pass unquantized.
    """

    _uses: dict[str, int] | None = None  # of one called more than once: "<execution of the caller>:<count>" to the use
    _path = ""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._add_slots()

    def _add_slots(self) -> None:
        slots = self._slots
        self.param_quantizers = ParamQuantizers(self, slots.params_of(self))
        self.input_quantizers = nn.ModuleList([None] * slots.inputs)
        self.output_quantizers = nn.ModuleList([None] * slots.outputs)

    def __reduce_ex__(self, protocol):
        made = super().__reduce_ex__(protocol)
        if made[0] is copyreg.__newobj__:  # a generated class is found by the float class it was made for
            return (_new, (type(self)._float_class, *made[1][1:]), *made[2:])
        return made

    def _use(self, top: Caller) -> nn.Module | None:
        """What holds the quantizers of the use that ``top`` makes now."""
        use = top.use(self._path, self._uses)
        if use is None:
            return None
        return self._modules[f"use_{use}"] if use else self


def _new(float_class: type, *args):
    from .table import CLASSES

    made = CLASSES[float_class]
    return made.__new__(made, *args)


def param_quantizer(module: nn.Module, name: str) -> nn.Module | None:
    """The quantizer of a parameter of ``module`` or, with a dotted name, of a module below."""
    *path, name = name.split(".")
    for part in path:
        module = module._modules[part]
    return module._modules["param_quantizers"]._modules[name]


def quantize_input(module: nn.Module | None, x, index: str = "0"):
    if module is None:
        return x
    quantizer = module._modules["input_quantizers"]._modules[index]
    if quantizer is not None and isinstance(x, Tensor) and x.is_floating_point():
        return quantizer(x)
    return x


def quantize_param(module: nn.Module, name: str) -> Tensor | None:
    value = getattr(module, name)
    quantizer = module._modules["param_quantizers"]._modules[name]
    return value if quantizer is None or value is None else quantizer(value)


def quantize_output(module: nn.Module | None, y):
    if module is None:
        return y
    quantizers = module._modules["output_quantizers"]._modules
    if isinstance(y, Tensor):
        quantizer = quantizers["0"]
        return quantizer(y) if quantizer is not None and y.is_floating_point() else y
    return map_tensors(y, quantizing(module, "output_quantizers"))


def fused(
    module: ActivationQuantizers, x, bounds: tuple[float | None, float | None], residual: Tensor | None = None
) -> Tensor | None:
    """``x``, or ``x + residual``, held to ``bounds`` and through the output quantizer, in one pass; ``None`` where it
    takes more."""
    quantizer = module._modules["output_quantizers"]._modules["0"]
    if module._fuses and isinstance(quantizer, QuantizeDequantize) and isinstance(x, Tensor) and x.is_floating_point():
        return quantizer.activated(x, *bounds, residual)
    return None


def quantizing(module: nn.Module, held: str):
    """What quantizes the tensor of a slot with the quantizers that ``module`` has in ``held``."""
    quantizers = module._modules[held]._modules

    def quantized(slot: int, x: Tensor) -> Tensor:
        quantizer = quantizers.get(str(slot))
        return quantizer(x) if quantizer is not None and x.is_floating_point() else x

    return quantized
