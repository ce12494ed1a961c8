"""Settings per layer: what an override selects, and what all overrides together say of a name."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields

import torch
from torch import nn

from ..float_format import FloatFormat

__all__ = ["NOTHING", "Override", "Selected", "type_of"]

_GRANULARITIES = ("per_tensor", "per_channel")


def type_of(where: str, given: object) -> int | FloatFormat:
    """The bits of an integer grid, or the float format, that a user gave.

    Raises:
        ValueError: It is neither; ``where`` says who asked for it.
    """
    if isinstance(given, (FloatFormat, torch.dtype, str)):
        try:
            return FloatFormat.of(given)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
    if given is None or not _integer(given, 2, 32):
        raise ValueError(
            f"{where} is {given!r}, expected an integer from 2 to 32, or a float format: a FloatFormat, a torch type "
            "or its name."
        )
    return given


@dataclass(frozen=True)
class Override:
    """One call of :meth:`detent.config.Config.override`; ``None`` leaves what was said before."""

    select: str | nn.Module | type[nn.Module] | Callable[[str, nn.Module], bool] | None
    quantized: bool | None = None
    output_bw: int | FloatFormat | torch.dtype | str | None = None
    output_symmetric: bool | None = None
    param_bw: int | FloatFormat | torch.dtype | str | None = None
    param_symmetric: bool | None = None
    granularity: str | None = None
    block_size: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        select = self.select
        if isinstance(select, type):
            known = issubclass(select, nn.Module)
        else:
            known = select is None or isinstance(select, (str, nn.Module)) or callable(select)
        if not known:
            raise _wrong("select", select, "a pattern of names, a module, a type of modules or a predicate")
        for name in ("quantized", "output_symmetric", "param_symmetric"):
            if not isinstance(getattr(self, name), bool | None):
                raise _wrong(name, getattr(self, name), "True or False")
        for name in ("output_bw", "param_bw"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, type_of(f"override: {name}", getattr(self, name)))
        if self.granularity is not None and self.granularity not in _GRANULARITIES:
            raise _wrong("granularity", self.granularity, " or ".join(map(repr, _GRANULARITIES)))
        sizes = self.block_size if isinstance(self.block_size, tuple) else (self.block_size,)
        if not sizes or not all(_integer(size, 1, 2**31) or (size == -1 and len(sizes) > 1) for size in sizes):
            raise _wrong("block_size", self.block_size, "a positive integer, or a tuple of those and -1")
        if self.block_size is not None and self.granularity is not None:
            raise ValueError(
                f"override: granularity {self.granularity!r} came with block_size {self.block_size!r}, expected one of "
                "the two."
            )


def _integer(value: object, low: int, high: int) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and low <= value <= high)


def _wrong(name: str, value: object, expected: str) -> ValueError:
    return ValueError(f"override: {name} is {value!r}, expected {expected}.")


#: What is said of a name that no override selects.
NOTHING = Override(None)


class Selected:
    """Overrides against the names of one model.

    Args:
        overrides: The first has the lowest precedence.
        model: The model whose modules they name.
    Raises:
        ValueError: An override names a module that is not in ``model``.
    """

    def __init__(self, overrides: Iterable[Override], model: nn.Module):
        self._overrides = [(override, self._selector(override.select, model)) for override in overrides]
        self._merged: dict[str, Override] = {}

    @staticmethod
    def _selector(select, model: nn.Module) -> Callable[[str], bool]:
        """Whether a name is selected itself."""
        if isinstance(select, str):
            return lambda name: fnmatch.fnmatchcase(name, select)
        named = list(model.named_modules(remove_duplicate=False))
        if isinstance(select, nn.Module):
            chosen = {name for name, module in named if module is select}
            if not chosen:
                raise ValueError(
                    f"override: the {type(select).__name__} given is not in the model, expected one of its modules, as "
                    "they were when the simulation was built."
                )
        elif isinstance(select, type):
            chosen = {name for name, module in named if isinstance(module, select)}
        else:
            chosen = {name for name, module in named if select(name, module)}
        return chosen.__contains__

    def check(self, names: Iterable[str]) -> None:
        """Raise ValueError where a pattern matches none of ``names``."""
        names = list(names)
        for override, selects in self._overrides:
            if isinstance(override.select, str) and not any(map(selects, names)):
                raise ValueError(
                    f"override: no module, call site or parameter is called {override.select!r}, expected a pattern "
                    f"of names such as {', '.join(map(repr, names[1:4]))}."
                )

    def of(self, name: str) -> Override:
        """What all overrides together say of ``name``."""
        if name not in self._merged:
            self._merged[name] = self._merge(name) if self._overrides else NOTHING
        return self._merged[name]

    def _merge(self, name: str) -> Override:
        merged: dict[str, object] = {}
        around = list(_around(name))
        for override, selects in self._overrides:
            if any(map(selects, around)):
                said = {f.name: getattr(override, f.name) for f in fields(override)[1:]}
                said = {key: value for key, value in said.items() if value is not None}
                if "granularity" in said or "block_size" in said:
                    merged.pop("granularity", None), merged.pop("block_size", None)
                merged.update(said)
        return Override(None, **merged)


def _around(name: str) -> Iterator[str]:
    """The name, and those of all that it is inside of."""
    yield name
    while name:
        name = name.rpartition(".")[0]
        yield name
