"""What a simulation quantizes, as a table: for print, for notebooks, for a page of its own."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch

from .quantizers import Quantizer

__all__ = ["Row", "Step", "Summary"]

_PLANNED = (
    "inside ", "keeps the grid", "on the grid", "excluded", "off in the configuration", "computed from constants",
    "makes no tensor of floats", "holds a mask",
)  # fmt: skip
_PARTICULAR = re.compile(r", (rounded at|whose end) .*")
_HEADER = ("layer", "kind", "slot", "bits", "grid", "scales", "mode", "range", "note")


@dataclass(frozen=True, eq=False)
class Row:
    """One quantizer, or a layer or call site that has none.

    Args:
        layer: Name of the module, or of the call site of a function: ``layer1.0.add_0``.
        kind: Class of the module, or the function.
        slot: ``"input 0"``, ``"param weight"``, ``"output 0"``; ``None`` for all of a layer.
        quantizer: The quantizer; ``None`` where the row says why there is none.
        low, high: Ends of the range per scale, flat, on the CPU; ``None`` without a range.
        note: Why it is float, or what is odd.
    """

    layer: str
    kind: str
    slot: str | None
    quantizer: Quantizer | None
    low: torch.Tensor | None
    high: torch.Tensor | None
    note: str

    @property
    def cells(self) -> tuple[str, ...]:
        """The row as text, one string per column."""
        quantizer = self.quantizer
        if quantizer is None:
            return (self.layer, self.kind, self.slot or "-", "-", "-", "-", "-", "-", self.note)
        return (
            self.layer, self.kind, self.slot, str(quantizer.bitwidth), quantizer._grid_in_words(), self.scales,
            quantizer.mode if quantizer.scaled else "-", self.range, self.note,
        )  # fmt: skip

    @property
    def scales(self) -> str:
        """How many scales: ``"per tensor"``, ``"16 per channel"``; ``"none"`` of a float format without."""
        if not self.quantizer.scaled:
            return "none"
        kind = self.quantizer.granularity.value.replace("_", " ")
        count = torch.Size(self.quantizer.shape).numel()
        return kind if kind == "per tensor" else f"{count} {kind}"

    @property
    def range(self) -> str:
        """``"-1.5 .. 2"``, the widest of all scales."""
        return "-" if self.low is None else f"{self.low.min().item():.4g} .. {self.high.max().item():.4g}"

    @property
    def reason(self) -> str:
        """:attr:`note` without what it says of this row alone."""
        return _PARTICULAR.sub("", self.note.removeprefix("float: "))

    @property
    def odd(self) -> bool:
        """Whether the note is something to look at, planned by no configuration, exclusion or device."""
        return bool(self.note) and not self.reason.startswith(_PLANNED)


@dataclass(frozen=True)
class Step:
    """One execution of a layer or call site: the numbers of the tensors it reads, and of the one it makes."""

    layer: str
    reads: list[int]
    makes: int | None


class Summary:
    """The rows of a simulation, in the order in which layers and functions ran with the sample.

    ``str()`` is a table with the counts below, a notebook shows it as one with bars, :meth:`to_html` writes a page with
    the graph beside it. Parameters that the configuration leaves in float have no rows and are counted.

    Example:
        >>> sim = detent.QuantizationSimModel(torch.nn.Sequential(torch.nn.Linear(4, 2)), torch.randn(1, 4))
        >>> for row in sim.summary():
        ...     print(row.layer, row.slot, row.scales)
        0 input 0 per tensor
        0 param weight 2 per channel
        0 output 0 per tensor
    """

    def __init__(self, rows: list[Row], steps: list[Step], float_parameters: Counter[str] | None = None):
        self.rows = rows
        self._steps = steps
        self._float_parameters = float_parameters or Counter()

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        table = [_HEADER, *(row.cells for row in self.rows)]
        widths = [max(len(line[i]) for line in table) for i in range(len(_HEADER))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in table]
        lines.insert(1, "  ".join("-" * width for width in widths))
        counts = [f"{title}: {', '.join(counted)}" for title, counted in self.counts().items() if counted]
        return "\n".join([*lines, "", *counts])

    def counts(self) -> dict[str, list[str]]:
        """What there is how often, by ``"quantized"``, ``"not quantized"`` and ``"to look at"``.

        Example:
            >>> sim = detent.QuantizationSimModel(torch.nn.Sequential(torch.nn.Linear(4, 2)), torch.randn(1, 4))
            >>> sim.summary().counts()["quantized"]
            ['1 input at 8 bits', '1 output at 8 bits', '1 parameter at 8 bits']
            >>> sim.summary().counts()["not quantized"]
            ['parameters off in the configuration (1)']
        """
        quantized = Counter(
            (row.slot.split()[0], row.quantizer._type_in_words()) for row in self.rows if row.quantizer is not None
        )
        kinds = {"input": "input", "output": "output", "param": "parameter"}
        odd = Counter(row.reason for row in self.rows if row.odd)
        planned = Counter(row.reason for row in self.rows if row.note and not row.odd)
        return {
            "quantized": [
                f"{_many(count, name)} {held}" for slot, name in kinds.items()
                for (kind, held), count in sorted(quantized.items()) if kind == slot
            ],
            "not quantized": [f"{reason} ({count})" for reason, count in planned.most_common()]
            + [f"parameters {reason} ({count})" for reason, count in self._float_parameters.most_common()],
            "to look at": [f"{reason} ({count})" for reason, count in odd.most_common()],
        }  # fmt: skip

    def _repr_html_(self) -> str:
        from ._html import fragment

        return fragment(self)

    def to_html(self, path: str | PathLike[str]) -> None:
        """Write one page that needs nothing else: the graph, the rows, and a bar for each range."""
        from ._html import page

        text = page(self)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")


def _many(count: int, name: str) -> str:
    return f"{count} {name}" if count == 1 else f"{count} {name}s"
