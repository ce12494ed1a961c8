"""Encodings: what gets saved of a quantizer, and the files that hold it."""

from .affine import AffineEncoding
from .files import VERSIONS, EncodingsFile, detect, read_any, to_dict
from .grouped import GroupedBlockEncoding

__all__ = ["VERSIONS", "AffineEncoding", "EncodingsFile", "GroupedBlockEncoding", "detect", "read_any", "to_dict"]
