"""JSON on disk: read within bounds, written whole."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from os import PathLike
from typing import Any

from . import checking

__all__ = ["MAX_BYTES", "read", "write"]

#: A larger file is refused: at some hundred bytes a scale this is far beyond any model.
MAX_BYTES = 2**30


def read(path: str | PathLike[str]) -> Any:
    """The content of a JSON file.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is no regular file, larger than a gibibyte, not UTF-8, not JSON, nested too deep, or an object
            has a key twice.
    """
    status = os.stat(path)  # before it is opened: a pipe would wait there
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"encodings: {path} is a folder, device or pipe, expected a regular file.")
    if status.st_size > MAX_BYTES:
        raise ValueError(f"encodings: {path} has {status.st_size:,} bytes, expected at most {MAX_BYTES:,}.")
    with open(path, "rb") as file:
        raw = file.read(status.st_size)
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=_each_key_once)
    except UnicodeDecodeError as error:
        raise ValueError(f"encodings: {path} is not UTF-8 at byte {error.start}, expected JSON in UTF-8.") from None
    except json.JSONDecodeError as error:
        raise ValueError(
            f"encodings: {path} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}. Was it cut off?"
        ) from None
    except RecursionError:
        raise ValueError(f"encodings: {path} is nested too deep, expected at most ten levels.") from None
    except ValueError as error:
        raise ValueError(f"encodings: {path}: {error}") from None


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {checking.shown(twice)} stands twice in one object, expected once.")
    return found


def write(path: str | PathLike[str], content: Mapping[str, Any]) -> None:
    """Write JSON, one item a line; a number that is not finite is a ValueError and nothing is written."""
    text = json.dumps(content, indent=1, sort_keys=False, allow_nan=False)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text + "\n")
