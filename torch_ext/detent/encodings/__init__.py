"""Encodings: what gets saved of a quantizer, and the files that hold it."""

from .affine import AffineEncoding

__all__ = ["AffineEncoding"]
