"""Quantizers that become one of another kind where they are: of floats instead of integers, or the other way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..encodings import AffineEncoding, FloatEncoding
from .affine import QuantizeDequantize
from .blocks import BlockQuantizeDequantize
from .floating import FloatQuantizeDequantize
from .grouped import GroupedBlockQuantizeDequantize
from .quantizer import Quantizer

__all__ = ["become", "suit_encoding", "suit_state"]

#: What belongs to the place and not to the quantizer.
_OF_THE_PLACE = ("_label", "_source", "_told", "_enabled", "_overwritable", "training")


def become(quantizer: Quantizer, made: Quantizer) -> None:
    """Turn ``quantizer`` into ``made``, for all who hold it: tied weights stay tied.

    Its place, its hooks, and whether it is on or open to calibration stay as they are; so does what it is calibrated
    with, if the scales have the same shape.
    """
    made.to(quantizer._device())
    for name, value in quantizer.__dict__.items():
        if name in _OF_THE_PLACE or "hook" in name:
            made.__dict__[name] = value
    if quantizer.observer is not None and quantizer._layout == made._layout:
        made.observer = quantizer.observer
    made._refresh()
    quantizer.__class__ = type(made)
    object.__setattr__(quantizer, "__dict__", made.__dict__)


def suit_encoding(quantizer: Quantizer, encoding: AffineEncoding | FloatEncoding) -> None:
    """Be of the kind of an encoding, which :meth:`set_encoding` then takes over."""
    layout = {"shape": quantizer.shape, "block_size": quantizer._layout.block_size}
    if not _differs(quantizer, isinstance(encoding, FloatEncoding)):
        return
    if isinstance(encoding, FloatEncoding):
        become(quantizer, FloatQuantizeDequantize(dtype=encoding.format, **layout))
    else:
        become(
            quantizer,
            QuantizeDequantize(bitwidth=encoding.bitwidth, symmetric=encoding.is_symmetric, mode="fixed", **layout),
        )


def suit_state(quantizer: Quantizer, state: Mapping[str, Any]) -> None:
    """Be of the kind that a state_dict speaks of, which :meth:`_take_over` then takes over."""
    if "block_format" in state or isinstance(quantizer, BlockQuantizeDequantize):
        if "block_format" in state and isinstance(quantizer, BlockQuantizeDequantize):
            return
    elif not _differs(quantizer, "format" in state):
        return
    if "block_format" in state:
        made = BlockQuantizeDequantize("mxfp4")
    elif "format" in state:
        made = FloatQuantizeDequantize(dtype="float32")
    elif "decompressed_bw" in state:
        made = GroupedBlockQuantizeDequantize((1,), 8, True, 8, block_size=(1,))
    else:
        made = QuantizeDequantize((1,), 8, True)
    become(quantizer, made)


def _differs(quantizer: Quantizer, is_float: bool) -> bool:
    """Whether it rounds to the other kind; one that gives codes stays what it is."""
    if isinstance(quantizer, FloatQuantizeDequantize):
        return not is_float
    return is_float and isinstance(quantizer, QuantizeDequantize)
