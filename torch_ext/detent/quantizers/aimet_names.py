"""AIMET's names for what a quantizer has, where they are not ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..encodings import v0_6_1
from ..observers import MinMaxObserver

if TYPE_CHECKING:
    from ..compat.affine import AffineEncoding
    from ..compat.float import FloatEncoding
    from .base import AffineQuantizer
    from .floating import FloatQuantizeDequantize


class AimetNames:
    """Part of :class:`Quantizer`."""

    @property
    def encoding_analyzer(self) -> MinMaxObserver | None:
        """:attr:`observer`."""
        return self.observer

    @encoding_analyzer.setter
    def encoding_analyzer(self, observer: MinMaxObserver | None) -> None:
        self.observer = observer

    def get_legacy_encodings(self) -> list[dict[str, Any]] | None:
        """The entry of a 0.6.1 file, one dictionary per scale; ``None`` without a range.

        Example:
            >>> quantizer = QuantizeDequantize((1,), 3, symmetric=False)
            >>> quantizer.set_range(-1.0, 2.5)
            >>> quantizer.get_legacy_encodings()  # doctest: +NORMALIZE_WHITESPACE
            [{'bitwidth': 3, 'dtype': 'int', 'is_symmetric': 'False', 'max': 2.5, 'min': -1.0, 'offset': -2,
              'scale': 0.5}]
        """
        encoding = self.get_encoding()
        return None if encoding is None else v0_6_1.entry_of(self._title(), encoding)

    def set_legacy_encodings(self, encodings: Sequence[Mapping[str, Any]]) -> None:
        """Take over the entry of a 0.6.1 file: bitwidth, symmetry and range.

        Raises:
            ValueError: An entry is damaged or does not fit. Nothing has changed.
        """
        self.set_encoding(v0_6_1.encoding_of(self._title(), encodings))


class FloatAimetNames:
    """Part of :class:`FloatQuantizeDequantize`."""

    def get_encodings(self) -> FloatEncoding | None:
        """The encoding as it is now, in AIMET's terms; ``None`` without a range. Ours is :meth:`get_encoding`."""
        from ..compat.float import FloatEncoding

        if not self.is_initialized():
            return None
        format, maxval = self.format, self.get_max() if self.scaled else None
        return FloatEncoding(
            format.mantissa_bits, format.exponent_bits, format.finite, format.unsigned_zero, maxval, nan=format.nan
        )

    @classmethod
    def from_encodings(cls, encodings: FloatEncoding) -> FloatQuantizeDequantize:
        """A quantizer that has this encoding.

        Args:
            encodings: A :class:`detent.compat.float.FloatEncoding`, such as :meth:`get_encodings` gives.
        Example:
            >>> from detent.compat.float import FloatEncoding, FloatQuantizeDequantize
            >>> FloatQuantizeDequantize.from_encodings(FloatEncoding(mantissa_bits=2, exponent_bits=5))
            FloatQuantizeDequantize(float8_e5m2)
        """
        if encodings.maxval is None:
            return cls(dtype=encodings.format)
        made = cls(dtype=encodings.format, observer=MinMaxObserver(tuple(encodings.maxval.shape)))
        made.to(encodings.maxval.device).set_range(-encodings.maxval, encodings.maxval)
        return made


class AffineAimetNames:
    """Part of :class:`AffineQuantizer`."""

    @property
    def use_symmetric_encodings(self) -> bool:
        """:attr:`symmetric`."""
        return self.symmetric

    @use_symmetric_encodings.setter
    def use_symmetric_encodings(self, symmetric: bool) -> None:
        self.symmetric = symmetric

    def get_encodings(self) -> AffineEncoding | None:
        """The encoding as it is now, in AIMET's terms; ``None`` without a range. Ours is :meth:`get_encoding`."""
        from ..compat.affine import AffineEncoding

        if not self.is_initialized():
            return None
        return AffineEncoding(
            self.get_scale().detach(), self.get_offset().detach(), self.qmin, self.qmax, self.symmetric, self.block_size
        )

    @classmethod
    def from_encodings(cls, encodings: AffineEncoding) -> AffineQuantizer:
        """A quantizer that has this encoding.

        Args:
            encodings: A :class:`detent.compat.affine.AffineEncoding`, such as :meth:`get_encodings` gives.
        Example:
            >>> from detent.compat.affine import AffineEncoding, QuantizeDequantize
            >>> encoding = AffineEncoding(torch.tensor([0.5]), torch.tensor([-2.0]), bitwidth=3)
            >>> quantizer = QuantizeDequantize.from_encodings(encoding)
            >>> quantizer(torch.tensor([-9.0, 0.4, 9.0])).detach()
            tensor([-1.0000,  0.5000,  2.5000])
        """
        qmin, qmax, fixed = encodings.qmin, encodings.qmax, None
        if encodings.symmetry:
            point = -int(encodings.offset.flatten()[0])
            fixed = None if point == round((qmin + qmax) / 2) else point
        made = cls(
            tuple(encodings.scale.shape), qmin, qmax, encodings.symmetry, zero_point=fixed,
            block_size=encodings.block_size,
        ).to(encodings.scale.device)  # fmt: skip
        made.set_range(*encodings.as_ours().range(qmin, qmax, encodings.symmetry, fixed))
        return made
