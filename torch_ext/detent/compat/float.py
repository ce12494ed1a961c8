"""``aimet_torch.quantization.float``: its quantizer, which is ours, and its encoding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import encodings as ours
from .._layout import Layout
from ..float_format import FloatFormat
from ..quantizers import FloatQuantizeDequantize
from .affine import entry_of

__all__ = ["FloatEncoding", "FloatQuantizeDequantize"]


class FloatEncoding:
    """An encoding in AIMET's terms; it does not change.

    Args:
        mantissa_bits, exponent_bits, finite, unsigned_zero: As :class:`detent.FloatFormat` takes them.
        maxval: What falls on the format's largest number, shaped like the scales; ``None``: there are no scales.
        nan: ``False``: the format has no NaN, which AIMET's cannot say.
    Raises:
        ValueError: There is no such format.
    Example:
        >>> encoding = FloatEncoding(2, 5, maxval=torch.tensor([28672.0]))
        >>> encoding.bitwidth, encoding.as_ours().scale
        (8, tensor([0.5000]))
    """

    mapping = "float"

    def __init__(
        self,
        mantissa_bits: int,
        exponent_bits: int,
        finite: bool = False,
        unsigned_zero: bool = False,
        maxval: Tensor | None = None,
        *,
        nan: bool = True,
    ):
        self.format = FloatFormat(exponent_bits, mantissa_bits, finite, unsigned_zero, nan)
        self.mantissa_bits, self.exponent_bits = mantissa_bits, exponent_bits
        self.finite, self.unsigned_zero, self.maxval = finite, unsigned_zero, maxval

    @property
    def bitwidth(self) -> int:
        """Bits of a number, the sign included."""
        return self.format.bits

    def to(self, *args: Any, **kwargs: Any) -> FloatEncoding:
        """With maxval on another device or of another float type; itself if that changes nothing."""
        moved = None if self.maxval is None else self.maxval.to(*args, **kwargs)
        if moved is self.maxval:
            return self
        return FloatEncoding(
            self.mantissa_bits, self.exponent_bits, self.finite, self.unsigned_zero, moved, nan=self.format.nan
        )

    def as_ours(self) -> ours.FloatEncoding:
        """:class:`detent.encodings.FloatEncoding`, which has scales."""
        if self.maxval is None:
            return ours.FloatEncoding(self.format)
        layout = Layout.of("FloatEncoding", tuple(self.maxval.shape))
        scale = self.maxval.detach().cpu().float().reshape(layout.shape) / self.format.max
        return ours.FloatEncoding(self.format, scale, layout.granularity, layout.block_size, layout.axis)

    def to_qnn_encoding_dict(self, encoding_version: str = "1.0.0") -> Any:
        """The entry of a file of this version, without a name.

        Raises:
            ValueError: The version is not known, or cannot say this encoding.
        """
        return entry_of(self.as_ours(), encoding_version)

    def __repr__(self) -> str:
        return f"FloatEncoding({self.format}, maxval={self.maxval})"
