"""A configuration as JSON: read within bounds, with the line of every value."""

from __future__ import annotations

import json
import re
from os import PathLike
from pathlib import Path
from typing import Any

from ..encodings import text
from ..encodings.checking import shown

__all__ = ["Place", "read"]

MAX_BYTES = 2**20  # a hundred times the largest configuration there is
_MAX_DEPTH = 32
_TOKEN = re.compile(r'[{}\[\]:,]|"(?:[^"\\]|\\.)*"|[^\s{}\[\]:,"]+')


class Place:
    """Where a configuration came from: names its values in messages."""

    def __init__(self, name: str, lines: dict[tuple, int] | None = None):
        self.name = name
        self.lines = lines or {}

    def error(self, path: tuple, said: str) -> ValueError:
        """``config.json line 12: op_type.Conv ...``; ``said`` goes on after the path."""
        known = path
        while known and known not in self.lines:
            known = known[:-1]
        line = f" line {self.lines[known]}" if known in self.lines else ""
        return ValueError(f"{self.name}{line}: {_dotted(path)} {said}")


def _dotted(path: tuple) -> str:
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
            continue
        plain = part.isprintable() and len(part) <= 60
        text += f".{part if plain else shown(part)}"
    return text.removeprefix(".") or "the configuration"


def read(path: str | PathLike[str]) -> tuple[Any, Place]:
    """The content of a JSON file, and where each value stands.

    Raises:
        OSError: It cannot be opened.
        ValueError: It is no regular file, larger than a mebibyte, not UTF-8, not JSON, nested too deep, or an object
            has a key twice.
    """
    name = Path(path).name
    given = text.read_text(name, path, MAX_BYTES)
    content = text.parsed(name, given)
    return content, Place(name, _lines(name, given))


def _lines(name: str, given: str) -> dict[tuple, int]:
    """Line of each value in text that is known to be JSON: an object's member at its key."""
    lines: dict[tuple, int] = {}
    path: list = []  # for each open container the key or index that is at hand
    keys: list[set | None] = []  # for each open container the keys it has; None for a list
    line, at, key_next = 1, 0, False
    for match in _TOKEN.finditer(given):
        line += given.count("\n", at, match.start())
        at, token = match.start(), match[0]
        if token in ("{", "["):
            lines.setdefault(tuple(path), line)
            path.append(0 if token == "[" else None)
            keys.append(None if token == "[" else set())
            key_next = token == "{"
            if len(path) > _MAX_DEPTH:
                raise ValueError(f"{name} line {line}: nested too deep, expected at most {_MAX_DEPTH} levels.")
        elif token in ("}", "]"):
            path.pop(), keys.pop()
            key_next = False
        elif token == "," and keys[-1] is None:
            path[-1] += 1
        elif token == ",":
            key_next = True
        elif key_next:
            path[-1], key_next = json.loads(token), False
            if path[-1] in keys[-1]:
                where = _dotted(tuple(path))
                raise ValueError(f"{name} line {line}: {where} stands twice in one object, expected once.")
            keys[-1].add(path[-1])
            lines[tuple(path)] = line
        elif token != ":":
            lines.setdefault(tuple(path), line)
    return lines
