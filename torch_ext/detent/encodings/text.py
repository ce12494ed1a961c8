"""JSON on disk: read within bounds, written whole."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Mapping
from os import PathLike
from typing import Any

from . import checking

__all__ = ["MAX_BYTES", "parsed", "read", "read_text", "write"]

#: A larger file is refused: at some hundred bytes a scale this is far beyond any model.
MAX_BYTES = 2**30


def read(path: str | PathLike[str]) -> Any:
    """The content of an encodings file.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is no regular file, larger than a gibibyte, not UTF-8, not JSON, nested too deep, or an object
            has a key twice.
    """
    return parsed(f"encodings: {path}", read_text(f"encodings: {path}", path, MAX_BYTES), _each_key_once)


def read_text(title: str, path: str | PathLike[str], max_bytes: int) -> str:
    """The text of a file; ``title`` opens the message of a ValueError."""
    status = os.stat(path)  # before it is opened: a pipe would wait there
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{title} is a folder, device or pipe, expected a regular file.")
    if status.st_size > max_bytes:
        raise ValueError(f"{title} has {status.st_size:,} bytes, expected at most {max_bytes:,}.")
    with open(path, "rb") as file:
        raw = file.read(status.st_size)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{title} is not UTF-8 at byte {error.start}, expected JSON in UTF-8.") from None


def parsed(title: str, text: str, object_pairs_hook: Callable | None = None) -> Any:
    """The content of JSON text."""
    try:
        return json.loads(text, object_pairs_hook=object_pairs_hook)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{title} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}. Was it cut off?"
        ) from None
    except RecursionError:
        raise ValueError(f"{title} is nested too deep, expected at most ten levels.") from None
    except ValueError as error:
        raise ValueError(f"{title}: {error}") from None


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
