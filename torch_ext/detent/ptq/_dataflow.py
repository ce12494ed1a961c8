"""Which convolution feeds which batch norm, and who else reads the tensor between them: seen in one run.

Two modes watch the run. The function mode marks where a convolution, a linear layer or a batch norm begins and ends;
the dispatch mode sees every operator outside those, whoever called it, and so every other reader.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from .._running import call_with_sample

_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
#: Names of the arguments, by function.
_LAYERS = {
    torch.conv1d: _CONV, torch.conv2d: _CONV, torch.conv3d: _CONV, torch.conv_transpose1d: _TRANSPOSED,
    torch.conv_transpose2d: _TRANSPOSED, torch.conv_transpose3d: _TRANSPOSED, F.linear: _CONV[:3], F.batch_norm: _NORM,
}  # fmt: skip
#: These give values or memory away without an operator.
_ESCAPES = {Tensor.tolist, Tensor.data_ptr, Tensor.untyped_storage, Tensor.storage, Tensor.__dlpack__}


@dataclass(eq=False)
class Call:
    """One call of a convolution, a linear layer or a batch norm."""

    given: dict[str, Any]  # its arguments by name, but for the input
    transposed: bool
    input_dim: int
    producer: Call | None  # the call whose output object the input is
    norm: nn.Module | None = None  # the batch norm module around it
    output: weakref.ref | None = None
    output_dim: int = 0
    readers: list[Call | None] = field(default_factory=list)  # of the output; None is any other operator

    @property
    def output_escaped(self) -> bool:
        """Whether somebody still holds the output after the run: the result, an attribute, a hook."""
        return self.output is None or self.output() is not None

    def padded(self) -> bool:
        """Whether zeros are put around the input."""
        padding = self.given.get("padding", 0)
        if padding == "same":
            return any(size != 1 for size in self.given["weight"].shape[2:])
        if padding == "valid":
            return False
        return any(padding) if isinstance(padding, (tuple, list)) else bool(padding)


@dataclass
class _Watched:
    start: int
    end: int
    readers: list[Call | None]
    strict: bool  # whether asking for its shape or type is reading too


def _span(tensor: Tensor) -> tuple[int, int, int] | None:
    """Storage, first and last byte; ``None`` where there is no storage."""
    try:
        storage = tensor.untyped_storage()._cdata
        start, extent = tensor.storage_offset(), 1
        if tensor.numel():
            extent += sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    except (NotImplementedError, RuntimeError):
        return None
    return storage, start * tensor.itemsize, (start + extent) * tensor.itemsize


class Dataflow:
    """The layers that ran, in order, and who read their outputs and the parameters of ``model``."""

    def __init__(self, model: nn.Module, sample: Any):
        self.calls: list[Call] = []
        self._watched: dict[int, list[_Watched]] = defaultdict(list)
        self._producers: dict[int, Call] = {}
        self._alive: list[Tensor] = []  # outputs, so that no address comes twice
        self._running: list[nn.Module] = []
        self._parameter_readers: dict[int, list[Call | None]] = {}
        self._recording = self._inside = self._busy = False
        for module in model.modules():
            strict = isinstance(module, _BatchNorm)
            for tensor in (*module._parameters.values(), *module._buffers.values()):
                if tensor is not None and id(tensor) not in self._parameter_readers:
                    readers: list[Call | None] = []
                    self._parameter_readers[id(tensor)] = readers
                    if self._read(tensor, None):  # shared memory counts as read by another
                        readers.append(None)
                    self._watch(tensor, readers, strict)
        self._run(model, sample)

    def readers_of(self, parameter: Tensor) -> list[Call | None]:
        """Calls that took the parameter or memory of it; ``None`` is any other operator or owner of that memory."""
        return self._parameter_readers[id(parameter)]

    def _run(self, model: nn.Module, sample: Any) -> None:
        hooks = [
            model.register_forward_pre_hook(lambda *_: self._record(True), prepend=True),
            model.register_forward_hook(lambda *_: self._record(False), always_call=True),
        ]
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                hooks.append(module.register_forward_pre_hook(lambda module, _: self._running.append(module)))
                hooks.append(module.register_forward_hook(lambda *_: self._leave(), always_call=True))
        try:
            with _Functions(self), _Operators(self):
                result = call_with_sample(model, sample)
        finally:
            for hook in hooks:
                hook.remove()
            self._producers.clear()
            self._alive.clear()
        for call in self.calls:  # the result is still there
            if call.output_escaped:
                call.readers.append(None)
        del result

    def _record(self, recording: bool) -> None:
        self._recording = recording

    def _leave(self) -> None:
        if self._running:
            self._running.pop()

    def _watch(self, tensor: Tensor, readers: list[Call | None], strict: bool) -> None:
        span = _span(tensor)
        if span is None:
            readers.append(None)
        else:
            self._watched[span[0]].append(_Watched(span[1], span[2], readers, strict))

    def _read(self, values: Any, reader: Call | None, asked_only: bool = False) -> bool:
        """Note ``reader`` wherever one of ``values`` lies in watched memory; whether any did."""
        found, self._busy = False, True
        try:
            for tensor in tree_leaves(values):
                span = _span(tensor) if isinstance(tensor, Tensor) else None
                for watched in self._watched.get(span[0], ()) if span is not None else ():
                    if span[1] < watched.end and watched.start < span[2] and (watched.strict or not asked_only):
                        watched.readers.append(reader)
                        found = True
        finally:
            self._busy = False
        return found

    def function(self, func, args: tuple, kwargs: dict) -> Any:
        if not self._recording or self._busy or self._inside:
            return func(*args, **kwargs)
        names = _LAYERS.get(func)
        if names is None:
            self._read((args, kwargs), None, asked_only=func not in _ESCAPES)
            return func(*args, **kwargs)
        given = {**dict(zip(names, args)), **kwargs}
        call = self._begin(given, names)
        self._read(list(given.values()), call)
        self._inside = True
        try:
            output = func(*args, **kwargs)
        finally:
            self._inside = False
        self._end(call, output)
        return output

    def _begin(self, given: dict[str, Any], names: tuple[str, ...]) -> Call:
        x = given["input"]
        rest = {name: value for name, value in given.items() if name != "input"}
        call = Call(rest, names is _TRANSPOSED, x.dim(), self._producers.get(id(x)))
        if names is _NORM and self._running and given["running_mean"] is self._running[-1].running_mean:
            call.norm = self._running[-1]
        return call

    def _end(self, call: Call, output: Any) -> None:
        self.calls.append(call)
        if type(output) is not Tensor:
            return
        call.output, call.output_dim = weakref.ref(output), output.dim()
        self._busy = True
        try:
            self._watch(output, call.readers, strict=False)
        finally:
            self._busy = False
        self._producers[id(output)] = call
        self._alive.append(output)

    def operator(self, func, args: tuple, kwargs: dict) -> Any:
        if self._recording and not self._busy and not self._inside:
            self._read((args, kwargs), None)
        return func(*args, **kwargs)


class _Functions(TorchFunctionMode):
    def __init__(self, flow: Dataflow):
        super().__init__()
        self._flow = flow

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return self._flow.function(func, args, kwargs or {})


class _Operators(TorchDispatchMode):
    def __init__(self, flow: Dataflow):
        super().__init__()
        self._flow = flow

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return self._flow.operator(func, args, kwargs or {})
