"""Plots of a run as SVG, beside its JSON: the size sweep, the roofline and the networks.

python benchmarks/plot.py JSON [...] draws them again. matplotlib draws; without it there are no plots.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path

COLORS = {
    "detent fake_quantize": "#1f5fbf", "detent fake_quantize_range": "#7fb0ee", "aten fixed": "#c7511f",
    "aten learnable": "#e39a5b", "formula, compiled": "#3d8b5a", "triton": "#8255a8", "copy": "#8a94a3",
    "unit": "#1c2430",
}  # fmt: skip
_UNITS = {"forward": "x.clone()", "learned backward": "torch.add(g, x)", "fixed backward": "g.clone()"}
_GRANULARITIES = ("per_tensor", "per_channel_1", "per_block")
_STYLE = {
    "figure.facecolor": "white", "axes.facecolor": "white", "savefig.facecolor": "white", "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": "#e6e9ee",
    "axes.axisbelow": True, "axes.titlesize": 10, "legend.frameon": False, "svg.hashsalt": "detent",
}  # fmt: skip


def _title(report: dict) -> str:
    environment = report["environment"]
    return (
        f"{environment['device']}, {environment['threads']} thread(s), torch {environment['torch']}, "
        f"commit {environment['commit'][:9] or 'unknown'}{', quick: not for citing' * report['quick']}"
    )


def _size(mib: float) -> str:
    return f"{mib / 1024:g} GiB" if mib >= 1024 else f"{mib:g} MiB" if mib >= 1 else f"{mib * 1024:g} KiB"


def _sweep(plt, report: dict, dtype: str):
    """Time over the unit's by size: a row a pass, a column a granularity."""
    groups = [g for g in report["groups"] if g.get("part") == "sweep" and g["dtype"] == dtype]
    if not groups:
        return None
    figure, axes = plt.subplots(3, 3, figsize=(12, 9), sharex=True, sharey="row")
    sizes = sorted({group["mib"] for group in groups})
    for at, (row, kind) in enumerate(zip(axes, _UNITS)):
        for axis, granularity in zip(row, _GRANULARITIES):
            chosen = [g for g in groups if g["kind"] == kind and g["granularity"] == granularity]
            for name, color in COLORS.items():
                points = [(g["mib"], g["contenders"][name]["ratio"]) for g in chosen if name in g["contenders"]]
                if points and name != "copy":
                    label = "unit" if name == "unit" else name
                    axis.plot(*zip(*sorted(points)), "-" if name == "unit" else "o-", color=color, label=label, ms=3.5)
            axis.set_xscale("log", base=2)
            axis.set_yscale("log")
            axis.set_xticks(sizes, [_size(size) for size in sizes], rotation=45, ha="right")
            axis.minorticks_off()
            ticks = [0.5, 1, 2, 5, 10, 20, 50]
            axis.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
            if at == 0:
                axis.set_title(granularity.replace("_1", ", axis 1").replace("_", " ").replace("block", "block of 32"))
            if at == 2:
                axis.set_xlabel(f"size of x ({dtype})")
        row[0].set_ylabel(f"{kind}\ntime / {_UNITS[kind]}")
    handles = {label: handle for axis in axes.flat for handle, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(handles.values(), handles, loc="lower center", ncols=len(handles))
    figure.suptitle(f"Time over the unit's, medians (log scales)\n{_title(report)}", fontsize=10)
    figure.tight_layout(rect=(0, 0.03, 1, 1))
    return figure


def _roofline(plt, report: dict):
    """Bytes needed by time, per family, beside the copy's."""
    groups = [g for g in report["groups"] if g.get("part") == "families"]
    if not groups:
        return None
    kinds = list(dict.fromkeys(group["kind"] for group in groups))
    dtypes = list(dict.fromkeys(group["dtype"] for group in groups))
    figure, axes = plt.subplots(1, len(dtypes), figsize=(12, 1.4 + 0.28 * len(kinds)), sharey=True, squeeze=False)
    for axis, dtype in zip(axes[0], dtypes):
        for place, kind in enumerate(kinds):
            (group,) = (g for g in groups if g["kind"] == kind and g["dtype"] == dtype)
            row, moved = group["contenders"]["detent"], group["bytes_moved"] / group["bytes_needed"]
            axis.barh(place, row["gb_per_s"] * moved, color="#cfdff5", height=0.7, label="bytes moved")
            axis.barh(place, row["gb_per_s"], color="#1f5fbf", height=0.7, label="bytes needed")
            axis.text(row["gb_per_s"] * moved, place, f" {row['copy_fraction']:.0%}", va="center", fontsize=8)
        copies = [
            2 * group["mib"] * 2**20 / group["contenders"]["copy"]["median_us"] / 1e3
            for group in groups if group["dtype"] == dtype
        ]  # fmt: skip
        axis.axvline(statistics.median(copies), color="#c7511f", label="y.copy_(x), median of the groups")
        axis.set_yticks(range(len(kinds)), [kind.removeprefix("family: ") for kind in kinds])
        axis.set_xlabel("GB/s = bytes / median time")
        axis.set_title(f"{dtype}, {_size(groups[0]['mib'])}")
    axes[0][0].invert_yaxis()
    handles = dict(zip(*reversed(axes[0][0].get_legend_handles_labels())))
    figure.legend(handles.values(), handles, loc="lower center", ncols=3)
    title = "Roofline of every family, per tensor; in percent: bytes needed over those of y.copy_(x) in the same loop"
    figure.suptitle(f"{title}\n{_title(report)}", fontsize=10)
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    return figure


def _networks(plt, report: dict):
    """Time of all quantizers of a network over the unit's."""
    rows = report["networks"]["sums"]
    if not rows:
        return None
    figure, axes = plt.subplots(1, 3, figsize=(12, 4))
    for axis, (kind, unit) in zip(axes, _UNITS.items()):
        chosen = [row for row in rows if row["kind"] == kind]
        taking_part = {name for row in chosen for name in row["contenders"]} - {"unit", "copy"}
        names = [name for name in COLORS if name in taking_part]
        width = 0.8 / len(names)
        for number, name in enumerate(names):
            there = [(place, row["contenders"][name]) for place, row in enumerate(chosen) if name in row["contenders"]]
            places = [place - 0.4 + width * (number + 0.5) for place, _ in there]
            bars = axis.bar(places, [row["ratio"] for _, row in there], width, color=COLORS[name], label=name)
            axis.bar_label(bars, [f"{row['ratio']:.2g}" for _, row in there], fontsize=7, padding=1)
        axis.axhline(1, color=COLORS["unit"], label="unit")
        axis.set_yscale("log")
        axis.set_yticks([0.5, 1, 2, 5, 10, 20, 50], ["0.5", "1", "2", "5", "10", "20", "50"])
        axis.minorticks_off()
        axis.set_xticks(range(len(chosen)), [row["network"] for row in chosen], rotation=15)
        axis.set_title(kind)
        axis.set_ylabel(f"time / {unit} (log scale)")
        axis.grid(visible=False, axis="x")
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels())}
    figure.legend(handles.values(), handles, loc="lower center", ncols=len(handles))
    figure.suptitle(f"All tensors that a network's quantizers round, summed\n{_title(report)}", fontsize=10)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    return figure


def write(report: dict, path: Path) -> None:
    """Write the plots of a report that is at ``path``, as ``<its name>_<plot>.svg``, and say so."""
    try:
        import matplotlib
    except ImportError as error:
        print(f"no plots: {error}")
        return
    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    with plt.rc_context(_STYLE):
        figures = {
            "sweep_float32": _sweep(plt, report, "float32"),
            "sweep_bfloat16": _sweep(plt, report, "bfloat16"),
            "roofline": _roofline(plt, report),
            "networks": _networks(plt, report),
        }
        for name, figure in figures.items():
            if figure is not None:
                target = path.with_name(f"{path.stem}_{name}.svg")
                figure.savefig(target, metadata={"Date": None})
                plt.close(figure)
                print(f"wrote {os.path.relpath(target)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", type=Path, nargs="+", help="what benchmarks/run.py wrote")
    for path in parser.parse_args().json:
        write(json.loads(path.read_text()), path)
