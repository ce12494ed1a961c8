"""What the readers of encodings files share: every value is looked at before it becomes a number."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sized
from typing import TYPE_CHECKING, Any

import torch

from ..defs import Granularity
from .affine import AffineEncoding

if TYPE_CHECKING:
    from .floating import Encoding

__all__ = [
    "MAX_TENSORS",
    "affine",
    "block_of",
    "by_name",
    "check_count",
    "check_grid",
    "fields",
    "integer",
    "integers",
    "named",
    "numbers",
    "printable",
    "sequence",
    "shown",
]

#: A file with more is refused before its entries are looked at: it is of no model.
MAX_TENSORS = 100_000

_WIDE = 24  # from here on float32 does not hold every offset


def shown(value: Any) -> str:
    """A value of a file, short and on one line."""
    if isinstance(value, Mapping):
        return f"an object of {len(value)} keys"
    if isinstance(value, (list, tuple)):
        return f"a list of {len(value)}"
    if isinstance(value, str):
        return repr(value) if len(value) <= 60 else f"{value[:60]!r}..."
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"


def printable(name: str) -> str:
    """A tensor's name in a message: as it is where that is safe to print."""
    return name if name.isprintable() and len(name) <= 80 else shown(name)


def _expected(where: str, value: Any, expected: str) -> ValueError:
    return ValueError(f"encodings: {where} is {shown(value)}, expected {expected}.")


def named(where: str, value: Any) -> str:
    """A tensor's name."""
    if not isinstance(value, str) or not value:
        raise _expected(where, value, "the name of a tensor")
    return value


def fields(where: str, entry: Any, keys: Iterable[str]) -> Mapping[str, Any]:
    """An entry that has all of ``keys``, and nothing that changes the meaning of the others."""
    if not isinstance(entry, Mapping):
        raise _expected(where, entry, "an object")
    missing = [key for key in keys if key not in entry]
    if missing:
        raise ValueError(f"encodings: {where} lacks {', '.join(missing)}, expected the keys {', '.join(keys)}.")
    shift = entry.get("zero_point_shift", 0)
    for value in shift if isinstance(shift, (list, tuple)) else [shift]:
        if isinstance(value, bool) or value != 0:
            raise _expected(f"{where}: zero_point_shift", value, "0, the only grid supported")
    return entry


def check_count(where: str, entries: Sized) -> None:
    """Raise ValueError where there are more entries than tensors in any model."""
    if len(entries) > MAX_TENSORS:
        raise ValueError(f"encodings: {where} has {len(entries):,} entries, expected at most {MAX_TENSORS:,}.")


def by_name(
    key: str, entries: Any, encoding_of: Callable[[Mapping[str, Any]], Encoding]
) -> dict[str, Encoding]:
    """The encodings of a list of entries that name their tensors, each once."""
    if not isinstance(entries, (list, tuple)):
        raise _expected(key, entries, "a list of entries")
    check_count(key, entries)
    found: dict[str, Encoding] = {}
    for index, entry in enumerate(entries):
        where = f"{key}[{index}]"
        name = named(f"{where}: name", fields(where, entry, ("name",))["name"])
        if name in found:
            raise ValueError(f"encodings: {shown(name)} stands twice in {key}, expected once.")
        found[name] = encoding_of(entry)
    return found


def sequence(where: str, value: Any) -> list[Any]:
    """A list that is not empty."""
    if not isinstance(value, (list, tuple)) or not value:
        raise _expected(where, value, "a list with at least one element")
    return list(value)


def numbers(where: str, values: Iterable[Any]) -> list[float]:
    """Finite numbers."""
    found = []
    for index, value in enumerate(values):
        try:
            number = float(value) if type(value) in (int, float) else math.nan
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise _expected(f"{where}[{index}]", value, "a finite number")
        found.append(number)
    return found


def integer(where: str, value: Any, low: int, high: int) -> int:
    """A whole number from ``low`` to ``high``; 8.0 is one, True is not."""
    whole = type(value) is int or (type(value) is float and value.is_integer())
    if not whole or not low <= value <= high:
        raise _expected(where, value, f"an integer from {low} to {high}")
    return int(value)


def integers(where: str, values: Iterable[Any], low: int, high: int) -> list[int]:
    """Whole numbers from ``low`` to ``high``."""
    return [integer(f"{where}[{index}]", value, low, high) for index, value in enumerate(values)]


def _steps(bitwidth: int, symmetric: bool, offsets: Iterable[float]) -> int:
    """``qmax - qmin``, which no format says: a symmetric grid may leave out its lowest code, -127 .. 127."""
    strict = symmetric and all(offset == 1 - 2 ** (bitwidth - 1) for offset in offsets)
    return 2**bitwidth - 2 if strict else 2**bitwidth - 1


def check_grid(version: str, name: str, encoding: AffineEncoding) -> None:
    """Raise ValueError where a file would be read back as another grid."""
    bits = encoding.bitwidth
    understood = _steps(bits, encoding.is_symmetric, encoding.offset.double().flatten().tolist())
    if encoding.num_steps != understood:
        raise ValueError(
            f"{name}: the grid has {encoding.num_steps + 1} codes at {bits} bits and an offset of "
            f"{encoding.offset.flatten()[0].item():g}, expected {understood + 1} codes: a {version} file says the "
            "bitwidth only. Use the whole grid, or a symmetric one without its lowest code."
        )


def block_of(version: str, name: str, encoding: Encoding) -> tuple[int, int]:
    """The dimension along which an encoding has blocks, and their size."""
    blocks, shape = encoding.block_size or (), encoding.scale.shape
    runs = [d for d, (block, scales) in enumerate(zip(blocks, shape)) if scales > 1 and block != 1]
    if len(runs) != 1 or blocks[runs[0]] < 1:
        raise ValueError(
            f"{name}: blocks of {tuple(blocks)} for scales of shape {tuple(shape)}, expected runs along exactly one "
            f"dimension, of a size that is known: a {version} file has one number for them."
        )
    return runs[0], blocks[runs[0]]


def affine(
    where: str,
    scale: list[float],
    offset: list[int],
    bitwidth: int,
    symmetric: bool,
    granularity: Granularity,
    *,
    shape: tuple[int, ...] | None = None,
    block_size: int | None = None,
    axis: int | None = None,
) -> AffineEncoding:
    """The encoding that checked numbers make; ``shape`` is that of the scales, ``None`` where the file is flat."""
    if len(scale) != len(offset):
        raise ValueError(f"encodings: {where} has {len(scale)} scales and {len(offset)} offsets, expected as many.")
    steps = _steps(bitwidth, symmetric, offset)
    integers(f"{where}: offset", offset, -steps, 0)
    if symmetric and any(other != offset[0] for other in offset):
        raise ValueError(f"encodings: {where} is symmetric and has several offsets, expected one and the same.")
    exact = torch.tensor(scale, dtype=torch.float64)
    held = exact.float()
    if not bool(((held > 0) & (held * steps < math.inf)).all()):
        index = int(((held > 0) & (held * steps < math.inf)).logical_not().nonzero()[0])
        raise _expected(f"{where}: scale[{index}]", scale[index], "a positive finite number, also in float32")
    dtype = torch.float64 if bitwidth >= _WIDE else torch.float32
    sizes = (len(scale),) if shape is None else shape
    return AffineEncoding(
        exact.to(dtype).reshape(sizes), torch.tensor(offset, dtype=dtype).reshape(sizes), bitwidth, symmetric,
        granularity, steps, None if block_size is None else (block_size,), axis,
    )  # fmt: skip
