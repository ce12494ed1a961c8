"""Whose forward is running: the mode a module enters around its own forward, and leaving it inside its children."""

from __future__ import annotations

import functools

import torch
from torch.overrides import TorchFunctionMode

__all__ = ["Caller", "caller", "leaf_forward", "pop", "push"]

_count = torch._C._len_torch_function_stack
_at = torch._C._get_function_stack_at
push = torch._C._push_on_torch_function_stack
pop = torch._C._pop_torch_function_stack


class Caller(TorchFunctionMode):
    """Entered by the module at ``path`` for one call of its forward; counts what that call has used so far."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path
        self.uses: dict[str, int] = {}

    def use(self, name: str, uses: dict[str, int]) -> int | None:
        """Which use of the module called ``name`` comes now; ``None``: one that is not in ``uses``."""
        count = self.uses.get(name, 0)
        self.uses[name] = count + 1
        return uses.get(f"{self.path}:{count}")


def caller() -> Caller | None:
    """The call that is running, if it is one of ours."""
    depth = _count()
    if depth == 0:
        return None
    top = _at(depth - 1)
    return top if isinstance(top, Caller) else None


def leaf_forward(inner, float_forward):
    """A leaf's forward: ``inner(self, at, ...)`` outside its caller's mode; ``at`` holds the quantizers of this use."""

    @functools.wraps(float_forward)
    def forward(self, *args, **kwargs):
        top = caller()
        if top is None:
            return inner(self, self, *args, **kwargs)
        at = self if self._uses is None else self._use(top)
        pop()
        try:
            return inner(self, at, *args, **kwargs)
        finally:
            push(top)

    return forward
