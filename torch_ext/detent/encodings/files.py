"""Encodings files of every version: recognised, read, and made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

from . import checking, text, v0_6_1, v1_0_0, v2_0_0
from .affine import AffineEncoding
from .floating import Encoding

__all__ = ["VERSIONS", "EncodingsFile", "check_version", "detect", "read_any", "to_dict"]

_FORMATS = {module.VERSION: module for module in (v0_6_1, v1_0_0, v2_0_0)}
VERSIONS = tuple(_FORMATS)


@dataclass(frozen=True, eq=False)
class EncodingsFile:
    """What an encodings file says.

    Args:
        version: One of :data:`VERSIONS`.
        keyed_by: ``"torch"`` where every activation is named by module (``conv1.input_0``), else ``"onnx"``. Files
            that detent exports beside an ONNX model have the first kind of names in the ONNX model too.
        activations, parameters: Encodings by name.
    """

    version: str
    keyed_by: str
    activations: dict[str, Encoding]
    parameters: dict[str, Encoding]


def check_version(version: str) -> None:
    """Raise ValueError unless files of this version can be written."""
    if not isinstance(version, str) or version not in _FORMATS:
        raise ValueError(f"encodings: the version is {checking.shown(version)}, expected one of {', '.join(VERSIONS)}.")


def detect(content: Mapping[str, Any]) -> tuple[str, str]:
    """The version of a file's content, and whether activations are keyed by ``"torch"`` or by ``"onnx"``.

    A file without a version is 0.6.1, as AIMET leaves it out of those keyed by torch.

    Raises:
        ValueError: It is no encodings file, or of a version that is not known.
    Example:
        >>> detect({"version": "0.6.1", "activation_encodings": {"conv1": {"input": {}}}, "param_encodings": {}})
        ('0.6.1', 'torch')
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"encodings: the file is {checking.shown(content)}, expected an object with encodings.")
    if "version" in content:
        version = content["version"]
        check_version(version)
    else:
        parts = [content[key] for key in ("activation_encodings", "param_encodings") if key in content]
        if not all(isinstance(part, (Mapping, list)) for part in parts or content.values()) or "encodings" in content:
            raise ValueError(
                f"encodings: the file has no version and is not of the layout of 0.6.1, expected a version, one of "
                f"{', '.join(VERSIONS)}."
            )
        version = v0_6_1.VERSION
    return version, "torch" if _by_module(version, content) else "onnx"


def _by_module(version: str, content: Mapping[str, Any]) -> bool:
    if version == v2_0_0.VERSION:
        return True  # where names decide what is an activation, all of those are names by module
    named = content.get("activation_encodings", {})
    if version == v0_6_1.VERSION:
        return not isinstance(named, Mapping) or not any(isinstance(entry, (list, tuple)) for entry in named.values())
    names = [entry.get("name") for entry in named if isinstance(entry, Mapping)] if isinstance(named, list) else []
    return all(isinstance(name, str) and v0_6_1.is_slot(name) for name in names)


def read_any(source: Mapping[str, Any] | str | PathLike[str]) -> EncodingsFile:
    """Read an encodings file, or its content, of any version and keying.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is damaged; the message says the entry, what it holds and what was expected.
    Example:
        >>> entry = {"name": "fc.input_0", "output_dtype": "uint8", "y_scale": 0.5, "y_zero_point": 3}
        >>> file = read_any({"version": "2.0.0", "encodings": [entry]})
        >>> file.activations["fc.input_0"].min
        tensor(-1.5000)
    """
    if isinstance(source, (str, PathLike)):
        source = text.read(source)
    version, keyed_by = detect(source)
    activations, parameters = _FORMATS[version].from_dict(source)
    both = activations.keys() & parameters.keys()
    if both:
        raise ValueError(
            f"encodings: {checking.shown(min(both))} is an activation and a parameter, expected one or the other."
        )
    return EncodingsFile(version, keyed_by, activations, parameters)


def to_dict(
    version: str,
    activations: Mapping[str, Encoding],
    parameters: Mapping[str, Encoding],
    *,
    keyed_by: str,
    quantizer_args: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of a file.

    Args:
        version: One of :data:`VERSIONS`.
        activations, parameters: Encodings by name.
        keyed_by: ``"torch"`` or ``"onnx"``, which of the two layouts of 0.6.1 to use; the others have one.
        quantizer_args: What the file says of the whole; 2.0.0 has no place for it.
    Raises:
        ValueError: The version is not known, or has no words for an encoding.
    Example:
        >>> encoding = AffineEncoding(torch.tensor([0.5]), torch.tensor([-3.0]), bitwidth=8, is_symmetric=False)
        >>> to_dict("2.0.0", {"fc.input_0": encoding}, {}, keyed_by="torch")["encodings"]
        [{'name': 'fc.input_0', 'output_dtype': 'uint8', 'y_scale': 0.5, 'y_zero_point': 3}]
    """
    check_version(version)
    if version == v2_0_0.VERSION:
        return v2_0_0.to_dict(activations, parameters)
    if version == v0_6_1.VERSION:
        return v0_6_1.to_dict(activations, parameters, keyed_by=keyed_by, quantizer_args=quantizer_args)
    return v1_0_0.to_dict(activations, parameters, quantizer_args=quantizer_args)
