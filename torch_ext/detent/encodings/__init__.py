"""Encodings: what gets saved of a quantizer, and the files that hold it."""

from .affine import AffineEncoding
from .files import VERSIONS, EncodingsFile, detect, read_any, to_dict

__all__ = ["VERSIONS", "AffineEncoding", "EncodingsFile", "detect", "read_any", "to_dict"]
