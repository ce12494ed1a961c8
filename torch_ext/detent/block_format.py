"""Block formats: elements of few bits, and a scale that the elements of a block share."""

from __future__ import annotations

from dataclasses import dataclass

from .float_format import FloatFormat

__all__ = ["BlockFormat"]


@dataclass(frozen=True)
class BlockFormat:
    """What the elements of a block are, how many share a scale, and what the scale is.

    Args:
        element: A ``FloatFormat`` of at most 8 bits, or ``"int8"``: a sign and steps of 1/64 up to 127/64.
        block_size: Elements per scale.
        two_level: ``False``: scales are powers of two (OCP Microscaling v1.0). ``True``: scales are float8 e4m3 numbers
            times one float scale per tensor (NVFP4).
    Raises:
        ValueError: An argument is none of these.
    Example:
        >>> BlockFormat.of("mxfp8_e4m3").max, BlockFormat.of("mxint8").max, BlockFormat.of("nvfp4").block_size
        (448.0, 1.984375, 16)
    """

    element: FloatFormat | str
    block_size: int = 32
    two_level: bool = False

    def __post_init__(self):
        small = isinstance(self.element, FloatFormat) and self.element.bits <= 8
        if not small and self.element != "int8":
            raise ValueError(
                f"BlockFormat: element is {self.element}, expected a FloatFormat of at most 8 bits or 'int8'."
            )
        if type(self.block_size) is not int or self.block_size < 1:
            raise ValueError(f"BlockFormat: block_size is {self.block_size!r}, expected an integer of 1 and more.")

    @classmethod
    def of(cls, source: BlockFormat | str) -> BlockFormat:
        """The format of a name: ``"mxfp8_e4m3"``, ``"mxfp8_e5m2"``, ``"mxfp6_e3m2"``, ``"mxfp6_e2m3"``, ``"mxfp4"``,
        ``"mxint8"`` or ``"nvfp4"``.

        Raises:
            ValueError: It is none of these.
        """
        found = source if isinstance(source, BlockFormat) else NAMED.get(str(source).lower())
        if found is None:
            raise ValueError(
                f"BlockFormat.of: got {source!r}, expected one of {', '.join(NAMED)}. Others are BlockFormat(element, "
                "block_size)."
            )
        return found

    @property
    def mantissa_bits(self) -> int:
        """Of the elements: log2 of the steps between two powers of two."""
        return 6 if self.element == "int8" else self.element.mantissa_bits

    @property
    def min_exponent(self) -> int:
        """Exponent from which down the steps of the elements stay the same."""
        return 0 if self.element == "int8" else self.element.min_exponent

    @property
    def max(self) -> float:
        """The elements' largest number."""
        return 127 / 64 if self.element == "int8" else self.element.max

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return 8 if self.element == "int8" else self.element.bits

    def __str__(self) -> str:
        """``mxfp4``, or ``e3m4 in blocks of 16`` where no name has the format."""
        for name, known in NAMED.items():
            if known == self:
                return name
        levels = " of two levels" if self.two_level else ""
        return f"{self.element} in blocks of {self.block_size}{levels}"


_E2M1 = FloatFormat(2, 1, finite=True, nan=False)

NAMED = {
    "mxfp8_e4m3": BlockFormat(FloatFormat(4, 3, finite=True)),
    "mxfp8_e5m2": BlockFormat(FloatFormat(5, 2)),
    "mxfp6_e3m2": BlockFormat(FloatFormat(3, 2, finite=True, nan=False)),
    "mxfp6_e2m3": BlockFormat(FloatFormat(2, 3, finite=True, nan=False)),
    "mxfp4": BlockFormat(_E2M1),
    "mxint8": BlockFormat("int8"),
    "nvfp4": BlockFormat(_E2M1, 16, two_level=True),
}
