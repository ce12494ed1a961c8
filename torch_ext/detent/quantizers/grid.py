"""The integer grid of an affine quantizer: read from constructor arguments, checked once."""

from __future__ import annotations

from dataclasses import dataclass

#: Names of the parameters that hold a range, by parametrization.
PARAMETERS = {"min_max": ("min", "max"), "scale_zero_point": ("scale", "zero_point"), "pact": ("max",)}
#: What they hold before there is a range.
FILL = {"min": 0.0, "max": 0.0, "scale": 1.0, "zero_point": 0.0, "maxval": 0.0}

_LOWEST, _HIGHEST = -(2**31), 2**32 - 1


def integer(owner: str, name: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{owner}: {name} is {value!r}, expected an integer.")
    return value


@dataclass(frozen=True)
class Grid:
    """Inclusive ends, and whether the zero point is fixed (at ``zero_point``, ``None`` for the centre)."""

    qmin: int
    qmax: int
    symmetric: bool
    zero_point: int | None = None

    @staticmethod
    def of(owner: str, qmin: int, qmax: int, symmetric: bool, zero_point: int | None = None) -> Grid:
        qmin, qmax = integer(owner, "qmin", qmin), integer(owner, "qmax", qmax)
        if not isinstance(symmetric, bool):
            raise ValueError(
                f"{owner}: symmetric is {symmetric!r}, expected True or False. "
                "The arguments are (shape, bitwidth, symmetric) or (shape, qmin, qmax, symmetric)."
            )
        if qmin >= qmax:
            raise ValueError(f"{owner}: qmin is {qmin} and qmax {qmax}, expected qmin < qmax. Swap them?")
        if qmin < _LOWEST or qmax > _HIGHEST:
            raise ValueError(f"{owner}: the grid is {qmin} .. {qmax}, expected it within -2**31 .. 2**32 - 1.")
        if zero_point is not None:
            if not symmetric:
                raise ValueError(
                    f"{owner}: zero_point={zero_point} was given with symmetric=False, expected None. The zero point "
                    "of an asymmetric range follows from min and max; pass symmetric=True to fix it."
                )
            if not qmin <= integer(owner, "zero_point", zero_point) <= qmax:
                raise ValueError(f"{owner}: zero_point is {zero_point}, expected a point of the grid {qmin} .. {qmax}.")
        return Grid(qmin, qmax, symmetric, zero_point)

    @staticmethod
    def of_bitwidth(owner: str, bitwidth: int, symmetric: bool, zero_point: int | None = None) -> Grid:
        if not 2 <= integer(owner, "bitwidth", bitwidth) <= 32:
            raise ValueError(f"{owner}: bitwidth is {bitwidth}, expected 2 to 32.")
        low = -(2 ** (bitwidth - 1)) if symmetric is True else 0
        return Grid.of(owner, low, low + 2**bitwidth - 1, symmetric, zero_point)

    def begins_at_zero(self) -> bool:
        """Whether the lowest code can stand for 0.0."""
        return not self.symmetric or self.centre == self.qmin

    @property
    def steps(self) -> int:
        return self.qmax - self.qmin

    @property
    def centre(self) -> int:
        """The fixed zero point of a symmetric grid."""
        return round((self.qmin + self.qmax) / 2) if self.zero_point is None else self.zero_point

    @property
    def bitwidth(self) -> int:
        return self.steps.bit_length()


#: The grid whose range is the largest magnitude on either side, which is what a scaled float format needs to know.
REACH = Grid(-1, 1, True)
