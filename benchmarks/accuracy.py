"""What the accuracy benchmarks share: the ways of training at W4A4, the rows of a seed, the table and its file."""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from detent import QuantizationSimModel, qat
from harness import environment

BITS = 4
FLOAT, FLOAT_ON, CALIBRATED = "float", "float, trained on", "calibrated"
WAYS = ("ranges follow", "ranges learned", "LSQ", "LSQ+", "PACT")


def simulated(model: nn.Module, way: str, images: Tensor) -> QuantizationSimModel:
    """``model`` at W4A4, calibrated with ``images``: by extremes, LSQ and LSQ+ as published."""
    scheme = "training_range_learning_with_tf_init" if way == "ranges learned" else "min_max"
    sim = QuantizationSimModel(model, images[:1], scheme, default_output_bw=BITS, default_param_bw=BITS)
    if way.startswith("LSQ"):
        qat.use_lsq(sim, initialization=way.lower())
    sim.compute_encodings(lambda model: model(images))
    if way == "PACT":
        qat.use_pact(sim)
    return sim


def groups(model: nn.Module, lr: float, range_lr: float | None, weight_decay: float) -> list[dict]:
    """Parameter groups; PACT's bounds decay like weights, as published."""
    options = dict(lr=lr, range_lr=range_lr, weight_decay=weight_decay)
    made = qat.parameter_groups(model, **options)
    if any(group["name"] == "pact" for group in made):
        made = qat.parameter_groups(model, **options, range_weight_decay=weight_decay)
    return made


def rows_of_seed(
    seed: int,
    model: nn.Module,
    images: Tensor,
    train: Callable[[nn.Module], None],
    accuracy: Callable[[nn.Module], float],
) -> dict[str, float]:
    """Test accuracy, %, of every row; ``train`` shows each network the same batches."""
    rows, networks = {FLOAT: accuracy(model)}, {FLOAT_ON: copy.deepcopy(model)}
    for way in WAYS:
        networks[way] = simulated(model, way, images).model
    rows[CALIBRATED] = accuracy(networks[WAYS[0]])
    for name, network in networks.items():
        started = time.perf_counter()
        train(network)
        rows[name] = accuracy(network)
        print(f"  seed {seed}, {name}: {rows[name]:.2f} % after {time.perf_counter() - started:.0f} s", flush=True)
    return rows


def table(title: str, rows: dict[str, list[float]], seeds: list[int]) -> str:
    """Markdown."""
    heads = " | ".join(f"seed {seed}" for seed in seeds)
    lines = [f"| {title} | {heads} | mean |", "| --- " * (len(seeds) + 2) + "|"]
    for name, values in rows.items():
        label = name if name.startswith("float") else f"W{BITS}A{BITS}, {name}"
        cells = " | ".join(f"{value:.2f}" for value in values)
        lines.append(f"| {label} | {cells} | {statistics.mean(values):.2f} |")
    return "\n".join(lines)


def run(name: str, title: str, one_seed: Callable[[int], dict[str, float]], settings: dict) -> None:
    """Print the table of all seeds; write it, the settings and the machine to ``settings["out"]`` after each."""
    started, machine, rows, seeds = time.perf_counter(), environment("cpu"), {}, []
    folder: Path = settings.pop("out")
    folder.mkdir(parents=True, exist_ok=True)
    for seed in settings["seeds"]:
        for row, value in one_seed(seed).items():
            rows.setdefault(row, []).append(value)
        seeds.append(seed)
        seconds = time.perf_counter() - started
        result = {
            "settings": {**settings, "seeds": seeds},
            "environment": machine,
            "seconds": seconds,
            "accuracy": rows,
        }
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    print("\n" + table(title, rows, seeds))
    print(f"{seconds:.0f} s; {name}.json written")
