"""Checking a configuration against ``schema.json``: the part of JSON Schema that it uses."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..encodings.checking import shown
from .reading import Place

__all__ = ["check"]

_TYPES = {
    "object": (Mapping, "an object"),
    "array": ((list, tuple), "a list"),
    "string": (str, "a string"),
    "integer": (int, "an integer"),
    "number": ((int, float), "a number"),
}


@functools.lru_cache(maxsize=1)
def _schema() -> dict[str, Any]:
    return json.loads(Path(__file__).with_name("schema.json").read_text())


def check(content: Any, place: Place) -> None:
    """Raise ValueError at the first value that the schema does not allow."""
    _check(content, _schema(), (), place)


def _check(value: Any, schema: Mapping[str, Any], path: tuple, place: Place) -> None:
    if "$ref" in schema:
        return _check(value, _schema()["$defs"][schema["$ref"].rpartition("/")[2]], path, place)
    if "enum" in schema and not any(type(value) is type(allowed) and value == allowed for allowed in schema["enum"]):
        names = " or ".join(json.dumps(allowed) for allowed in schema["enum"] if isinstance(allowed, str))
        raise place.error(path, f"is {shown(value)}, expected {names}. {schema.get('description', '')}".rstrip())
    if "type" in schema:
        _check_type(value, schema, path, place)
    if isinstance(value, Mapping):
        _check_members(value, schema, path, place)
    elif isinstance(value, (list, tuple)):
        if len(value) < schema.get("minItems", 0):
            raise place.error(path, f"has {len(value)} entries, expected at least {schema['minItems']}.")
        for index, item in enumerate(value):
            _check(item, schema["items"], (*path, index), place)


def _check_type(value: Any, schema: Mapping[str, Any], path: tuple, place: Place) -> None:
    types, name = _TYPES[schema["type"]]
    if not isinstance(value, types) or isinstance(value, bool):
        raise place.error(path, f"is {shown(value)}, expected {name}.")
    if schema["type"] in ("number", "integer"):
        low, high = schema.get("minimum", -math.inf), schema.get("maximum", math.inf)
        largest = 3.4e38  # of float32, in which ranges are held
        if not (low <= value <= high and -largest <= value <= largest):
            bounds = f"from {max(low, -largest):g} to {min(high, largest):g}"
            raise place.error(path, f"is {shown(value)}, expected {name} {bounds}.")


def _check_members(value: Mapping, schema: Mapping[str, Any], path: tuple, place: Place) -> None:
    known, others = schema.get("properties", {}), schema["additionalProperties"]
    for key, member in value.items():
        if not isinstance(key, str):
            raise place.error(path, f"has the key {shown(key)}, expected a string.")
        if key in known:
            _check(member, known[key], (*path, key), place)
        elif others is False:
            close = get_close_matches(key[:60], known, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise place.error((*path, key), f"is not a setting, expected one of {', '.join(known)}.{hint}")
        else:
            _check(member, others, (*path, key), place)
    missing = [key for key in schema.get("required", ()) if key not in value]
    if missing:
        raise place.error(path, f"lacks {', '.join(missing)}, expected {', '.join(schema['required'])}.")
