"""Quantizers: modules that own an encoding and round tensors to it."""

from .affine import Quantize, QuantizeDequantize
from .base import AffineQuantizer
from .blocks import BlockQuantizeDequantize
from .floating import FloatQuantizeDequantize
from .grouped import GroupedBlockQuantizeDequantize
from .quantizer import Quantizer, quantization_disabled

__all__ = [
    "AffineQuantizer",
    "BlockQuantizeDequantize",
    "FloatQuantizeDequantize",
    "GroupedBlockQuantizeDequantize",
    "Quantize",
    "QuantizeDequantize",
    "Quantizer",
    "quantization_disabled",
]
