"""A malloc that keeps its memory, without which a copy is no unit to measure with."""

from __future__ import annotations

import os
import sys

#: By default glibc maps and unmaps blocks of many MiB, and one clone() of 16 MiB then takes anything from 0.8 to 10 ms.
SETTINGS = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_TOP_PAD_": str(64 << 20)}


def ensure() -> None:
    """Start this program again with what is missing of ``SETTINGS``; what the caller has set stays."""
    if any(name not in os.environ for name in SETTINGS):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**SETTINGS, **os.environ})
