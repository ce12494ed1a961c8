"""The table that print(sim) shows."""

from __future__ import annotations

from torch import nn

from .capture import CallSite
from .capture.graph import Graph
from .capture.mode import Captured
from .nn import QuantizedModule
from .nn.base import entries
from .quantizers import AffineQuantizer

_HEADER = ("layer", "kind", "slot", "bits", "grid", "mode", "range", "note")


def _range(quantizer: AffineQuantizer) -> str:
    if not quantizer.is_initialized():
        return "-"
    low, high = quantizer.get_min().detach(), quantizer.get_max().detach()
    text = f"{low.min().item():.4g} .. {high.max().item():.4g}"
    return text if low.numel() == 1 else f"{text} ({low.numel()} scales)"


def _note(quantizer: AffineQuantizer, calls: int) -> str:
    if not quantizer.enabled:
        return "off"
    if quantizer._unseen:
        return "saw no data in calibration: passes float"
    if not quantizer.is_initialized():
        return "not calibrated yet"
    if calls > 1:
        return f"runs {calls} times in one pass, on one range"
    return ""


def rows(model: nn.Module, graph: Graph) -> list[tuple[str, ...]]:
    """One row per quantizer, and one per leaf and call site that has none, with the reason."""
    table = []
    for path, module in model.named_modules():
        name = path or "(model)"
        before = len(table)
        for slot, key, quantizer in entries(module):
            table.append(_row(name, _kind(module), f"{slot} {key}", quantizer, _shared_range(path, slot, graph)))
        if len(table) == before and isinstance(module, QuantizedModule):
            reason = "float: no quantizer placed" if path in graph.calls else "float: did not run with the sample"
            table.append(_float(name, _kind(module), reason))
        if isinstance(module, Captured):
            table += _unquantized(path, module, graph)
    return table


def _kind(module: nn.Module) -> str:
    if isinstance(module, CallSite):
        return module.function
    return getattr(type(module), "_float_class", type(module)).__name__


def _shared_range(path: str, slot: str, graph: Graph) -> int:
    """How often an activation meets one quantizer in one pass."""
    uses = max(1, len(graph.uses.get(path, ())))
    return graph.calls.get(path, 0) - uses + 1 if slot != "param" else 1


def _row(name: str, kind: str, slot: str, quantizer: AffineQuantizer, calls: int) -> tuple[str, ...]:
    grid = "symmetric" if quantizer.symmetric else "asymmetric"
    return (
        name, kind, slot, str(quantizer.bitwidth), f"{grid} {quantizer.qmin} .. {quantizer.qmax}", quantizer.mode,
        _range(quantizer), _note(quantizer, calls),
    )  # fmt: skip


def _float(name: str, kind: str, reason: str) -> tuple[str, ...]:
    return (name, kind, "-", "-", "-", "-", "-", reason)


def _unquantized(path: str, module: Captured, graph: Graph) -> list[tuple[str, ...]]:
    """What a module's own forward leaves in float: call sites by name, and functions nobody knows."""
    prefix, capture, table = f"{path}." if path else "", module._detent, []
    for site, child in capture.names.items():
        if child is None:
            table.append(_float(prefix + site, _function(site), f"float: {capture.reasons.get(site, '')}"))
    for name in capture.late:
        table.append(_float(prefix + name, _function(name), "float: did not run with the sample"))
    for function in sorted(graph.unknown.get(path, ())):
        table.append(_float(path or "(model)", function, "float: not an operator that is known"))
    return table


def _function(site: str) -> str:
    """``add`` of ``use_1.add_0``."""
    return site.rpartition(".")[2].rpartition("_")[0]


def report(model: nn.Module, graph: Graph) -> str:
    """The table as text."""
    table = [_HEADER, *rows(model, graph)]
    widths = [max(len(row[i]) for row in table) for i in range(len(_HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
