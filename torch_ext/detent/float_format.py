"""Float formats of few bits: what their exponent and mantissa can say."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["FloatFormat"]


@dataclass(frozen=True)
class FloatFormat:
    """A sign, ``exponent_bits`` and ``mantissa_bits``.

    Args:
        exponent_bits: 2 .. 8; the bias is ``2**(exponent_bits - 1) - 1``, one more with ``unsigned_zero``.
        mantissa_bits: 0 .. 23.
        finite: There are no infinities: the largest exponent holds numbers (float8_e4m3fn). NaN is the code of all ones.
        unsigned_zero: There is no -0; NaN has its code (the ``fnuz`` types of torch). ``finite`` must be set.
        nan: ``False``: there is no NaN either (the 4- and 6-bit formats of Rouhani 2023). ``finite`` must be set.
    Raises:
        ValueError: Bits out of range, or ``unsigned_zero`` or ``nan=False`` of a format that is not ``finite``.
    Example:
        >>> FloatFormat(4, 3, finite=True).max, FloatFormat(5, 2).max, FloatFormat(2, 1, finite=True, nan=False).max
        (448.0, 57344.0, 6.0)
        >>> FloatFormat.of(torch.bfloat16)
        FloatFormat(exponent_bits=8, mantissa_bits=7, finite=False, unsigned_zero=False, nan=True)
    """

    exponent_bits: int
    mantissa_bits: int
    finite: bool = False
    unsigned_zero: bool = False
    nan: bool = True

    def __post_init__(self):
        for name, low, high in (("exponent_bits", 2, 8), ("mantissa_bits", 0, 23)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise ValueError(f"FloatFormat: {name} is {value!r}, expected an integer from {low} to {high}.")
        if not self.finite and (self.unsigned_zero or not self.nan):
            raise ValueError(
                f"FloatFormat: finite=False with unsigned_zero={self.unsigned_zero} and nan={self.nan}, expected "
                "unsigned_zero=False and nan=True: only a format without infinities gives up other codes. Pass "
                "finite=True."
            )

    @classmethod
    def of(cls, source: FloatFormat | torch.dtype | str | int) -> FloatFormat:
        """The format that something stands for.

        Args:
            source: A torch type: float32, float16, bfloat16 or one of the float8 types; its name, ``"e5m2"`` for
                ``"float8_e5m2"`` too; a number of bits: 32, 16 (float16) or 8 (float8_e4m3fn); or a ``FloatFormat``.
        Raises:
            ValueError: It is none of these.
        Example:
            >>> FloatFormat.of("e4m3fn") == FloatFormat.of(torch.float8_e4m3fn) == FloatFormat(4, 3, finite=True)
            True
        """
        if isinstance(source, FloatFormat):
            return source
        name = _OF_BITS.get(source) if type(source) is int else str(source).removeprefix("torch.")
        found = NAMED.get(name) or NAMED.get(f"float8_{name}")
        if found is None:
            raise ValueError(
                f"FloatFormat.of: got {source!r}, expected one of {', '.join(NAMED)}, or 8, 16 or 32 bits. Others are "
                "FloatFormat(exponent_bits, mantissa_bits)."
            )
        return found

    @property
    def is_scaled(self) -> bool:
        """Whether simulations scale it: formats of 8 bits and less have too small a range to go without."""
        return self.bits <= 8 and self.exponent_bits < 8

    def __str__(self) -> str:
        """``float8_e5m2``, or ``e3m4`` where no type has the format."""
        for name, known in NAMED.items():
            if known == self:
                return name
        odd = {"finite": self.finite, "unsigned zero": self.unsigned_zero, "no NaN": not self.nan}
        bits = f"e{self.exponent_bits}m{self.mantissa_bits}"
        return ", ".join([bits, *(name for name, is_so in odd.items() if is_so)])

    @property
    def bits(self) -> int:
        """Bits of a number, the sign included."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def _bias(self) -> int:
        return 2 ** (self.exponent_bits - 1) - (0 if self.unsigned_zero else 1)

    @property
    def min_exponent(self) -> int:
        """Exponent of the smallest normal number."""
        return 1 - self._bias

    @property
    def max(self) -> float:
        """The largest finite number."""
        exponent = 2**self.exponent_bits - (1 if self.finite else 2) - self._bias
        lost = 2 if self.finite and self.nan and not self.unsigned_zero else 1  # steps below the next power of two
        return (2 - lost * 2.0**-self.mantissa_bits) * 2.0**exponent


#: Formats by the name of the torch type that has them.
NAMED = {
    "float32": FloatFormat(8, 23),
    "float16": FloatFormat(5, 10),
    "bfloat16": FloatFormat(8, 7),
    "float8_e5m2": FloatFormat(5, 2),
    "float8_e4m3fn": FloatFormat(4, 3, finite=True),
    "float8_e5m2fnuz": FloatFormat(5, 2, finite=True, unsigned_zero=True),
    "float8_e4m3fnuz": FloatFormat(4, 3, finite=True, unsigned_zero=True),
}
_OF_BITS = {8: "float8_e4m3fn", 16: "float16", 32: "float32"}
