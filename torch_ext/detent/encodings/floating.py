"""The encoding of a float format, and what files say of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..defs import Granularity
from ..float_format import FloatFormat
from . import checking
from .affine import AffineEncoding

__all__ = ["Encoding", "FloatEncoding", "check_no_integers", "format_of", "said_of", "scales_of"]


@dataclass(frozen=True, eq=False)
class FloatEncoding:
    """What a runtime needs to know of a tensor that is rounded to a float format.

    Args:
        format: The format.
        scale: What a tensor is divided by before it is rounded, > 0; CPU float tensor in the shape of the quantizer.
            ``None``: nothing.
        granularity, block_size, axis: Of the scales, as :class:`AffineEncoding` has them.
    Raises:
        ValueError: A scale is not positive and finite.
    Example:
        >>> FloatEncoding(FloatFormat.of("e4m3fn"), torch.tensor([0.5])).max
        tensor([224.])
    """

    format: FloatFormat
    scale: Tensor | None = None
    granularity: Granularity = Granularity.per_tensor
    block_size: tuple[int, ...] | None = None
    axis: int | None = None

    dtype = "FLOAT"

    def __post_init__(self) -> None:
        if self.scale is not None and not bool((torch.isfinite(self.scale) & (self.scale > 0)).all()):
            raise ValueError(
                f"FloatEncoding: scale is {self.scale.flatten()[:4].tolist()}..., expected positive finite numbers."
            )

    @property
    def bitwidth(self) -> int:
        """Bits of a number, the sign included."""
        return self.format.bits

    @property
    def max(self) -> Tensor:
        """The largest value, shaped like ``scale``."""
        return self.format.max * (torch.ones(1) if self.scale is None else self.scale)

    @property
    def min(self) -> Tensor:
        """The smallest value, shaped like ``scale``."""
        return -self.max


Encoding = AffineEncoding | FloatEncoding

#: What differs between formats of equal bits, and what it is where a file does not say.
_USUAL = {"finite": False, "unsigned_zero": False, "nan": True}


def said_of(format: FloatFormat) -> dict[str, Any]:
    """What a file says of a format beside its bits: nothing of the one that those alone stand for."""
    if format in _OF_BITS.values():
        return {}
    odd = {key: getattr(format, key) for key, usual in _USUAL.items() if getattr(format, key) != usual}
    return {"exponent_bits": format.exponent_bits, "mantissa_bits": format.mantissa_bits, **odd}


_OF_BITS = {bits: FloatFormat.of(bits) for bits in (8, 16, 32)}


def check_no_integers(where: str, entry: Mapping[str, Any]) -> None:
    """Raise ValueError where the entry of a float format says what only integers have."""
    for key in ("offset", "y_zero_point", "is_sym", "is_symmetric"):
        if key in entry:
            raise ValueError(f"encodings: {where} is of a float type and has {key}, expected none: integers have one.")


def format_of(where: str, entry: Mapping[str, Any], bits: int) -> FloatFormat:
    """The format of an entry of so many bits.

    Raises:
        ValueError: The entry says another number of bits, not which format of these it is, or what only integers have.
    """
    check_no_integers(where, entry)
    if "exponent_bits" not in entry and "mantissa_bits" not in entry:
        if bits not in _OF_BITS:
            raise ValueError(
                f"encodings: {where} is a float of {bits} bits, expected exponent_bits and mantissa_bits beside that: "
                f"only {', '.join(map(str, _OF_BITS))} bits go without."
            )
        return _OF_BITS[bits]
    checking.fields(where, entry, ("exponent_bits", "mantissa_bits"))
    exponent = checking.integer(f"{where}: exponent_bits", entry["exponent_bits"], 2, 8)
    mantissa = checking.integer(f"{where}: mantissa_bits", entry["mantissa_bits"], 0, 23)
    flags = {key: entry.get(key, usual) for key, usual in _USUAL.items()}
    for key, flag in flags.items():
        if not isinstance(flag, bool):
            raise ValueError(f"encodings: {where}: {key} is {checking.shown(flag)}, expected true or false.")
    if 1 + exponent + mantissa != bits:
        raise ValueError(
            f"encodings: {where} has {bits} bits, expected {1 + exponent + mantissa}: a sign, {exponent} of the "
            f"exponent and {mantissa} of the mantissa."
        )
    try:
        return FloatFormat(exponent, mantissa, **flags)
    except ValueError as error:
        raise ValueError(f"encodings: {where}: {error}") from None


def scales_of(where: str, values: list[Any], format: FloatFormat) -> Tensor:
    """Checked scales, flat.

    Raises:
        ValueError: One is no positive number, or takes the format's largest out of float32.
    """
    scale = checking.numbers(f"{where}: scale", values)
    held = torch.tensor(scale, dtype=torch.float64).float()
    good = (held > 0) & (held * format.max < torch.inf)
    if not bool(good.all()):
        index = int(good.logical_not().nonzero()[0])
        raise ValueError(
            f"encodings: {where}: scale[{index}] is {checking.shown(scale[index])}, expected a positive number that "
            f"takes {format.max:g} to one that is finite in float32."
        )
    return held
