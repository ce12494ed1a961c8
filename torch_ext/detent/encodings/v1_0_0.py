"""The 1.0.0 encodings file: two lists of entries, one per tensor.

    {"version": "1.0.0",
     "activation_encodings": [{"name": "x", "enc_type": "PER_TENSOR", "dtype": "INT", "bw": 8, "is_sym": false,
                               "scale": [0.0184], "offset": [-114]}],
     "param_encodings": [...], "excluded_layers": [], "quantizer_args": {...}}

``offset`` is ``qmin - zero_point``. An entry has seven keys, with blocks also ``block_size``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from os import PathLike
from typing import Any

import torch

from ..defs import Granularity
from .affine import AffineEncoding

__all__ = ["VERSION", "entry_of", "encoding_of", "from_dict", "read", "to_dict", "write"]

VERSION = "1.0.0"
_KEYS = ("name", "enc_type", "dtype", "bw", "is_sym", "scale", "offset")


def entry_of(name: str, encoding: AffineEncoding) -> dict[str, Any]:
    """The entry of one tensor.

    Raises:
        ValueError: Its blocks cannot be written as one number.
    """
    entry = {
        "name": name,
        "enc_type": encoding.granularity.name.upper(),
        "dtype": encoding.dtype,
        "bw": encoding.bitwidth,
        "is_sym": encoding.is_symmetric,
        "scale": encoding.scale.flatten().tolist(),
        "offset": [round(offset) for offset in encoding.offset.flatten().tolist()],
    }
    if encoding.granularity is Granularity.per_block:
        entry["block_size"] = _one_block(name, encoding)
    return entry


def _one_block(name: str, encoding: AffineEncoding) -> int:
    blocks = encoding.block_size or ()
    shape = encoding.scale.shape
    runs = [block for block, scales in zip(blocks, shape) if scales > 1 and block != 1]
    if len(runs) != 1 or runs[0] < 1:
        raise ValueError(
            f"{name}: blocks of {tuple(blocks)} for scales of shape {tuple(shape)}, expected runs along exactly one "
            "dimension, of a size that is known: a 1.0.0 file has one number for them."
        )
    return runs[0]


def encoding_of(entry: Mapping[str, Any]) -> AffineEncoding:
    """The encoding of one entry; ``scale`` and ``offset`` are flat, as the file does not say their shape.

    Raises:
        ValueError: A key is missing, or the entry is not of an integer grid.
    """
    name = entry.get("name")
    missing = [key for key in _KEYS if key not in entry]
    if missing:
        raise ValueError(
            f"encodings: the entry of {name!r} lacks {', '.join(missing)}, expected the keys {', '.join(_KEYS)}."
        )
    if entry["dtype"] != "INT" or entry["enc_type"].lower() not in Granularity.__members__:
        raise ValueError(
            f"encodings: {name!r} has dtype {entry['dtype']} and enc_type {entry['enc_type']}, expected INT and "
            "PER_TENSOR, PER_CHANNEL or PER_BLOCK."
        )
    bits, symmetric = int(entry["bw"]), bool(entry["is_sym"])
    offset = torch.tensor(entry["offset"], dtype=torch.float32)
    strict = symmetric and bool((offset == -(2 ** (bits - 1) - 1)).all())  # -127 .. 127
    block = entry.get("block_size")
    return AffineEncoding(
        torch.tensor(entry["scale"], dtype=torch.float32), offset, bits, symmetric,
        Granularity[entry["enc_type"].lower()], 2**bits - 2 if strict else 2**bits - 1,
        None if block is None else (int(block),),
    )  # fmt: skip


def to_dict(
    activations: Mapping[str, AffineEncoding],
    parameters: Mapping[str, AffineEncoding],
    *,
    excluded_layers: list[str] | None = None,
    quantizer_args: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole file as a dictionary, entries in the order given."""
    return {
        "version": VERSION,
        "activation_encodings": [entry_of(name, encoding) for name, encoding in activations.items()],
        "param_encodings": [entry_of(name, encoding) for name, encoding in parameters.items()],
        "excluded_layers": list(excluded_layers or []),
        "quantizer_args": dict(quantizer_args or {}),
    }


def from_dict(content: Mapping[str, Any]) -> tuple[dict[str, AffineEncoding], dict[str, AffineEncoding]]:
    """Activation and parameter encodings by name.

    Raises:
        ValueError: It is not a 1.0.0 file.
    """
    version = content.get("version") if isinstance(content, Mapping) else None
    if version != VERSION or not isinstance(content.get("activation_encodings"), list):
        raise ValueError(f"encodings: the file has version {version!r}, expected '1.0.0' with lists of entries.")
    parts = (content["activation_encodings"], content.get("param_encodings", []))
    activations, parameters = ({entry.get("name"): encoding_of(entry) for entry in part} for part in parts)
    return activations, parameters


def write(path: str | PathLike[str], content: Mapping[str, Any]) -> None:
    """Write what :func:`to_dict` gives."""
    text = json.dumps(content, indent=1, sort_keys=False)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")


def read(path: str | PathLike[str]) -> tuple[dict[str, AffineEncoding], dict[str, AffineEncoding]]:
    """Activation and parameter encodings of a file, by name; errors as :func:`from_dict`."""
    with open(path, encoding="utf-8") as file:
        return from_dict(json.load(file))
