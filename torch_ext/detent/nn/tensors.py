"""The tensors in the arguments and results of a leaf, counted in order: the slots of its quantizers."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from itertools import count

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

__all__ = ["argument_names", "map_arguments", "map_tensors"]


def argument_names(forward: Callable) -> tuple[str, ...]:
    """Names of what a forward takes besides the module."""
    _, *parameters = inspect.signature(forward).parameters.values()
    return tuple(parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD)


def map_tensors(value, apply: Callable[[int, Tensor], Tensor], slots: Iterator[int] | None = None):
    """``value`` with ``apply(slot, tensor)`` in place of each tensor in its tuples, lists and dictionaries.

    A tensor and a ``None`` take a slot each; a packed sequence takes one, for its data.
    """
    slots = count() if slots is None else slots
    if isinstance(value, Tensor):
        return apply(next(slots), value)
    if value is None:
        next(slots)
    elif isinstance(value, PackedSequence):
        return value._replace(data=apply(next(slots), value.data))
    elif isinstance(value, (tuple, list)):
        parts = [map_tensors(part, apply, slots) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    elif type(value) in (dict, OrderedDict):
        return type(value)((key, map_tensors(part, apply, slots)) for key, part in value.items())
    return value


def map_arguments(
    names: tuple[str, ...], args: tuple, kwargs: dict, apply: Callable[[int, Tensor], Tensor]
) -> tuple[tuple, dict]:
    """:func:`map_tensors` over the arguments of a call, those by name in the order of ``names``."""
    slots = count()
    args = tuple(map_tensors(value, apply, slots) for value in args)
    later = [name for name in names[len(args) :] if name in kwargs]
    return args, {**kwargs, **{name: map_tensors(kwargs[name], apply, slots) for name in later}}
