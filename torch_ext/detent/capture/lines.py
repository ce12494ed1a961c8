"""Which line of a model's code calls a torch function."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch

__all__ = ["Line", "calling_line", "shown"]

Line = tuple[str, int]

_TORCH = ("_jit_internal", "_ops", "_tensor", "functional", "nn/functional", "overrides", "utils/_contextlib")
_OURS = ("composites", "lines", "mode", "recording")
#: Files of code that runs between a model's line and the mode that sees the function.
_BETWEEN = frozenset(
    str(Path(above).parent / f"{name}.py") for above, names in ((torch.__file__, _TORCH), (__file__, _OURS))
    for name in names
)  # fmt: skip


def calling_line() -> Line:
    """Name of the file and number of the line that called the function which a TorchFunctionMode is given.

    Without the folder, in which a pickled model may find its code elsewhere.
    """
    frame = sys._getframe(1)
    while frame.f_code.co_filename in _BETWEEN and frame.f_back is not None:
        frame = frame.f_back
    return os.path.basename(frame.f_code.co_filename), frame.f_lineno


def shown(line: Line) -> str:
    """``file.py:12``."""
    return f"{line[0]}:{line[1]}"
