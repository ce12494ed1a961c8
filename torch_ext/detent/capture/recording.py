"""The dataflow of one run of the sample: who made each float tensor and who reads it. Used for placement only."""

from __future__ import annotations

import contextlib
import functools
import sys
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .._running import call_with_sample, evaluating, without_trace
from ..nn import is_leaf
from ..nn.calls import execution
from ..nn.sums import custom_functions
from ..nn.table import CLASSES, SLOTS
from ..nn.tensors import map_arguments, map_tensors
from .functions import (
    FILLERS, KEEP_AXES, NOISE, WRITERS, Operator, activates, arguments, carries_floats, find, is_quantizable, pole,
)  # fmt: skip
from .graph import MOVING, POOLING, Event, Graph, Read, Value, of_use
from .lines import calling_line

__all__ = ["record"]

_HUGE = 1e8  # from here on a mask, not data, if nothing is between it and a hundredth


@dataclass
class _Frame:
    path: str
    use: int
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
        self.reads: dict[int, list[Read]] = {}  # by the memory that is read
        self.constants: dict[int, list[Value]] = {}  # by the memory that holds them
        self.written: dict[int, Event] = {}  # tensor -> the leaf that worked on it in place
        self.moment = 0
        self.just_read: tuple[Event, Tensor] | None = None
        self.parameters = {id(p): name for name, p in model.named_parameters()}
        held = [leaf for module in model.modules() for leaf in tree_leaves(list(vars(module).values()))]
        self.state = set(self.parameters) | {id(tensor) for tensor in held if isinstance(tensor, Tensor)}

    def _next_moment(self) -> None:
        """A call begins."""
        if self.just_read is not None:
            producer, tensor = self.just_read
            self.just_read = None
            ours = 2 + sum(kept is tensor for kept in self.alive) + (id(tensor) in self.written)  # here, as an argument
            producer.held = sys.getrefcount(tensor) > ours
        self.moment += 1

    # --- functions ----------------------------------------------------------------------------------------------------

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self.frames or self.frames[-1].leaf:
            return func(*args, **kwargs)
        self._next_moment()
        operator = None if kwargs.get("out") is not None else find(func)
        if operator is not None and operator.body is not None:
            with self:
                return operator.body(*args, **kwargs)
        given = (*args, *kwargs.values())
        if _transformed(given):
            return func(*args, **kwargs)
        constant = func not in NOISE and self._constant(given)
        floats = carries_floats(given)
        if floats and operator is not None and not operator.moves:
            return self._operator(func, operator, args, kwargs, constant)
        site = self._site(operator) if floats and operator is not None else ""
        origins = [(t, *self._origin(t)) for t in tree_leaves(given) if is_quantizable(t)]
        with self._writing(given, constant):
            y = func(*args, **kwargs)
        if constant:
            self._constants(y)
        if not floats:
            return y
        made = [t for t in tree_leaves(y) if isinstance(t, Tensor) and (is_quantizable(t) or t.is_complex())]
        if func is Tensor.__setitem__:
            made = [args[0]]
        if not made:
            return y
        known = _fills(func, args, kwargs) if operator is None else not _mixes(func, args, kwargs)
        if not (operator is not None or func in WRITERS or constant):
            path = self.frames[-1].path
            self.graph.unknown.setdefault(path, set()).add(getattr(func, "__name__", str(func)))
        if not known:
            for _, value, _ in origins:
                if value is not None:
                    value.is_result = True  # read by somebody who cannot be asked
        for t in made:
            kept = any(t is leaf for leaf, _, _ in origins)
            value = self._moved(operator, site, given, origins[0][1]) if known else None
            if value is not None or not constant:
                self._set(t, value, direct=known and kept and origins[0][2])
        return y

    def _constants(self, y) -> None:
        """What a call makes of constants alone, whole numbers included."""
        for t in tree_leaves(y):
            if isinstance(t, Tensor) and id(t) not in self.state:
                self._set(t, Value(None, masking=is_quantizable(t) and _masking(t), constant=True), direct=False)

    def _moved(self, mover: Operator | None, site: str, given: tuple, value: Value | None) -> Value | None:
        """Whose numbers the outputs of a mover hold; None stands for a writer."""
        if value is None or value.parameter is None:
            return value
        if mover is None:
            return None
        axes_kept = value.axes_kept and mover.name in KEEP_AXES
        if value.mover is None:
            event = Event(self.frames[-1].path, site, self.frames[-1].use, "", mover)
            event.reads.append(Read(event, 0, value, True, given[0].shape))
            return Value(None, constant=True, parameter=value.parameter, mover=event, axes_kept=axes_kept)
        if axes_kept != value.axes_kept:
            return Value(None, constant=True, parameter=value.parameter, mover=value.mover, axes_kept=False)
        return value

    def _site(self, operator: Operator) -> str:
        """The name of the call that is being made."""
        frame = self.frames[-1]
        count = frame.counts.get(operator.name, 0)
        frame.counts[operator.name] = count + 1
        site = f"{operator.name}_{count}"
        lines = self.graph.lines.setdefault(frame.path, {})
        called = of_use(frame.use, operator.name), calling_line()
        lines.setdefault(called, []).append(of_use(frame.use, site))
        return site

    def _operator(self, func, operator: Operator, args: tuple, kwargs: dict, constant: bool):
        frame = self.frames[-1]
        event = Event(frame.path, self._site(operator), frame.use, operator.onnx_op, operator, constant=constant)
        event.moment, event.caller, event.inside = self.moment, (frame.path, frame.use), len(custom_functions())
        event.activates = activates(operator, args, kwargs)
        singular = pole(func, operator, args)
        for slot, value in arguments(operator, args, kwargs):
            if is_quantizable(value):
                read = self._read(event, slot, value)
                if slot == singular:
                    read.value.nearest_zero = min(read.value.nearest_zero, _nearest_zero(value))
                if slot == operator.weight and not read.value.entered:
                    event.constant = False  # a layer, whose input is data even where it is a parameter: a learned query
        in_place = bool(args) and (operator.in_place or kwargs.get("inplace") is True)
        event.on_state = in_place and id(args[0]) in self.state
        with self._writing((args, kwargs), constant):
            y = func(*args, **kwargs)
        if constant and event.constant:
            self._constants(y)
        self._made(event, y)
        if in_place and event.output is not None and event.output.masking:
            for read in event.reads[:1]:  # a mask in the making
                read.value.masking = read.value.masking or read.value.producer is None
        return y

    @contextlib.contextmanager
    def _writing(self, given, constant: bool):
        """Notice which tensors a call writes into, and whether with constants."""
        tensors = [t for t in tree_leaves(given) if isinstance(t, Tensor)]
        versions = [(t, t._version) for t in tensors if not t.is_inference()]
        yield
        for tensor, version in versions:
            if tensor._version != version:
                memory = _memory(tensor)
                for read in self.reads.get(memory, ()):
                    read.overwritten = True
                if not constant:
                    for value in self.constants.pop(memory, ()):
                        value.constant = False

    def _constant(self, given) -> bool:
        """Whether these arguments hold what modules hold and plain numbers alone."""
        for t in tree_leaves(given):
            if isinstance(t, Tensor) and id(t) not in self.state:
                value = self.origins.get(id(t), (None,))[0]
                if value is None or not value.constant:
                    return False
        return True

    # --- modules ------------------------------------------------------------------------------------------------------

    def enter(self, path: str, leaf: bool, module, args, kwargs) -> None:
        with torch._C.DisableTorchFunction():
            outer = self.frames[-1] if self.frames else None
            if outer is None or not outer.leaf:
                self._next_moment()
            leaf = leaf and not _transformed((args, kwargs))
            frame = _Frame(path, 0, leaf or (outer is not None and outer.leaf))
            if outer is None or not outer.leaf:
                frame.use = self._use(path, outer)
                if leaf:
                    frame.event = event = Event(path, None, frame.use, SLOTS[type(module)].onnx_op)
                    event.caller = None if outer is None else (outer.path, outer.use)
                    event.moment, event.inside = self.moment, len(custom_functions())
                    frame.input = args[0] if args else next(iter(kwargs.values()), None)
                    self._leaf_reads(frame.event, type(module), args, kwargs)
            self.frames.append(frame)

    def _leaf_reads(self, event: Event, float_class: type, args: tuple, kwargs: dict) -> None:
        def read(slot: int, tensor: Tensor) -> Tensor:
            if slot < SLOTS[float_class].inputs and is_quantizable(tensor):
                self._read(event, slot, tensor)
            return tensor

        map_arguments(CLASSES[float_class]._argument_names, args, kwargs, read)

    def _use(self, path: str, outer: _Frame | None) -> int:
        """Which execution of the module at ``path`` begins."""
        graph, count, above = self.graph, 0, ""
        graph.calls[path] = graph.calls.get(path, 0) + 1
        if outer is not None:
            count, above = outer.counts.get(f"{path}()", 0), execution(outer.path, outer.use)
            outer.counts[f"{path}()"] = count + 1
            graph.callers.setdefault(path, set()).add(outer.path)
        uses = graph.uses.setdefault(path, {})
        return uses.setdefault(f"{above}:{count}", len(uses))

    def leave(self, module, args, kwargs, output):
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
            self._made(event, output, SLOTS[type(module)].outputs)
            return self._in_place(event, output) if output is frame.input and event.output is not None else None

    def _in_place(self, event: Event, tensor: Tensor) -> Tensor:
        """What a leaf that wrote over its input returns: another name of it, to tell who reads which."""
        for read in self.reads.get(_memory(tensor), ()):
            read.overwritten |= read.event is not event
        self.written[id(tensor)] = event
        output = tensor.view_as(tensor)
        self._set(output, event.output, True)
        return output

    # --- tensors ------------------------------------------------------------------------------------------------------

    def _origin(self, tensor: Tensor) -> tuple[Value | None, bool]:
        if id(tensor) in self.written:
            self.written[id(tensor)].reread = True
        name = self.parameters.get(id(tensor))
        if name is not None and id(tensor) not in self.origins:
            self._set(tensor, Value(None, masking=_masking(tensor), constant=True, parameter=name), True)
        return self.origins.get(id(tensor), (None, True))

    def _set(self, tensor: Tensor, value: Value | None, direct: bool) -> None:
        self.origins[id(tensor)] = value, direct
        self.alive.append(tensor)
        if value is not None and value.constant:
            self.constants.setdefault(_memory(tensor), []).append(value)

    def _read(self, event: Event, slot: int, tensor: Tensor) -> Read:
        value, direct = self._origin(tensor)
        if value is None:
            value = Value(None, masking=_masking(tensor), entered=True)
            self._set(tensor, value, True)
        if value.producer is not None and value.producer.moment == self.moment - 1:
            self.just_read = value.producer, tensor
        read = Read(event, slot, value, direct, tensor.shape)
        value.reads.append(read)
        event.reads.append(read)
        self.reads.setdefault(_memory(tensor), []).append(read)
        return read

    def _made(self, event: Event, y, slots: int = 1) -> None:
        def made(slot: int, tensor: Tensor) -> Tensor:
            if slot < slots and is_quantizable(tensor):
                event.outputs[slot] = Value(event, masking=_masking(tensor), constant=event.constant)
                self._set(tensor, event.outputs[slot], True)
            event.integers |= slot == 0 and not (tensor.is_floating_point() or tensor.is_complex())
            return tensor

        with torch._C.DisableTorchFunction():
            map_tensors(y, made)
            event.output = event.outputs.get(0)
            self.graph.events.append(event)


def _transformed(given) -> bool:
    """Whether torch.func is at work: a tensor stands for others, whose numbers cannot be looked at."""
    is_wrapped = torch._C._functorch.is_functorch_wrapped_tensor
    return any(isinstance(t, Tensor) and is_wrapped(t) for t in tree_leaves(given))


def _memory(tensor: Tensor) -> int:
    """What views of one tensor have in common."""
    return tensor.untyped_storage().data_ptr() if tensor.layout is torch.strided else id(tensor)


def _mixes(func, args: tuple, kwargs: dict) -> bool:
    """Whether this call of a mover brings in numbers from elsewhere."""
    if func in (torch.max, torch.min, Tensor.max, Tensor.min):
        return any(isinstance(other, Tensor) for other in (*args[1:], *kwargs.values()))
    if func is torch.nn.functional.pad:
        return bool(kwargs.get("value") or (len(args) > 3 and args[3]))
    return False


def _fills(func, args: tuple, kwargs: dict) -> bool:
    """Whether a writer only puts a number into its input that its grid holds or need not: 0, or what masks."""
    if func not in FILLERS or "reduce" in kwargs:
        return False
    number = kwargs.get("value", args[-1])
    return type(number) in (int, float) and (number == 0 or abs(number) >= _HUGE)


def _masking(tensor: Tensor) -> bool:
    with torch._C.DisableTorchFunction():
        if not tensor.numel() or tensor.layout is not torch.strided:
            return False
        values = tensor.detach()
        low, high = torch.aminmax(values.abs() if values.is_complex() else values)
        if low > -_HUGE and high < _HUGE:
            return False
        sizes = values.abs()  # data that grew has numbers in between
        return not (sizes.isfinite().all() and ((sizes >= _HUGE / 100) & (sizes < _HUGE)).any())


def _nearest_zero(tensor: Tensor) -> float:
    """The smallest magnitude that is not zero, over the span of the range that would hold the tensor."""
    with torch._C.DisableTorchFunction():
        values = tensor.detach()
        sizes = values[values != 0].abs()
        span = values.amax().clamp(min=0) - values.amin().clamp(max=0) if sizes.numel() else 0
        return float(sizes.amin() / span) if span else 1.0


def record(model: nn.Module, sample) -> Graph:
    """Run the sample once, leaving no trace; lazy modules take their shapes from it."""
    if any(is_lazy(parameter) for parameter in (*model.parameters(), *model.buffers())):
        with evaluating(model), torch.random.fork_rng():
            call_with_sample(model, sample)
    recorder, hooks = _Recorder(model), []
    try:
        for path, module in model.named_modules():
            if isinstance(module, torch.jit.ScriptModule):
                above, _, name = path.rpartition(".")
                if not isinstance(model.get_submodule(above), torch.jit.ScriptModule):
                    recorder.graph.unknown.setdefault(above, set()).add(f"{name} (scripted)")
                continue
            enter = functools.partial(recorder.enter, path, is_leaf(module))
            hooks.append(module.register_forward_pre_hook(enter, with_kwargs=True))
            hooks.append(module.register_forward_hook(recorder.leave, with_kwargs=True))
        with without_trace(model), recorder:
            output = call_with_sample(model, sample)
    finally:
        for hook in hooks:
            hook.remove()
    for tensor in tree_leaves(output):
        value = recorder.origins.get(id(tensor), (None, True))[0]
        if id(tensor) in recorder.written:
            recorder.written[id(tensor)].reread = True
        if value is not None:
            value.is_result = True
            recorder.graph.returned.append(value)
    return recorder.graph
