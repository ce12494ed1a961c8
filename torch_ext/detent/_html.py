"""The summary of a simulation as HTML: a graph of what runs beside the rows, and a bar for each range."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ._lanes import Node, draw, layout

if TYPE_CHECKING:
    from ._report import Row, Step, Summary

__all__ = ["fragment", "page"]

_COLUMNS = ("layer", "slot", "bits", "grid", "scales", "mode", "range", "note")

_STYLE = """
.detent { font: 13px/1.45 system-ui, sans-serif; color: #1c2430; background: #fff; }
.detent p { margin: 4px 0 10px; color: #56606e; }
.detent b { color: #1c2430; font-weight: 600; }
.detent table { border-collapse: collapse; }
.detent th { position: sticky; top: 0; background: #f3f5f8; color: #56606e; font-weight: 600; z-index: 1; }
.detent th, .detent td { text-align: left; padding: 3px 12px 3px 0; white-space: nowrap; vertical-align: top; }
.detent tr.first td { border-top: 1px solid #e6e9ee; }
.detent td.graph { position: relative; padding: 0; border: 0 !important; }
.detent td.graph svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.detent .number { font-variant-numeric: tabular-nums; }
.detent .kind, .detent .quiet { color: #7b8594; }
.detent .float td { color: #7b8594; }
.detent .warn { color: #a04a00; font-weight: 600; }
.detent .bar { position: relative; display: inline-block; width: 180px; height: 12px; margin-right: 8px;
  background: #f3f5f8; vertical-align: -2px; }
.detent .bar i { position: absolute; top: 0; height: 100%; min-width: 1px; background: #a9c6f0; }
.detent .bar i.half { background: #2f6fd0; }
.detent .bar i.zero { background: #1c2430; }
.detent line { stroke-width: 2; stroke: #2f6fd0; }
.detent line.off { stroke: #b9c0ca; stroke-dasharray: 3 2; }
.detent circle { fill: #2f6fd0; stroke: #fff; }
.detent circle.off { fill: #fff; stroke: #8a94a3; stroke-width: 1.5; }
"""

_FILTER = """
<p><input placeholder="show layers that contain ..." size="32" oninput="
  for (const row of document.querySelectorAll('.detent tbody tr'))
    row.style.display = row.dataset.layer.includes(this.value) ? '' : 'none'"></p>
"""


def page(summary: Summary) -> str:
    """A page that needs nothing else."""
    body = fragment(summary, _FILTER)
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>detent: what is quantized</title>'
        f'<style>body {{ margin: 24px; }}</style></head>\n<body>\n{body}\n</body></html>\n'
    )


def fragment(summary: Summary, extra: str = "") -> str:
    """A piece of a page, for a notebook."""
    rows, steps = summary.rows, summary._steps
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.layer, []).append(row)
    nodes = _nodes(groups, steps)
    width = layout(nodes)
    scales = {part: _Scale(row for row in rows if _part(row) == part) for part in ("param", "other")}
    lines = []
    for node, (layer, held) in zip(nodes, groups.items()):
        for number, row in enumerate(held):
            cells = [_graph_cell(node, width, len(held))] if number == 0 else []
            cells += _cells(row, number == 0, scales[_part(row)])
            kind = " ".join(name for name, on in (("first", number == 0), ("float", row.quantizer is None)) if on)
            lines.append(f'<tr class="{kind}" data-layer="{_text(layer)}">{"".join(cells)}</tr>')
    head = "".join(f"<th>{name}</th>" for name in ("", *_COLUMNS))
    return (
        f'<div class="detent"><style>{_STYLE}</style>\n{_headline(summary)}{extra}\n'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(lines) + "\n</tbody></table></div>"
    )


def _text(value: object) -> str:
    return html.escape(str(value), quote=True)


def _part(row: Row) -> str:
    return "param" if row.slot is not None and row.slot.startswith("param") else "other"


def _headline(summary: Summary) -> str:
    lines = [
        f'<b class="{"warn" if title == "to look at" else ""}">{title}</b> {" &middot; ".join(map(_text, counted))}'
        for title, counted in summary.counts().items() if counted
    ]  # fmt: skip
    return (
        f"<p>{'<br>'.join(lines)}<br>Graph: top to bottom as it ran; blue: on a grid; grey: not rounded there. "
        "Bars: the range, 0 marked, on a square-root scale, one scale for activations and one for parameters; dark: "
        "the median of all scales.</p>"
    )


def _cells(row: Row, first: bool, scale: _Scale) -> list[str]:
    _, kind, slot, bits, grid, scales, mode, reach, note = (_text(cell) for cell in row.cells)
    name = f'{_text(row.layer)} <span class="kind">{kind}</span>' if first else ""
    plain = (slot, bits, grid, scales, mode) if row.quantizer is not None else (_text(row.slot or ""), "", "", "", "")
    return [
        f"<td>{name}</td>",
        *(f'<td class="number">{cell}</td>' for cell in plain),
        f'<td class="number">{scale.bar(row)}{reach if row.low is not None else ""}</td>',
        f'<td class="{"warn" if row.odd else "quiet"}">{note}</td>',
    ]


class _Scale:
    """Where numbers lie in a bar, in percent."""

    def __init__(self, rows: Iterable[Row]):
        ends = [end for row in rows if row.low is not None for end in (row.low.min().item(), row.high.max().item())]
        self.low, self.high = _root(min(ends, default=0.0)), _root(max(ends, default=0.0))

    def at(self, value: float) -> float:
        return 100 * (_root(value) - self.low) / ((self.high - self.low) or 1.0)

    def bar(self, row: Row) -> str:
        if row.low is None:
            return ""
        marks = [("", row.low.min().item(), row.high.max().item())]
        if row.low.numel() > 1:
            marks.append(("half", row.low.median().item(), row.high.median().item()))
        else:
            marks = [("half", *marks[0][1:])]
        drawn = "".join(
            f'<i class="{kind}" style="left:{self.at(low):.2f}%;width:{self.at(high) - self.at(low):.2f}%"></i>'
            for kind, low, high in marks
        )
        return f'<span class="bar">{drawn}<i class="zero" style="left:{self.at(0.0):.2f}%"></i></span>'


def _root(value: float) -> float:
    return math.copysign(math.sqrt(abs(value)), value) if math.isfinite(value) else 0.0


def _nodes(groups: dict[str, list[Row]], steps: list[Step]) -> list[Node]:
    """One node per layer in the order of the rows; what has no row passes its tensor on."""
    same: dict[int, int] = {}
    nodes = {layer: Node(rounds=_rounds(held)) for layer, held in groups.items()}
    for step in steps:
        reads = [same.get(value, value) for value in step.reads]
        node = nodes.get(step.layer)
        if node is None or node.ran:
            makes = node.makes if node is not None else next(iter(reads), None)
            if step.makes is not None and makes is not None:
                same[step.makes] = makes
            continue
        node.ran, node.reads, node.makes = True, list(dict.fromkeys(reads)), step.makes
    return list(nodes.values())


def _rounds(rows: list[Row]) -> bool:
    return any(
        row.quantizer is not None and row.slot.startswith("output") and row.quantizer.enabled
        and not row.quantizer._unseen for row in rows
    )


def _graph_cell(node: Node, width: int, rows: int) -> str:
    return f'<td class="graph" rowspan="{rows}" style="min-width:{width}px">{draw(node)}</td>'
