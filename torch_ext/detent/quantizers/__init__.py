"""Quantizers: modules that own an encoding and round tensors to it."""

from .affine import Quantize, QuantizeDequantize
from .base import AffineQuantizer, quantization_disabled

__all__ = ["AffineQuantizer", "Quantize", "QuantizeDequantize", "quantization_disabled"]
