"""The dataflow of one run of the sample: who made each float tensor and who reads it. Used for placement only."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .._running import call_with_sample, without_trace
from ..nn import quantized_class
from ..nn.table import SLOTS
from .functions import MOVERS, OPERATORS, Operator, arguments, carries_floats, is_quantizable

__all__ = ["Event", "Graph", "Read", "Value", "record"]

#: Leaf modules whose outputs hold only numbers of their inputs.
MOVING = ("MaxPool", "GlobalMaxPool", "Flatten", "Dropout", "Identity")
#: Those among them that leave numbers out: an input of the model is quantized before, as it comes.
POOLING = ("MaxPool", "GlobalMaxPool")

_HUGE = 1e8  # a mask, not data


@dataclass(eq=False)
class Value:
    """A tensor as its producer left it, followed through views."""

    producer: Event | None
    reads: list[Read] = field(default_factory=list)
    masking: bool = False  # holds infinities or numbers that stand for them
    is_result: bool = False
    entered: bool = False  # was there before any function that was seen


@dataclass(eq=False)
class Read:
    event: Event
    slot: int
    value: Value | None  # None: made by nothing that was seen
    direct: bool  # not through a view
    parameter: str | None  # full name, where it is a parameter of the model
    shape: torch.Size


@dataclass(eq=False)
class Event:
    """One execution of a leaf module or of an operator."""

    path: str  # of the leaf, or of the module whose forward calls the operator
    site: str | None  # "add_0"; None for a leaf
    use: int  # of a leaf
    onnx_op: str
    operator: Operator | None = None
    reads: list[Read] = field(default_factory=list)
    output: Value | None = None
    on_state: bool = False  # works in place on a buffer or parameter

    @property
    def key(self) -> tuple:
        return self.path, self.site, self.use


@dataclass
class Graph:
    events: list[Event] = field(default_factory=list)
    uses: dict[str, dict[str, int]] = field(default_factory=dict)  # leaf -> "<caller>:<count>" -> use
    callers: dict[str, set[str]] = field(default_factory=dict)  # leaf -> who calls it
    calls: dict[str, int] = field(default_factory=dict)  # leaf -> executions
    unknown: dict[str, set[str]] = field(default_factory=dict)  # module -> functions nobody knows
    returned: list[Value] = field(default_factory=list)  # by the model


@dataclass
class _Frame:
    path: str
    module: nn.Module
    leaf: bool
    counts: dict[str, int] = field(default_factory=dict)
    event: Event | None = None
    input: object = None


class _Recorder(TorchFunctionMode):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.graph = Graph()
        self.frames: list[_Frame] = []
        self.origins: dict[int, tuple[Value | None, bool]] = {}
        self.alive: list[Tensor] = []  # an id is reused once its tensor is gone
        self.parameters = {id(p): name for name, p in model.named_parameters()}
        self.state = set(self.parameters) | {id(b) for b in model.buffers()}

    # --- functions ----------------------------------------------------------------------------------------------------

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self.frames or self.frames[-1].leaf:
            return func(*args, **kwargs)
        operator = OPERATORS.get(func)
        given = (*args, *kwargs.values())
        if not carries_floats(given):
            return func(*args, **kwargs)
        if operator is not None and "out" not in kwargs:
            return self._operator(func, operator, args, kwargs)
        origins = [self._origin(t) for t in tree_leaves(given) if is_quantizable(t)]
        y = func(*args, **kwargs)
        made = [t for t in tree_leaves(y) if isinstance(t, Tensor) and (is_quantizable(t) or t.is_complex())]
        if func is Tensor.__setitem__:
            made = [args[0]]
        if not made:
            return y
        known = func in MOVERS and not _mixes(func, args, kwargs)
        if not known:
            path = self.frames[-1].path
            self.graph.unknown.setdefault(path, set()).add(getattr(func, "__name__", str(func)))
            for value, _ in origins:
                if value is not None:
                    value.is_result = True  # read by somebody who cannot be asked
        for t in made:
            kept = any(t is leaf for leaf in tree_leaves(given))
            value = origins[0][0] if known else Value(None)
            self._set(t, value, direct=known and kept and origins[0][1])
        return y

    def _operator(self, func, operator: Operator, args: tuple, kwargs: dict):
        frame = self.frames[-1]
        count = frame.counts.get(operator.name, 0)
        frame.counts[operator.name] = count + 1
        event = Event(frame.path, f"{operator.name}_{count}", 0, operator.onnx_op, operator)
        for slot, value in arguments(operator, args, kwargs):
            if is_quantizable(value):
                self._read(event, slot, value)
        in_place = bool(args) and (operator.in_place or kwargs.get("inplace") is True)
        event.on_state = in_place and id(args[0]) in self.state
        y = func(*args, **kwargs)
        self._made(event, y)
        return y

    # --- modules ------------------------------------------------------------------------------------------------------

    def enter(self, path: str, leaf: bool, module, args, kwargs) -> None:
        with torch._C.DisableTorchFunction():
            frame = _Frame(path, module, leaf)
            outer = self.frames[-1] if self.frames else None
            if leaf and not (outer and outer.leaf):
                frame.event = self._leaf_event(path, module, outer)
                frame.input = args[0] if args else kwargs.get("input")
                if is_quantizable(frame.input):
                    self._read(frame.event, 0, frame.input)
            self.frames.append(frame)

    def _leaf_event(self, path: str, module: nn.Module, outer: _Frame | None) -> Event:
        graph = self.graph
        graph.calls[path] = graph.calls.get(path, 0) + 1
        above = outer.path if outer else ""
        count = outer.counts.get(f"{path}()", 0) if outer else 0
        if outer:
            outer.counts[f"{path}()"] = count + 1
        uses = graph.uses.setdefault(path, {})
        graph.callers.setdefault(path, set()).add(above)
        use = uses.setdefault(f"{above}:{count}", len(uses))
        return Event(path, None, use, SLOTS[type(module)].onnx_op)

    def leave(self, module, args, kwargs, output) -> None:
        with torch._C.DisableTorchFunction():
            frame = self.frames.pop()
            event = frame.event
            if event is None:
                return
            if event.onnx_op in MOVING:
                if event.reads:
                    event.reads[0].value.reads.remove(event.reads[0])
                    value, direct = self._origin(frame.input)
                    if value.entered and event.onnx_op in POOLING:
                        event.output = value = Value(event, masking=value.masking)
                    for t in tree_leaves(output):
                        if is_quantizable(t):
                            self._set(t, value, direct and t is frame.input)
                self.graph.events.append(event)
                return
            self._made(event, output)

    # --- tensors ------------------------------------------------------------------------------------------------------

    def _origin(self, tensor: Tensor) -> tuple[Value | None, bool]:
        return self.origins.get(id(tensor), (None, True))

    def _set(self, tensor: Tensor, value: Value | None, direct: bool) -> None:
        self.origins[id(tensor)] = value, direct
        self.alive.append(tensor)

    def _read(self, event: Event, slot: int, tensor: Tensor) -> None:
        value, direct = self._origin(tensor)
        if value is None:
            value = Value(None, masking=_masking(tensor), entered=True)
            self._set(tensor, value, True)
        read = Read(event, slot, value, direct, self.parameters.get(id(tensor)), tensor.shape)
        value.reads.append(read)
        event.reads.append(read)

    def _made(self, event: Event, y) -> None:
        with torch._C.DisableTorchFunction():
            first = y[0] if isinstance(y, (tuple, list)) and y else y
            if is_quantizable(first):
                event.output = Value(event, masking=_masking(first))
                self._set(first, event.output, True)
            self.graph.events.append(event)


def _mixes(func, args: tuple, kwargs: dict) -> bool:
    """Whether this call of a mover brings in numbers from elsewhere."""
    if func in (torch.max, torch.min, Tensor.max, Tensor.min):
        return any(isinstance(other, Tensor) for other in (*args[1:], *kwargs.values()))
    if func is torch.nn.functional.pad:
        return bool(kwargs.get("value") or (len(args) > 3 and args[3]))
    return False


def _masking(tensor: Tensor) -> bool:
    with torch._C.DisableTorchFunction():
        return bool((tensor.numel() > 0) and not (tensor.detach().abs() < _HUGE).all())


def record(model: nn.Module, sample) -> Graph:
    """Run the sample once, leaving no trace."""
    recorder, hooks = _Recorder(model), []
    try:
        for path, module in model.named_modules():
            leaf = quantized_class(type(module)) is not None
            enter = functools.partial(recorder.enter, path, leaf)
            hooks.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.append(module.register_forward_hook(recorder.leave, with_kwargs=True))
        with without_trace(model), recorder:
            output = call_with_sample(model, sample)
    finally:
        for hook in hooks:
            hook.remove()
    for tensor in tree_leaves(output):
        value = recorder.origins.get(id(tensor), (None, True))[0]
        if value is not None:
            value.is_result = True
            recorder.graph.returned.append(value)
    return recorder.graph
