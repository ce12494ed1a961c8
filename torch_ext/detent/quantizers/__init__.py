"""Quantizers: modules that own an encoding and round tensors to it."""

from .affine import Quantize, QuantizeDequantize
from .base import AffineQuantizer, quantization_disabled
from .grouped import GroupedBlockQuantizeDequantize

__all__ = ["AffineQuantizer", "GroupedBlockQuantizeDequantize", "Quantize", "QuantizeDequantize", "quantization_disabled"]
