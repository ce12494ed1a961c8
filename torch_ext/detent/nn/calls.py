"""Whose forward is running: the mode a module enters around its own forward, and leaving it inside its children."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING

import torch
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from .sums import DeferredSum

__all__ = ["Caller", "caller", "execution", "leaf_forward", "pop", "push"]

_count = torch._C._len_torch_function_stack
_at = torch._C._get_function_stack_at
push = torch._C._push_on_torch_function_stack
pop = torch._C._pop_torch_function_stack


def execution(path: str, use: int) -> str:
    """What names one of the executions of a module within a pass."""
    return f"{path}#{use}" if use else path


class Caller(TorchFunctionMode):
    """Entered by the module at ``path`` for one call of its forward; counts what that call has used so far.

    ``use`` says which of its executions this is; ``None``: one that the sample did not make.
    """

    def __init__(self, path: str, use: int | None):
        super().__init__()
        self.path = path
        self.execution = None if use is None else execution(path, use)
        self.uses: dict[str, int] = {}
        self.again = False  # whether a checkpoint is recomputed
        self.sum: DeferredSum | None = None  # which the next thing here takes or settles

    def settle(self) -> None:
        """Something happens here that may see a sum which was put off."""
        if self.sum is not None:
            held, self.sum = self.sum, None
            held.settle()

    def use(self, name: str, uses: dict[str, int]) -> int | None:
        """Which use of the module called ``name`` comes now; ``None``: one that is not in ``uses``."""
        if self.execution is None:
            return None
        count = self.uses.get(name, 0)
        self.uses[name] = count + 1
        use = uses.get(f"{self.execution}:{count}")
        if use is None:
            self.late(name)
        return use

    def resumed(self, function):
        """``function``, to be run again later: inside this call, which has then used what it has used now."""
        self.settle()
        then = self._copied()
        then.again = True

        @functools.wraps(function)
        def again(*args, **kwargs):
            mode = then._copied()
            push(mode)
            try:
                y = function(*args, **kwargs)
            finally:
                pop()
            mode.settle()
            return y

        return again

    def _copied(self) -> Caller:
        made = copy.copy(self)
        made.uses = dict(self.uses)
        return made

    def late(self, name: str) -> None:
        """Note something that the sample did not call."""
        raise NotImplementedError


def caller() -> Caller | None:
    """The call that is running, if it is one of ours."""
    depth = _count()
    if depth == 0:
        return None
    top = _at(depth - 1)
    return top if isinstance(top, Caller) else None


def leaf_forward(inner, float_forward):
    """A leaf's forward: ``inner(self, at, ...)`` outside its caller's mode; ``at`` holds the quantizers of this use.

    An ``inner`` that has an attribute ``bounds`` is given the sum that its input stands for, as keyword ``sum``.
    """
    bounds = getattr(inner, "bounds", None)

    @functools.wraps(float_forward)
    def forward(self, *args, **kwargs):
        top = caller()
        if top is None:
            return inner(self, self, *args, **kwargs)
        at = self if self._uses is None else self._use(top)
        if top.sum is not None:
            if bounds is not None and args and top.sum.awaits(args[0]):
                kwargs["sum"] = top.sum
            else:
                top.settle()
        pop()
        try:
            return inner(self, at, *args, **kwargs)
        finally:
            push(top)

    forward.bounds = bounds
    return forward
