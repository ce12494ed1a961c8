"""A dataflow graph drawn beside a list: each tensor runs down a lane from the row that makes it to its last reader."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Node", "draw", "layout"]

_STEP, _WIDEST = 12, 300


@dataclass
class Node:
    """One row: the tensors it reads, the one it makes, and whether what it makes is on a grid."""

    rounds: bool = False
    ran: bool = False
    reads: list[int] = field(default_factory=list)
    makes: int | None = None
    # found by layout(): (lane, on a grid) of what passes by, ends here, arrives and goes on; where the dot is
    passing: list[tuple[int, bool]] = field(default_factory=list)
    arriving: list[tuple[int, bool]] = field(default_factory=list)
    leaving: bool = False
    lane: int = 0
    step: float = _STEP


def layout(nodes: list[Node]) -> int:
    """Give every node its place and lines; returns the width in pixels."""
    last = {value: number for number, node in enumerate(nodes) for value in node.reads}
    rounded: dict[int, bool] = {}
    lanes: list[int | None] = []
    most = 1
    for number, node in enumerate(nodes):
        fresh = [value for value in node.reads if value not in lanes]
        arriving = [value for value in node.reads if value in lanes]
        node.arriving = [(lanes.index(value), rounded.get(value, False)) for value in arriving]
        node.passing = [
            (lane, rounded.get(value, False)) for lane, value in enumerate(lanes)
            if value is not None and (value not in arriving or last[value] > number)
        ]  # fmt: skip
        for value in arriving:
            if last[value] == number:
                lanes[lanes.index(value)] = None
        if node.makes is not None:
            rounded[node.makes] = node.rounds
            node.leaving = last.get(node.makes, -1) > number
        # Straight on where a tensor ends here; a node that nothing follows stands where one arrives.
        near = [lane for lane, _ in node.arriving if lanes[lane] is None or not node.leaving]
        node.lane = min(near, default=_free(lanes))
        if node.leaving:
            _put(lanes, node.lane, node.makes)
        for value in fresh:  # an input of the model, read again later
            if last[value] > number:
                _put(lanes, _free(lanes), value)
        most = max(most, len(lanes))
    step = min(_STEP, _WIDEST / most)
    for node in nodes:
        node.step = step
    return int(step * (most + 1))


def _free(lanes: list[int | None]) -> int:
    return lanes.index(None) if None in lanes else len(lanes)


def _put(lanes: list[int | None], lane: int, value: int | None) -> None:
    while len(lanes) <= lane:
        lanes.append(None)
    lanes[lane] = value


def draw(node: Node) -> str:
    """The node's part of the drawing, as tall as its row."""

    def x(lane: int) -> str:
        return f"{(lane + 0.8) * node.step:.1f}"

    lines = [_line(x(lane), "0", x(lane), "100%", on) for lane, on in node.passing]
    lines += [_line(x(lane), "0", x(node.lane), "12", on) for lane, on in node.arriving]
    if node.leaving:
        lines.append(_line(x(node.lane), "12", x(node.lane), "100%", node.rounds))
    dot = f'<circle class="{"" if node.rounds else "off"}" cx="{x(node.lane)}" cy="12" r="4"/>' if node.ran else ""
    return f"<svg>{''.join(lines)}{dot}</svg>"


def _line(x1: str, y1: str, x2: str, y2: str, on: bool) -> str:
    return f'<line class="{"" if on else "off"}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'
