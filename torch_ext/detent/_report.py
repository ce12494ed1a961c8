"""The table that print(sim) shows."""

from __future__ import annotations

from torch import nn

from .nn import QuantizedModule
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


def rows(model: nn.Module, calls: dict[str, int]) -> list[tuple[str, ...]]:
    """One row per quantizer, and one per leaf that has none, with the reason."""
    table = []
    for name, module in model.named_modules():
        ran, name = calls.get(name, 0), name or "(model)"
        if isinstance(module, AffineQuantizer):
            continue
        if isinstance(module, QuantizedModule):
            kind = type(module)._float_class.__name__
            before = len(table)
            for slot, key, quantizer in module.quantizers():
                grid = "symmetric" if quantizer.symmetric else "asymmetric"
                table.append(
                    (name, kind, f"{slot} {key}", str(quantizer.bitwidth),
                     f"{grid} {quantizer.qmin} .. {quantizer.qmax}", quantizer.mode,
                     _range(quantizer), _note(quantizer, ran))
                )  # fmt: skip
            if len(table) == before:
                table.append((name, kind, "-", "-", "-", "-", "-", "float: no quantizer placed"))
        elif any(True for _ in module.parameters(recurse=False)):
            reason = "float: not one of detent.nn.CLASSES, so left as it is"
            table.append((name, type(module).__name__, "-", "-", "-", "-", "-", reason))
    return table


def report(model: nn.Module, calls: dict[str, int]) -> str:
    """The table as text."""
    table = [_HEADER, *rows(model, calls)]
    widths = [max(len(row[i]) for row in table) for i in range(len(_HEADER))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in table]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
