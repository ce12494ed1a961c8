"""The 1.0.0 encodings file: two lists of entries, one per tensor.

    {"version": "1.0.0",
     "activation_encodings": [{"name": "x", "enc_type": "PER_TENSOR", "dtype": "INT", "bw": 8, "is_sym": false,
                               "scale": [0.0184], "offset": [-114]}],
     "param_encodings": [...], "excluded_layers": [], "quantizer_args": {...}}

``offset`` is ``qmin - zero_point``. An entry has seven keys, with blocks also ``block_size``.
A float format is ``{"name": "h", "enc_type": "PER_TENSOR", "dtype": "FLOAT", "bw": 16}``, with ``exponent_bits``,
``mantissa_bits`` and what else is odd where the bits alone stand for another format, and ``scale`` where there is one.
Grouped blocks are LPBQ: ``bw`` is the decompressed bitwidth, ``scale`` and ``offset`` are those of the channels, and
``compressed_bw``, ``block_size`` and ``per_block_int_scale`` (channel by channel) say the rest.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from typing import Any

from ..defs import Granularity
from . import checking, text
from .floating import Encoding, FloatEncoding, format_of, said_of, scales_of
from .grouped import GroupedBlockEncoding, check_writable, grouped

__all__ = ["VERSION", "entry_of", "encoding_of", "from_dict", "read", "to_dict", "write"]

VERSION = "1.0.0"
_KEYS = ("name", "enc_type", "dtype", "bw", "is_sym", "scale", "offset")
_FLOAT_KEYS = ("name", "enc_type", "dtype", "bw")
_GROUPED_KEYS = (*_KEYS, "compressed_bw", "block_size", "per_block_int_scale")


def entry_of(name: str, encoding: Encoding) -> dict[str, Any]:
    """The entry of one tensor.

    Raises:
        ValueError: Its blocks cannot be written as one number, or its grid not as a bitwidth.
    """
    if isinstance(encoding, GroupedBlockEncoding):
        return _grouped_entry(name, encoding)
    kind = encoding.granularity.name.upper()
    entry = {"name": name, "enc_type": kind, "dtype": encoding.dtype, "bw": encoding.bitwidth}
    scales = {} if encoding.scale is None else {"scale": encoding.scale.flatten().tolist()}
    if isinstance(encoding, FloatEncoding):
        entry |= {**said_of(encoding.format), **scales}
    else:
        checking.check_grid(VERSION, name, encoding)
        offsets = [round(offset) for offset in encoding.offset.flatten().tolist()]
        entry |= {"is_sym": encoding.is_symmetric, **scales, "offset": offsets}
    if encoding.granularity is Granularity.per_block:
        entry["block_size"] = checking.block_of(VERSION, name, encoding)[1]
    return entry


def _grouped_entry(name: str, encoding: GroupedBlockEncoding) -> dict[str, Any]:
    size = check_writable(VERSION, name, encoding)[1]
    channels = encoding.per_channel_scale.flatten().tolist()
    return {
        "name": name,
        "enc_type": "LPBQ",
        "dtype": encoding.dtype,
        "bw": encoding.decompressed_bw,
        "compressed_bw": encoding.bitwidth,
        "is_sym": True,
        "scale": channels,
        "offset": [-(2 ** (encoding.decompressed_bw - 1))] * len(channels),
        "block_size": size,
        "per_block_int_scale": [round(scale) for scale in encoding.per_block_int_scale.flatten().tolist()],
    }


def _grouped_of(where: str, entry: Mapping[str, Any]) -> GroupedBlockEncoding:
    entry = checking.fields(where, entry, _GROUPED_KEYS)
    bits = checking.integer(f"{where}: bw", entry["bw"], 2, 32)
    compressed = checking.integer(f"{where}: compressed_bw", entry["compressed_bw"], 2, bits)
    if entry["is_sym"] is not True:
        raise ValueError(f"encodings: {where}: is_sym is {checking.shown(entry['is_sym'])}, expected true for LPBQ.")
    scale = checking.numbers(f"{where}: scale", checking.sequence(f"{where}: scale", entry["scale"]))
    centre = -(2 ** (bits - 1))
    offset = checking.integers(
        f"{where}: offset", checking.sequence(f"{where}: offset", entry["offset"]), centre, centre
    )
    if len(offset) != len(scale):
        raise ValueError(f"encodings: {where} has {len(scale)} scales and {len(offset)} offsets, expected as many.")
    blocks = checking.sequence(f"{where}: per_block_int_scale", entry["per_block_int_scale"])
    size = checking.integer(f"{where}: block_size", entry["block_size"], 1, 2**63 - 1)
    return grouped(where, scale, blocks, compressed, bits, block_size=size)


def _float_of(where: str, entry: Mapping[str, Any], kind: Granularity) -> FloatEncoding:
    entry = checking.fields(where, entry, _FLOAT_KEYS)
    format = format_of(where, entry, checking.integer(f"{where}: bw", entry["bw"], 3, 32))
    if "scale" not in entry:
        return FloatEncoding(format)
    scale = scales_of(where, checking.sequence(f"{where}: scale", entry["scale"]), format)
    return FloatEncoding(format, scale, kind, _block_of(where, entry, kind, scale.numel()))


def _block_of(where: str, entry: Mapping[str, Any], kind: Granularity, scales: int) -> tuple[int] | None:
    """The block size of an entry that has one, once it is known that the scales are of their kind."""
    if kind is Granularity.per_tensor and scales != 1:
        raise ValueError(f"encodings: {where} is PER_TENSOR and has {scales} scales, expected 1.")
    if kind is not Granularity.per_block:
        return None
    size = checking.fields(where, entry, ("block_size",))["block_size"]
    return (checking.integer(f"{where}: block_size", size, 1, 2**63 - 1),)


def encoding_of(entry: Mapping[str, Any]) -> Encoding:
    """The encoding of one entry; ``scale`` and ``offset`` are flat, as the file does not say their shape.

    Raises:
        ValueError: A key is missing, or a value is of another type or out of its range.
    """
    entry = checking.fields("an entry", entry, ("name",))
    where = checking.shown(checking.named("an entry: name", entry["name"]))
    kinds = {kind.name.upper(): kind for kind in Granularity}
    dtype, kind = entry.get("dtype", "INT"), entry.get("enc_type", "PER_TENSOR")
    if dtype == "INT" and kind == "LPBQ":
        return _grouped_of(where, entry)
    if dtype not in ("INT", "FLOAT") or not isinstance(kind, str) or kind not in kinds:
        raise ValueError(
            f"encodings: {where} has dtype {checking.shown(dtype)} and enc_type {checking.shown(kind)}, expected 'INT' "
            "and PER_TENSOR, PER_CHANNEL, PER_BLOCK or LPBQ, or 'FLOAT' and one of the first three."
        )
    kind = kinds[kind]
    if dtype == "FLOAT":
        return _float_of(where, entry, kind)
    entry = checking.fields(where, entry, _KEYS)
    bits = checking.integer(f"{where}: bw", entry["bw"], 2, 32)
    if not isinstance(entry["is_sym"], bool):
        raise ValueError(f"encodings: {where}: is_sym is {checking.shown(entry['is_sym'])}, expected true or false.")
    scale = checking.numbers(f"{where}: scale", checking.sequence(f"{where}: scale", entry["scale"]))
    offset = checking.integers(
        f"{where}: offset", checking.sequence(f"{where}: offset", entry["offset"]), 1 - 2**bits, 0
    )
    block = _block_of(where, entry, kind, len(scale))
    return checking.affine(where, scale, offset, bits, entry["is_sym"], kind, block_size=block and block[0])


def to_dict(
    activations: Mapping[str, Encoding],
    parameters: Mapping[str, Encoding],
    *,
    excluded_layers: list[str] | None = None,
    quantizer_args: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole file as a dictionary, entries in the order given. Both keyings have this layout."""
    return {
        "version": VERSION,
        "activation_encodings": [entry_of(name, encoding) for name, encoding in activations.items()],
        "param_encodings": [entry_of(name, encoding) for name, encoding in parameters.items()],
        "excluded_layers": list(excluded_layers or []),
        "quantizer_args": dict(quantizer_args or {}),
    }


def from_dict(content: Mapping[str, Any]) -> tuple[dict[str, Encoding], dict[str, Encoding]]:
    """Activation and parameter encodings by name.

    Raises:
        ValueError: It is not a 1.0.0 file.
    """
    version = content.get("version") if isinstance(content, Mapping) else None
    if version != VERSION:
        raise ValueError(f"encodings: the file has version {checking.shown(version)}, expected '1.0.0'.")
    activations, parameters = (
        checking.by_name(key, content.get(key, []), encoding_of)
        for key in ("activation_encodings", "param_encodings")
    )
    return activations, parameters


def write(path: str | PathLike[str], content: Mapping[str, Any]) -> None:
    """Write what :func:`to_dict` gives."""
    text.write(path, content)


def read(path: str | PathLike[str]) -> tuple[dict[str, Encoding], dict[str, Encoding]]:
    """Activation and parameter encodings of a file, by name; errors as :func:`from_dict`."""
    return from_dict(text.read(path))
