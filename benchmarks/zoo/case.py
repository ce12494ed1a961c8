"""One model of a library, and where the lists of them are."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

LIBRARIES = ("torchvision", "timm", "transformers")


@dataclass(frozen=True)
class Case:
    """``build`` makes the model, ``sample(batch)`` a sample input of some images, sentences or sounds."""

    library: str
    kind: str  # what it is for: "classification", "encoder", "mixture of experts", ...
    name: str
    build: Callable[[], nn.Module]
    sample: Callable[[int], Any]

    @property
    def title(self) -> str:
        return f"{self.library}/{self.name}"


def cases(library: str) -> list[Case]:
    """Every model of a library; ImportError where it is not installed."""
    return importlib.import_module(f".of_{library}", __package__).cases()


def versions() -> dict[str, str]:
    """Version by library, "" where it is not installed."""
    found = {}
    for name in ("torch", *LIBRARIES):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found
