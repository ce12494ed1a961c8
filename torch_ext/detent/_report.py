"""What a simulation quantizes, as a table: for print, for notebooks, for a page of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import nn

from .capture import CallSite, float_class, place
from .capture.graph import MOVING, Event, Graph
from .capture.mode import Captured
from .nn import QuantizedModule
from .nn.base import Use, entries
from .quantizers import Quantizer

__all__ = ["Row", "Summary", "summarize"]

_HEADER = ("layer", "kind", "slot", "bits", "grid", "scales", "mode", "range", "note")


@dataclass(frozen=True, eq=False)
class Row:
    """One quantizer, or a layer or call site that has none.

    Args:
        layer: Name of the module, or of the call site of a function: ``layer1.0.add_0``.
        kind: Class of the module, or the function.
        slot: ``"input 0"``, ``"param weight"``, ``"output 0"``; ``None`` without a quantizer.
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
            return (self.layer, self.kind, "-", "-", "-", "-", "-", "-", self.note)
        grid = "symmetric" if quantizer.symmetric else "asymmetric"
        return (
            self.layer, self.kind, self.slot, str(quantizer.bitwidth), f"{grid} {quantizer.qmin} .. {quantizer.qmax}",
            self.scales, quantizer.mode, self.range, self.note,
        )  # fmt: skip

    @property
    def scales(self) -> str:
        """How many scales: ``"per tensor"``, ``"16 per channel"``."""
        kind = self.quantizer.granularity.value.replace("_", " ")
        count = torch.Size(self.quantizer.shape).numel()
        return kind if kind == "per tensor" else f"{count} {kind}"

    @property
    def range(self) -> str:
        """``"-1.5 .. 2"``, the widest of all scales."""
        return "-" if self.low is None else f"{self.low.min().item():.4g} .. {self.high.max().item():.4g}"


@dataclass(frozen=True)
class Step:
    """One execution of a layer or call site: the numbers of the tensors it reads, and of the one it makes."""

    layer: str
    reads: list[int]
    makes: int | None


class Summary:
    """The rows of a simulation, in the order in which layers and functions ran with the sample.

    ``str()`` is a table, a notebook shows it as one with bars, :meth:`to_html` writes a page with the graph beside it.

    Example:
        >>> sim = detent.QuantizationSimModel(torch.nn.Sequential(torch.nn.Linear(4, 2)), torch.randn(1, 4))
        >>> for row in sim.summary():
        ...     print(row.layer, row.slot, row.scales)
        0 input 0 per tensor
        0 param weight 2 per channel
        0 output 0 per tensor
    """

    def __init__(self, rows: list[Row], steps: list[Step]):
        self.rows = rows
        self._steps = steps

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        table = [_HEADER, *(row.cells for row in self.rows)]
        widths = [max(len(line[i]) for line in table) for i in range(len(_HEADER))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in table]
        lines.insert(1, "  ".join("-" * width for width in widths))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from ._html import fragment

        return fragment(self.rows, self._steps)

    def to_html(self, path: str | PathLike[str]) -> None:
        """Write one page that needs nothing else: the graph, the rows, and a bar for each range."""
        from ._html import page

        text = page(self.rows, self._steps)
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text, encoding="utf-8")


def summarize(model: nn.Module, graph: Graph, excluded: set[str]) -> Summary:
    """One row per quantizer, and one per leaf and call site that has none, with the reason."""
    rows = []
    for path, module in model.named_modules():
        name, kind, before = path or "(model)", _kind(path, module, model), len(rows)
        for slot, key, quantizer in entries(module):
            rows.append(_row(name, kind, f"{slot} {key}", quantizer, _shared(path, slot, graph)))
        if len(rows) == before and isinstance(module, QuantizedModule):
            rows.append(_float(name, kind, _why_float(path, module, graph, excluded)))
        if isinstance(module, Captured):
            rows += _unquantized(path, module, graph)
    modules = dict(model.named_modules())
    steps = [_step(event, modules.get(event.path)) for event in graph.events]
    return Summary(_as_run(rows, steps), steps)


def _why_float(path: str, module: QuantizedModule, graph: Graph, excluded: set[str]) -> str:
    if any(above in ("", path) or path.startswith(f"{above}.") for above in excluded):
        return "float: excluded"
    if path not in graph.calls:
        return "float: did not run with the sample"
    return "keeps the grid of its input" if module._slots.onnx_op in MOVING else "float: no quantizer placed"


def _as_run(rows: list[Row], steps: list[Step]) -> list[Row]:
    """Rows in the order of execution: a module before what is inside it, one that did not run where it stands."""
    order: dict[str, float] = {}
    for number, step in enumerate(steps):
        order.setdefault(step.layer, number)
        above = step.layer
        while above:
            above = above.rpartition(".")[0]
            order.setdefault(above or "(model)", number - 0.5)
    keys, last = [], -1.0
    for row in rows:
        last = order.get(row.layer, last)
        keys.append(last)
    return [row for _, row in sorted(zip(keys, rows), key=lambda pair: pair[0])]


def _step(event: Event, module: nn.Module | None) -> Step:
    reads = [id(read.value) for read in event.reads if not read.value.constant]
    layer = place(module, event) or "(model)"
    return Step(layer, reads, None if event.output is None else id(event.output))


def _kind(path: str, module: nn.Module, model: nn.Module) -> str:
    if isinstance(module, CallSite):
        return module.function
    if isinstance(module, Use):
        module = model.get_submodule(path.rpartition(".")[0])
    return float_class(type(module)).__name__


def _shared(path: str, slot: str, graph: Graph) -> int:
    """How often an activation meets one quantizer in one pass."""
    uses = max(1, len(graph.uses.get(path, ())))
    return graph.calls.get(path, 0) - uses + 1 if slot != "param" else 1


def _row(name: str, kind: str, slot: str, quantizer: Quantizer, calls: int) -> Row:
    low = high = None
    if quantizer.is_initialized():
        low, high = (end.detach().cpu().flatten() for end in (quantizer.get_min(), quantizer.get_max()))
    return Row(name, kind, slot, quantizer, low, high, _note(quantizer, calls))


def _note(quantizer: Quantizer, calls: int) -> str:
    if not quantizer.enabled:
        return "off"
    if quantizer._unseen:
        return "saw no data in calibration: passes float"
    if not quantizer.is_initialized():
        return "not calibrated yet"
    if calls > 1:
        return f"runs {calls} times in one pass, on one range"
    return ""


def _float(name: str, kind: str, reason: str) -> Row:
    return Row(name, kind, None, None, None, None, reason)


def _unquantized(path: str, module: Captured, graph: Graph) -> list[Row]:
    """What a module's own forward leaves in float: call sites by name, and functions nobody knows."""
    prefix, capture, rows = f"{path}." if path else "", module._detent, []
    for site, child in capture.names.items():
        if child is None:
            rows.append(_float(prefix + site, _function(site), f"float: {capture.reasons.get(site, '')}"))
    for name in capture.late:
        rows.append(_float(prefix + name, _function(name), "float: did not run with the sample"))
    for function in sorted(graph.unknown.get(path, ())):
        rows.append(_float(path or "(model)", function, "float: not an operator that is known"))
    return rows


def _function(site: str) -> str:
    """``add`` of ``use_1.add_0``."""
    return site.rpartition(".")[2].rpartition("_")[0]
