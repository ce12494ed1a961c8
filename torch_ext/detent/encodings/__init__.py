"""Encodings: what gets saved of a quantizer, and the files that hold it."""

from .affine import AffineEncoding
from .files import VERSIONS, EncodingsFile, detect, read_any, to_dict
from .floating import Encoding, FloatEncoding
from .grouped import GroupedBlockEncoding

__all__ = [
    "VERSIONS",
    "AffineEncoding",
    "Encoding",
    "EncodingsFile",
    "FloatEncoding",
    "GroupedBlockEncoding",
    "detect",
    "read_any",
    "to_dict",
]
