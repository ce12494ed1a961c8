"""Seeing the torch functions that a module's own forward calls, and none that its children call."""

from __future__ import annotations

import copyreg
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from types import FunctionType
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..nn.base import QuantizedModule, Use, entries
from ..nn.calls import Caller, caller, pop, push
from ..nn.sums import DeferredSum, reader_takes_sums
from .functions import Operator, activates, carries_floats, find, summands_of
from .lines import Line, calling_line, shown
from .sites import CallSite

if TYPE_CHECKING:
    from .graph import Event

__all__ = ["Capture", "Captured", "captured_class", "place"]


@dataclass
class Capture:
    """What a captured module knows of its call sites, ``add_0``, and for further uses of the module ``use_1.add_0``.

    A call is told by the line of code that it stands on and how often that has called the function, so that a branch
    which the sample did not take moves no other call. Inside torch.compile, which sees no lines, by its number.
    """

    path: str = ""
    names: dict[str, tuple[str, ...] | None] = field(default_factory=dict)  # call site -> child; None: left in float
    lines: dict[tuple[str, Line], list[str]] = field(default_factory=dict)  # "add", "use_1.add", its line -> call sites
    uses: dict[str, int] | None = None  # where it runs more than once: "<execution of the caller>:<count>" to the use
    reused: list[nn.Module] = field(default_factory=list)  # modules whose uses depend on how often this one calls
    late: list[str] = field(default_factory=list)  # first met after construction
    moved: set[str] = field(default_factory=set)  # movers that a parameter is read through
    sums: dict[str, tuple[str, ...]] = field(default_factory=dict)  # call site of a sum -> the activation that reads it
    forward: Callable | None = None  # one that was put on the instance

    def active(self, module: nn.Module, inside: bool) -> bool:
        """Whether a call needs the mode: some quantizer of a call site or of a reused module is on.

        A module without call sites may meet one later: it enters the mode where its caller has, and where a leaf among
        its children quantizes.
        """
        if not self.names:
            if inside:
                return True
            for child in module._modules.values():
                if isinstance(child, QuantizedModule) and _leaf_on(child):
                    return True
        if self.any_site_on(module) or self.any_sum_waits(module):
            return True
        for other in self.reused:
            if other._detent.any_site_on(other) if isinstance(other, Captured) else _leaf_on(other):
                return True
        return False

    def any_sum_waits(self, module: nn.Module) -> bool:
        """Whether a sum would be put off for the activation that reads it."""
        if torch.compiler.is_compiling():
            return False
        return any(reader_takes_sums(module, path) for path in self.sums.values())

    def any_site_on(self, module: nn.Module) -> bool:
        for child in self.names.values():
            if child is not None and _below(module, child).on(module):
                return True
        return False


def _below(module: nn.Module, path: tuple[str, ...]) -> nn.Module:
    for name in path:
        module = module._modules[name]
    return module


def _leaf_on(leaf: nn.Module) -> bool:
    """Whether any quantizer of a leaf or of one of its further uses is on."""
    for part in (leaf,) if leaf._uses is None else (leaf, *leaf._modules.values()):
        for _, _, quantizer in entries(part):
            if getattr(quantizer, "enabled", True):
                return True
    return False


class Calls(Caller):
    """Entered for one call of ``owner``'s forward."""

    def __init__(self, owner: nn.Module, capture: Capture, use: int | None):
        super().__init__(capture.path, use)
        self.owner = owner
        self.capture = capture
        self.prefix = f"use_{use}." if use else ""
        self.counts: dict[str | tuple[str, Line], int] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = {} if kwargs is None else kwargs
        operator = None if self.execution is None or kwargs.get("out") is not None else find(func)
        if self.sum is not None and not (operator is not None and self._given_sum(operator, args, kwargs)):
            self.settle()
        if operator is None or (operator.moves and operator.name not in self.capture.moved):
            if torch.compiler.is_compiling() and args and isinstance(args[0], FunctionType):
                args = (self.entered(args[0]), *args[1:])  # of torch.utils.checkpoint, which is an operator there
            return func(*args, **kwargs)
        if operator.body is not None:
            return self.composite(operator.body, args, kwargs)
        if not (carries_floats(args) or carries_floats(kwargs.values())):
            return func(*args, **kwargs)
        site = self.site(operator)
        child = self.capture.names.get(site)
        reader = self.capture.sums.get(site)
        if child is not None:
            return _below(self.owner, child).call(self, func, operator, args, kwargs, reader)
        self.settle()
        token = None if reader is None else self.deferred(operator, args, kwargs, reader)
        return func(*args, **kwargs) if token is None else token

    def _given_sum(self, operator: Operator, args: tuple, kwargs: dict) -> bool:
        """Whether a call is an activation of the very sum that was put off."""
        return activates(operator, args, kwargs) and self.sum.awaits(args[0] if args else kwargs.get("input"))

    def deferred(self, operator: Operator, args: tuple, kwargs: dict, reader: tuple[str, ...]) -> Tensor | None:
        """What stands for a sum that is put off until ``reader`` has it; ``None`` where it has to be made."""
        if torch.compiler.is_compiling():
            return None
        summands = summands_of(operator, args, kwargs)
        if summands is None or not reader_takes_sums(self.owner, reader):
            return None
        self.sum = DeferredSum.of(*summands, operator.in_place)
        return None if self.sum is None else self.sum.handed_out()

    def site(self, operator: Operator) -> str | None:
        """The call site that a call is; ``None``, after a word, for one that the sample did not make."""
        name = self.prefix + operator.name
        numbered = f"{name}_{self._counted(operator.name)}"
        if torch.compiler.is_compiling():
            return numbered
        line = calling_line()
        sites = self.capture.lines.get((name, line))
        if sites is None and self.again:  # a function that was handed to a checkpoint itself is called by torch
            return numbered
        count = self._counted((name, line))
        if sites is not None and count < len(sites):
            return sites[count]
        if not operator.moves:
            self.late(f"{name} ({shown(line)})")
        return None

    def _counted(self, what: str | tuple[str, Line]) -> int:
        count = self.counts.get(what, 0)
        self.counts[what] = count + 1
        return count

    def _copied(self) -> Calls:
        made = super()._copied()
        made.counts = dict(self.counts)
        return made

    def entered(self, function):
        """``function``, called with this mode on."""
        return lambda *args, **kwargs: self.composite(function, args, kwargs)

    def composite(self, body, args: tuple, kwargs: dict):
        """What a function is made of, with this mode on."""
        push(self)
        try:
            return body(*args, **kwargs)
        finally:
            pop()

    def late(self, name: str) -> None:
        """A call that the sample did not make: float, with one warning."""
        if name in self.capture.late or torch.compiler.is_compiling():
            return
        self.capture.late.append(name)
        path = f"{self.path}.{name}" if self.path and not name.startswith(f"{self.path}.") else name
        warnings.warn(
            f"{path} did not run with the sample input and passes in float. Build the sim from a sample that "
            "reaches it.",
            stacklevel=4,
        )


class Captured(nn.Module):
    """A module whose own calls of torch functions are seen; mixed into its class by :func:`captured_class`."""

    _float_class: type
    _detent: Capture

    def __reduce_ex__(self, protocol):
        made = super().__reduce_ex__(protocol)
        if made[0] is copyreg.__newobj__:  # the generated class has no name to be imported by
            return (_new, (type(self)._float_class, *made[1][1:]), *made[2:])
        return made


def place(module: nn.Module | None, event: Event) -> str:
    """The full name of what has the event's quantizers, or would have; ``module`` is the one at the event's path."""
    parts: tuple[str, ...] = (f"use_{event.use}",) if event.use else ()
    if event.site is not None:
        held = module._detent.names.get(event.site_name) if isinstance(module, Captured) else None
        parts = held or (event.site_name,)
    return ".".join((event.path, *parts)).lstrip(".")


def _new(float_class: type, *args):
    made = captured_class(float_class)
    return made.__new__(made, *args)


def _captured_forward(float_forward):
    @functools.wraps(float_forward)
    def forward(self, *args, **kwargs):
        top = caller()
        if top is None:
            return run(self, args, kwargs, None)
        top.settle()
        pop()
        try:
            return run(self, args, kwargs, top)
        finally:
            push(top)

    def run(self, args, kwargs, top):
        capture = self._detent
        use = 0 if top is None or capture.uses is None else top.use(capture.path, capture.uses)
        if capture.forward is not None:
            call = capture.forward
        else:
            call, args = float_forward, (self, *args)
        if not capture.active(self, top is not None):
            return call(*args, **kwargs)
        calls = Calls(self, capture, use)
        with calls:
            y = call(*args, **kwargs)
        calls.settle()
        return y

    return forward


def _users(modules: dict) -> dict:
    """Children without those that quantize."""
    return {
        name: module
        for name, module in modules.items()
        if not isinstance(module, (CallSite, Use)) and name != "param_quantizers"
    }


class _SequentialView:
    """A Sequential or ModuleList with a forward of its own loops over itself: over the user's children only."""

    def __iter__(self):
        return iter(_users(self._modules).values())

    def __len__(self):
        return len(_users(self._modules))


class _DictView:
    """The same for a ModuleDict."""

    def __iter__(self):
        return iter(_users(self._modules))

    def __len__(self):
        return len(_users(self._modules))

    def keys(self):
        return _users(self._modules).keys()

    def items(self):
        return _users(self._modules).items()

    def values(self):
        return _users(self._modules).values()


@functools.lru_cache(maxsize=None)
def captured_class(float_class: type) -> type:
    """The captured twin of a class: same name, attributes and forward; made once."""
    bases: tuple[type, ...] = (Captured, float_class)
    if issubclass(float_class, nn.ModuleDict):
        bases = (_DictView, *bases)
    elif issubclass(float_class, nn.ModuleList) or (
        issubclass(float_class, nn.Sequential) and float_class.forward is not nn.Sequential.forward
    ):
        bases = (_SequentialView, *bases)
    members = {
        "__module__": float_class.__module__,
        "__qualname__": float_class.__qualname__,
        "__doc__": float_class.__doc__,
        "_float_class": float_class,
        "forward": _captured_forward(float_class.forward),
    }
    return type(float_class.__name__, bases, members)
