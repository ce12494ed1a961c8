"""The 2.0.0 encodings file: one list of entries in the words of ONNX QuantizeLinear.

    {"version": "2.0.0",
     "encodings": [{"name": "conv1.input_0", "output_dtype": "uint8", "y_scale": 0.0184, "y_zero_point": 114},
                   {"name": "conv1.weight", "output_dtype": "int8", "y_scale": [...], "axis": 0},
                   {"name": "fc.weight", "output_dtype": "int4", "y_scale": [[...], ...], "axis": 1, "block_size": 32}]}

A float format has the name of its ONNX type (``float8e4m3fn``, ``float16``), others ``float<bits>`` with
``exponent_bits``, ``mantissa_bits`` and what else is odd; ``y_scale`` is left out where there is none.

``y_zero_point`` is left out where it is zero throughout. The format does not say symmetric: a signed type without
zero points is, everything else is not, and is written so.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from os import PathLike
from typing import Any

from ..defs import Granularity
from ..float_format import NAMED, FloatFormat
from . import checking, text
from .floating import Encoding, FloatEncoding, check_no_integers, format_of, said_of, scales_of
from .grouped import GroupedBlockEncoding, check_writable, grouped

__all__ = ["VERSION", "encoding_of", "entry_of", "from_dict", "read", "to_dict", "write"]

VERSION = "2.0.0"
_KEYS = ("name", "output_dtype", "y_scale")
_GROUPED_KEYS = ("name", "output_dtype", "per_block_int_scale", "per_channel_float_scale", "axis", "block_size")
_DTYPE = re.compile(r"(u?)int([2-9]|[12][0-9]|3[0-2])")
_FLOAT = re.compile(r"float([3-9]|[12][0-9]|3[0-2])")
_FLOATS = {name.replace("_", ""): format for name, format in NAMED.items()}
_ACTIVATION = re.compile(r"(?:.*\.)?(?:input|output)_[0-9]+(?:_[0-9]+)?", re.DOTALL)
_DEPTH = 8


def entry_of(name: str, encoding: Encoding) -> dict[str, Any]:
    """The entry of one tensor: symmetric as ``int``, asymmetric as ``uint``, whatever the grid counts from.

    Raises:
        ValueError: It has blocks, or a grid, that this format cannot say.
    """
    if isinstance(encoding, GroupedBlockEncoding):
        axis, block = check_writable(VERSION, name, encoding)
        return {
            "name": name,
            "output_dtype": f"int{encoding.bitwidth}",
            "per_block_int_scale": encoding.per_block_int_scale.long().tolist(),
            "per_channel_float_scale": encoding.per_channel_scale.tolist(),
            "axis": axis,
            "block_size": block,
        }
    if isinstance(encoding, FloatEncoding):
        return _float_entry(name, encoding)
    bits, symmetric = encoding.bitwidth, encoding.is_symmetric
    if encoding.num_steps != 2**bits - 1:
        raise ValueError(
            f"{name}: the grid has {encoding.num_steps + 1} codes, expected the {2**bits} of {bits} bits: a 2.0.0 file "
            "has whole integer types only. Write 0.6.1 or 1.0.0, which hold symmetric grids without their lowest code."
        )
    points = encoding.zero_point(-(2 ** (bits - 1)) if symmetric else 0).double().round()
    if symmetric and bool((points != 0).any()):
        raise ValueError(
            f"{name}: it is symmetric around code {points.flatten()[0].item():g} of a signed grid, expected 0: a 2.0.0 "
            "file cannot tell that from asymmetric. Write 0.6.1 or 1.0.0."
        )
    shape, where = _placed(name, encoding)
    head = {"name": name, "output_dtype": f"{'int' if symmetric else 'uint'}{bits}"}
    entry = {**head, "y_scale": encoding.scale.reshape(shape).tolist()}
    if bool((points != 0).any()):
        entry["y_zero_point"] = points.reshape(shape).long().tolist()
    return entry | where


def _placed(name: str, encoding: Encoding) -> tuple[tuple[int, ...], dict[str, int]]:
    """The shape of the scales in the file, and the keys that lay them on the tensor."""
    sizes = tuple(encoding.scale.shape)
    if encoding.granularity is Granularity.per_block:
        axis, block = checking.block_of(VERSION, name, encoding)
        return sizes, {"axis": axis, "block_size": block}
    if encoding.granularity is Granularity.per_tensor:
        return (), {}
    axis = encoding.axis
    if axis is None:
        axis = max(range(len(sizes)), key=sizes.__getitem__) - len(sizes)
    return (-1,), {"axis": axis}


def _float_entry(name: str, encoding: FloatEncoding) -> dict[str, Any]:
    known = next((key for key, format in _FLOATS.items() if format == encoding.format), None)
    entry = {"name": name, "output_dtype": known or f"float{encoding.bitwidth}"}
    if known is None:
        entry |= said_of(encoding.format)
    if encoding.scale is None:
        return entry
    shape, where = _placed(name, encoding)
    return {**entry, "y_scale": encoding.scale.reshape(shape).tolist(), **where}


def _float_of(where: str, entry: Mapping[str, Any], format: FloatFormat) -> FloatEncoding:
    check_no_integers(where, entry)
    if "y_scale" not in entry:
        return FloatEncoding(format)
    flat, shape = _flattened(f"{where}: y_scale", entry["y_scale"])
    kind, axis, block = _layout_of(where, entry, shape)
    return FloatEncoding(format, scales_of(where, flat, format).reshape(shape), kind, block and (block,), axis)


def encoding_of(entry: Mapping[str, Any]) -> Encoding:
    """The encoding of one entry; scale and offset are shaped as in the file.

    Raises:
        ValueError: A key is missing, or a value is of another type or out of its range.
    """
    entry = checking.fields("an entry", entry, ("name",))
    where = checking.shown(checking.named("an entry: name", entry["name"]))
    name = checking.fields(where, entry, ("output_dtype",))["output_dtype"]
    is_grouped, name = "per_block_int_scale" in entry, name if isinstance(name, str) else ""
    if name in _FLOATS and not is_grouped:
        return _float_of(where, entry, _FLOATS[name])
    if (odd := _FLOAT.fullmatch(name)) is not None and not is_grouped:
        return _float_of(where, entry, format_of(where, entry, int(odd[1])))
    entry = checking.fields(where, entry, _GROUPED_KEYS if is_grouped else _KEYS)
    dtype = _DTYPE.fullmatch(name)
    if dtype is None:
        raise ValueError(
            f"encodings: {where}: output_dtype is {checking.shown(entry['output_dtype'])}, expected int2 .. int32, "
            f"uint2 .. uint32, {', '.join(_FLOATS)} or float<bits>."
        )
    signed, bits = not dtype[1], int(dtype[2])
    if is_grouped:
        return _grouped_of(where, entry, bits, signed)
    qmin = -(2 ** (bits - 1)) if signed else 0
    flat, shape = _flattened(f"{where}: y_scale", entry["y_scale"])
    scale = checking.numbers(f"{where}: y_scale", flat)
    points = [0] * len(scale)
    if entry.get("y_zero_point") is not None:
        flat, other = _flattened(f"{where}: y_zero_point", entry["y_zero_point"])
        if other != shape:
            raise ValueError(f"encodings: {where}: y_zero_point has shape {other}, expected {shape}, that of y_scale.")
        points = checking.integers(f"{where}: y_zero_point", flat, qmin, qmin + 2**bits - 1)
    kind, axis, block = _layout_of(where, entry, shape)
    symmetric = signed and not any(points)
    offset = [qmin - point for point in points]
    return checking.affine(where, scale, offset, bits, symmetric, kind, shape=shape, block_size=block, axis=axis)


def _layout_of(
    where: str, entry: Mapping[str, Any], shape: tuple[int, ...]
) -> tuple[Granularity, int | None, int | None]:
    """Granularity, axis and block size of scales of this shape."""
    if not shape:
        return Granularity.per_tensor, None, None
    checking.fields(where, entry, (*_KEYS, "axis"))
    axis = checking.integer(f"{where}: axis", entry["axis"], -_DEPTH, _DEPTH - 1)
    if entry.get("block_size") is not None:
        return Granularity.per_block, axis, checking.integer(f"{where}: block_size", entry["block_size"], 1, 2**63 - 1)
    if len(shape) > 1:
        raise ValueError(f"encodings: {where}: y_scale has shape {shape}, expected one dimension or a block_size.")
    return Granularity.per_channel, axis, None


def _grouped_of(where: str, entry: Mapping[str, Any], bits: int, signed: bool) -> GroupedBlockEncoding:
    """The format leaves out the decompressed bitwidth: it is the smallest that holds the block scales."""
    if not signed or "y_scale" in entry or entry.get("y_zero_point") is not None:
        raise ValueError(
            f"encodings: {where} has per_block_int_scale, expected a signed output_dtype and neither y_scale nor "
            "y_zero_point beside it."
        )
    flat, block_shape = _flattened(f"{where}: per_block_int_scale", entry["per_block_int_scale"])
    blocks = checking.integers(f"{where}: per_block_int_scale", flat, 1, 2 ** (32 - bits))
    flat, channel_shape = _flattened(f"{where}: per_channel_float_scale", entry["per_channel_float_scale"])
    channels = checking.numbers(f"{where}: per_channel_float_scale", flat)
    axis = checking.integer(f"{where}: axis", entry["axis"], -_DEPTH, _DEPTH - 1)
    size = checking.integer(f"{where}: block_size", entry["block_size"], 1, 2**63 - 1)
    return grouped(
        where, channels, blocks, bits, bits + (max(blocks) - 1).bit_length(), block_size=size,
        channel_shape=channel_shape, block_shape=block_shape, axis=axis,
    )  # fmt: skip


def _flattened(where: str, value: Any) -> tuple[list[Any], tuple[int, ...]]:
    """A number, or lists of lists of one length each, as a flat list and its shape."""
    shape: list[int] = []
    level = [value]
    while isinstance(level[0], (list, tuple)):
        length = len(level[0])
        ragged = not all(isinstance(part, (list, tuple)) and len(part) == length for part in level)
        if ragged or length == 0 or len(shape) == _DEPTH:
            raise ValueError(
                f"encodings: {where} is ragged, empty or nested deeper than {_DEPTH}, expected a number or lists of "
                "the same length."
            )
        shape.append(length)
        level = [item for part in level for item in part]
    return level, tuple(shape)


def to_dict(activations: Mapping[str, Encoding], parameters: Mapping[str, Encoding]) -> dict[str, Any]:
    """The whole file as a dictionary, entries in the order given. Both keyings have this layout."""
    entries = [entry_of(name, encoding) for part in (activations, parameters) for name, encoding in part.items()]
    return {"version": VERSION, "encodings": entries}


def from_dict(content: Mapping[str, Any]) -> tuple[dict[str, Encoding], dict[str, Encoding]]:
    """Activation and parameter encodings by name; activations are those called ``....input_0`` or ``....output_0``.

    Raises:
        ValueError: It is not a 2.0.0 file.
    """
    version = content.get("version") if isinstance(content, Mapping) else None
    if version != VERSION:
        raise ValueError(f"encodings: the file has version {checking.shown(version)}, expected {VERSION!r}.")
    checking.fields("the file", content, ("encodings",))
    found = checking.by_name("encodings", content["encodings"], encoding_of)
    activations = {name: encoding for name, encoding in found.items() if _ACTIVATION.fullmatch(name)}
    return activations, {name: encoding for name, encoding in found.items() if name not in activations}


def write(path: str | PathLike[str], content: Mapping[str, Any]) -> None:
    """Write what :func:`to_dict` gives."""
    text.write(path, content)


def read(path: str | PathLike[str]) -> tuple[dict[str, Encoding], dict[str, Encoding]]:
    """Activation and parameter encodings of a file, by name; errors as :func:`from_dict`."""
    return from_dict(text.read(path))
