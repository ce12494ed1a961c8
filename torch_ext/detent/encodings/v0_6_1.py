"""The 0.6.1 encodings file: objects by tensor, one dictionary per scale.

    {"version": "0.6.1",
     "activation_encodings": {"conv1.input_0": [{"bitwidth": 8, "dtype": "int", "is_symmetric": "False", "max": 2.6,
                                                 "min": -2.1, "offset": -114, "scale": 0.0184}]},
     "param_encodings": {"conv1.weight": [{...}, {...}]}, "excluded_layers": [], "quantizer_args": {...}}

Float formats are ``{"bitwidth": 16, "dtype": "float"}``, with ``exponent_bits``, ``mantissa_bits`` and what else is
odd where the bits alone stand for another format, and ``scale`` where there is one.
Keyed by ``torch``, activations are ``{"conv1": {"input": {"0": {...}}}}`` instead, with a list only where there are
several scales. ``is_symmetric`` is a string. Files without a version are of this one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

from ..defs import Granularity
from . import checking, text
from .floating import Encoding, FloatEncoding, format_of, said_of, scales_of

__all__ = ["VERSION", "encoding_of", "entry_of", "from_dict", "read", "to_dict", "write"]

VERSION = "0.6.1"
_KEYS = ("bitwidth", "dtype", "is_symmetric", "max", "min", "offset", "scale")
_SLOT = re.compile(r"(?:(?P<layer>.*)\.)?(?P<slot>input|output)_(?P<index>0|[1-9][0-9]*)", re.DOTALL)


def is_slot(name: str) -> bool:
    """Whether it is a name by module: ``conv1.input_0``."""
    return _SLOT.fullmatch(name) is not None


def entry_of(name: str, encoding: Encoding) -> list[dict[str, Any]]:
    """The entry of one tensor: a dictionary per scale.

    Raises:
        ValueError: It has blocks, or a grid, that this format cannot say.
    """
    if encoding.granularity is Granularity.per_block:
        raise ValueError(
            f"{name}: it is quantized in blocks of {encoding.block_size}, expected per tensor or per channel: a 0.6.1 "
            "file has no blocks. Write 1.0.0 or 2.0.0."
        )
    if isinstance(encoding, FloatEncoding):
        head = {"bitwidth": encoding.bitwidth, "dtype": "float", **said_of(encoding.format)}
        if encoding.scale is None:
            return [head]
        return [{**head, "scale": scale} for scale in encoding.scale.flatten().tolist()]
    checking.check_grid(VERSION, name, encoding)
    scales, offsets = (part.double().flatten().tolist() for part in (encoding.scale, encoding.offset))
    return [
        {
            "bitwidth": encoding.bitwidth,
            "dtype": "int",
            "is_symmetric": str(encoding.is_symmetric),
            "max": scale * (offset + encoding.num_steps),
            "min": scale * offset,
            "offset": round(offset),
            "scale": scale,
        }
        for scale, offset in zip(scales, offsets)
    ]


def encoding_of(name: str, entry: Any) -> Encoding:
    """The encoding of one entry, a dictionary or a list of them; scale and offset are flat.

    Raises:
        ValueError: A key is missing or of another type, or the dictionaries contradict each other or themselves.
    """
    where = checking.shown(name)
    parts = [entry] if isinstance(entry, Mapping) else checking.sequence(where, entry)
    if all(isinstance(part, Mapping) and part.get("dtype") == "float" for part in parts):
        return _float_of(where, parts)
    heads, scale, offset = set(), [], []
    for index, part in enumerate(parts):
        here = f"{where}[{index}]"
        if isinstance(part, Mapping) and part.get("dtype", "int") != "int":
            raise ValueError(
                f"encodings: {here}: dtype is {checking.shown(part['dtype'])}, expected 'int', or 'float' throughout."
            )
        part = checking.fields(here, part, _KEYS)
        flag = part["is_symmetric"]
        if not isinstance(flag, bool) and flag not in ("True", "False"):
            raise ValueError(
                f"encodings: {here}: is_symmetric is {checking.shown(flag)}, expected the string 'True' or 'False'."
            )
        bits = checking.integer(f"{here}: bitwidth", part["bitwidth"], 2, 32)
        heads.add((bits, flag is True or flag == "True"))
        scale += checking.numbers(f"{here}: scale", [part["scale"]])
        offset.append(checking.integer(f"{here}: offset", part["offset"], 1 - 2**bits, 0))
    if len(heads) != 1:
        raise ValueError(f"encodings: {where} has {len(heads)} pairs of bitwidth and is_symmetric, expected one.")
    bits, symmetric = heads.pop()
    kind = Granularity.per_tensor if len(parts) == 1 else Granularity.per_channel
    encoding = checking.affine(where, scale, offset, bits, symmetric, kind)
    for index, part in enumerate(parts):
        low, high = checking.numbers(f"{where}[{index}]: min, max", [part["min"], part["max"]])
        ends = scale[index] * offset[index], scale[index] * (offset[index] + encoding.num_steps)
        allowed = scale[index] * (0.25 + 2e-6 * encoding.num_steps)
        if not (abs(low - ends[0]) <= allowed and abs(high - ends[1]) <= allowed):
            raise ValueError(
                f"encodings: {where}[{index}]: min and max are {low:g} and {high:g}, expected {ends[0]:g} and "
                f"{ends[1]:g} from scale and offset at {bits} bits."
            )
    return encoding


def _float_of(where: str, parts: list[Mapping[str, Any]]) -> FloatEncoding:
    formats, scale = set(), []
    for index, part in enumerate(parts):
        here = f"{where}[{index}]"
        bits = checking.integer(f"{here}: bitwidth", checking.fields(here, part, ("bitwidth",))["bitwidth"], 3, 32)
        formats.add(format_of(here, part, bits))
        scale += [part["scale"]] if "scale" in part else []
    if len(formats) != 1:
        raise ValueError(f"encodings: {where} has {len(formats)} float formats, expected one.")
    format = formats.pop()
    if not scale and len(parts) == 1:
        return FloatEncoding(format)
    if len(scale) != len(parts):
        raise ValueError(f"encodings: {where} has {len(scale)} scales in {len(parts)} entries, expected one in each.")
    kind = Granularity.per_tensor if len(parts) == 1 else Granularity.per_channel
    return FloatEncoding(format, scales_of(where, scale, format), kind)


def to_dict(
    activations: Mapping[str, Encoding],
    parameters: Mapping[str, Encoding],
    *,
    keyed_by: str = "onnx",
    excluded_layers: list[str] | None = None,
    quantizer_args: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The whole file as a dictionary.

    Args:
        keyed_by: ``"onnx"``: activations by name; ``"torch"``: by layer, direction and index, from names such as
            ``conv1.input_0``.
    """
    named: dict[str, Any] = {name: entry_of(name, encoding) for name, encoding in activations.items()}
    return {
        "version": VERSION,
        "activation_encodings": _nested(named) if keyed_by == "torch" else named,
        "param_encodings": {name: entry_of(name, encoding) for name, encoding in parameters.items()},
        "excluded_layers": list(excluded_layers or []),
        "quantizer_args": dict(quantizer_args or {}),
    }


def _nested(named: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    layers: dict[str, Any] = {}
    for name, entry in named.items():
        parts = _SLOT.fullmatch(name)
        if parts is None:
            raise ValueError(f"{name}: expected a name such as conv1.input_0, to be written by layer.")
        slots = layers.setdefault(parts["layer"] or "", {}).setdefault(parts["slot"], {})
        slots[parts["index"]] = entry[0] if len(entry) == 1 else entry
    return layers


def _flat(layers: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """``(conv1.input_0, entry)`` from the nested layout, entries by name as they are."""
    for layer, content in layers.items():
        where = f"activation_encodings, {checking.shown(layer)}"
        if isinstance(content, (list, tuple)):
            yield checking.named("activation_encodings: a key", layer), content
            continue
        if not isinstance(content, Mapping) or not isinstance(layer, str) or not set(content) <= {"input", "output"}:
            raise ValueError(
                f"encodings: {where} is {checking.shown(content)}, expected a list, or an object with 'input' and "
                "'output'."
            )
        for slot, entries in content.items():
            if not isinstance(entries, Mapping):
                raise ValueError(
                    f"encodings: {where}, {slot} is {checking.shown(entries)}, expected an object by index."
                )
            for index, entry in entries.items():
                name = f"{layer}.{slot}_{index}" if layer else f"{slot}_{index}"
                if not isinstance(index, str) or _SLOT.fullmatch(f"{slot}_{index}") is None:
                    raise ValueError(
                        f"encodings: {where}, {slot} has the key {checking.shown(index)}, expected one such as '0'."
                    )
                yield name, entry


def from_dict(content: Mapping[str, Any]) -> tuple[dict[str, Encoding], dict[str, Encoding]]:
    """Activation and parameter encodings by name, of either keying.

    A file with neither ``activation_encodings`` nor ``param_encodings`` holds parameters only.

    Raises:
        ValueError: It is not a 0.6.1 file.
    """
    if not isinstance(content, Mapping) or content.get("version", VERSION) != VERSION:
        version = content.get("version") if isinstance(content, Mapping) else None
        raise ValueError(f"encodings: the file has version {checking.shown(version)}, expected {VERSION!r}.")
    parts = [content.get(key, {}) for key in ("activation_encodings", "param_encodings")]
    if "activation_encodings" not in content and "param_encodings" not in content:
        parts[1] = {key: value for key, value in content.items() if key != "version"}
    for key, part in zip(("activation_encodings", "param_encodings"), parts):
        if not isinstance(part, Mapping):
            raise ValueError(f"encodings: {key} is {checking.shown(part)}, expected an object by tensor.")
        checking.check_count(key, part)
    activations: dict[str, Encoding] = {}
    for name, entry in _flat(parts[0]):
        if name in activations:
            raise ValueError(f"encodings: {checking.shown(name)} stands twice, expected once.")
        activations[name] = encoding_of(name, entry)
    parameters = {
        checking.named("param_encodings: a key", name): encoding_of(name, entry) for name, entry in parts[1].items()
    }
    return activations, parameters


def write(path: str | PathLike[str], content: Mapping[str, Any]) -> None:
    """Write what :func:`to_dict` gives."""
    text.write(path, content)


def read(path: str | PathLike[str]) -> tuple[dict[str, Encoding], dict[str, Encoding]]:
    """Activation and parameter encodings of a file, by name; errors as :func:`from_dict`."""
    return from_dict(text.read(path))
