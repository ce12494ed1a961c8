"""Looking at ranges: plots, which need matplotlib, and the rows that ``sim.summary()`` consists of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._report import Row, Summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .quantsim import QuantizationSimModel

__all__ = ["Row", "Summary", "plot_ranges"]


def plot_ranges(sim: QuantizationSimModel) -> Figure:
    """The range of every quantizer as a bar: activations above, parameters below, in the order in which they run.

    Where there are several scales, the dark part is the median one: a long pale rest means that one channel is much
    wider than the others.

    Args:
        sim: Calibrated; quantizers without a range are left out.
    Returns:
        A matplotlib figure: ``figure.savefig("ranges.png")``, or shown by a notebook as it is.
    Raises:
        ImportError: matplotlib is missing.
        RuntimeError: No quantizer has a range.
    Example:
        >>> sim = detent.QuantizationSimModel(torch.nn.Linear(4, 2), torch.randn(1, 4))
        >>> sim.compute_encodings(lambda model: model(torch.randn(32, 4)))
        >>> plot_ranges(sim).savefig(f"{folder}/ranges.png")
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(f"plot_ranges needs matplotlib ({error}). Install it with: pip install matplotlib") from error

    rows = [row for row in sim.summary() if row.low is not None]
    if not rows:
        raise RuntimeError("plot_ranges: no quantizer has a range. Run sim.compute_encodings first, or load encodings.")
    of_params = [row for row in rows if row.slot.startswith("param")]
    parts = {"activations": [row for row in rows if row not in of_params], "parameters": of_params}
    parts = {title: held for title, held in parts.items() if held}
    longest = max(len(held) for held in parts.values())
    figure = Figure(figsize=(min(40, 3 + 0.22 * longest), 4.2 * len(parts)), layout="constrained")
    for axes, (title, held) in zip(figure.subplots(len(parts), squeeze=False).flat, parts.items()):
        widest = [(row.low.min().item(), row.high.max().item()) for row in held]
        median = [(row.low.median().item(), row.high.median().item()) for row in held]
        for ends, color in ((widest, "#a9c6f0"), (median, "#2f6fd0")):
            heights = [high - low for low, high in ends]
            axes.bar(range(len(held)), heights, bottom=[low for low, _ in ends], color=color)
        axes.axhline(0, color="black", linewidth=0.8)
        names = [f"{row.layer} {row.slot.removeprefix('param ')}" for row in held]
        axes.set_xticks(range(len(held)), names, rotation=90, fontsize=7)
        axes.set_xlim(-1, len(held))
        axes.set_ylabel("range, real units")
        axes.set_title(title)
    return figure
