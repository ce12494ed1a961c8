"""What a step of quantization-aware training costs over the float model's: time, and bytes saved for backward.

    python benchmarks/step.py [--models resnet20 ...] [--how eager ...] [--device cpu|cuda] [--threads N] [--quick]
                              [--out DIR]

A step is forward, backward and SGD with momentum, at W8A8. Ranges are fixed (activations stay, weights follow),
learned, or LSQ's; "compressed" is with ``detent.qat.compress_saved_tensors``. Eager, compiled as one graph, and
captured in a CUDA graph, each beside the float model treated alike; the contenders of a group take turns.
"""

from __future__ import annotations

import argparse
import copy
import gc
import time
from collections.abc import Callable
from pathlib import Path

import fixed_malloc

if __name__ == "__main__":
    fixed_malloc.ensure()  # before the seconds that importing torch takes

import torch
from grids import inputs_off_grid
from harness import Contender, Effort, Group, environment, measure, reason, show, write_report
from models import MobileNetV2, ResNet20
from torch import Tensor, nn

from detent import QuantizationSimModel, qat

HERE = Path(__file__).resolve().parent
FLOAT = "unit"
HOW = ("eager", "compiled", "captured")
WAYS = {"fixed": "min_max", "learned": "training_range_learning_with_tf_init", "LSQ": "min_max"}
#: Bytes that a step saves, over float's: the most that it should.
GOALS = {"time": 1.10, "bytes, fixed": 1.1, "bytes, learned": 1.35, "bytes, LSQ": 1.35}


def encoder() -> nn.Module:
    return nn.TransformerEncoderLayer(256, 4, 1024, batch_first=True)


#: How to build each, the shape of a batch, and that of ``--quick``.
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = {
    "resnet20": (ResNet20, (128, 3, 32, 32), (4, 3, 32, 32)),
    "mobilenet_v2": (MobileNetV2, (16, 3, 96, 96), (2, 3, 32, 32)),
    "encoder": (encoder, (8, 128, 256), (2, 16, 256)),
}


class Step:
    """One step of ``model``, whose bytes and time are asked for."""

    def __init__(self, model: nn.Module, x: Tensor):
        self.model, self.x = model, x
        self.optimizer = torch.optim.SGD(model.parameters(), 1e-4, momentum=0.9)

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        self.model(self.x).square().mean().backward()
        self.optimizer.step()

    def saved(self) -> int:
        """Bytes that a forward leaves with autograd."""
        return qat.saved_bytes(self.model, self.x).total

    def compiled(self) -> Step:
        return Step(torch.compile(self.model, fullgraph=True), self.x)

    def captured(self) -> Callable[[], None]:
        """The step as one CUDA graph."""
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self()
        return graph.replay


def simulated(model: nn.Module, x: Tensor, way: str) -> QuantizationSimModel:
    sim = QuantizationSimModel(model, x, WAYS[way])
    if way == "LSQ":
        qat.use_lsq(sim)
    sim.compute_encodings(lambda model: model(x))
    sim.model.train()
    return sim


def steps(model: nn.Module, x: Tensor, compressed: bool) -> dict[str, Step]:
    made = {FLOAT: Step(copy.deepcopy(model), x)}
    for way in WAYS:
        made[way] = Step(simulated(model, x, way).model, x)
        if compressed:
            sim = simulated(model, x, way)
            qat.compress_saved_tensors(sim)
            made[f"{way}, compressed"] = Step(sim.model, x)
    return made


def quantizers(model: nn.Module, x: Tensor) -> dict[str, int | list[str]]:
    """How many there are, and which inputs of products are on no grid: none should be."""
    sim = simulated(model, x, "fixed")
    sim.model.eval()
    count = sum(1 for _ in sim.quantizers())
    with torch.no_grad():
        off, seen = inputs_off_grid(sim.model, lambda: sim.model(x))
    return {"quantizers": count, "products": seen, "off_grid": off}


def contenders(how: str, made: dict[str, Step]) -> tuple[dict[str, Contender], dict[str, int]]:
    """What to time, and the bytes each saves."""
    calls: dict[str, Contender] = {}
    saved: dict[str, int] = {}
    for name, step in made.items():
        try:
            if how == "captured":
                calls[name] = step.captured()
                continue
            calls[name] = step if how == "eager" else step.compiled()
            saved[name] = calls[name].saved()
        except Exception as error:  # a compiler may be missing
            calls[name] = reason(error)
    return calls, saved


def run(name: str, how: str, device: str, effort: Effort, quick: bool) -> dict | str:
    """One group with ``saved_bytes`` by contender, or why there is none."""
    if how == "captured" and device != "cuda":
        return f"CUDA graphs need --device cuda, this is {device}"
    build, *shapes = MODELS[name]
    torch.manual_seed(0)
    model, x = build().to(device).train(), torch.randn(shapes[quick], device=device)
    group = Group(f"step of {name}", how, x.dtype, tuple(x.shape), "the float model", 0)
    group.contenders, saved = contenders(how, steps(model, x, compressed=how == "eager"))
    if isinstance(group.contenders[FLOAT], str):
        return group.contenders[FLOAT]
    result = measure(group, device, effort)
    result["saved_bytes"] = saved
    result["saved_ratio"] = {contender: count / saved[FLOAT] for contender, count in saved.items()}
    return result


def table(name: str, how: str, result: dict) -> list[str]:
    """Lines of Markdown."""
    lines = []
    for contender, row in result["contenders"].items():
        if contender != FLOAT:
            saved = result["saved_ratio"].get(contender)
            bytes_ = "-" if saved is None else f"{saved:.2f}"
            lines.append(f"| {name}, {how} | {contender} | {row['ratio']:.2f} | {row['ratio_cpu']:.2f} | {bytes_} |")
    return lines


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: 2)")
    parser.add_argument("--how", nargs="+", choices=HOW, default=HOW, help="compiling takes minutes (default: all)")
    parser.add_argument("--quick", action="store_true", help="small batches, few rounds: shows that all of it runs")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder for the JSON (default: benchmarks/out)")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    torch.set_num_threads(options.threads)
    begin = time.monotonic()
    report = {"schema": 1, "quick": options.quick, "goals": GOALS, "environment": environment(options.device)}
    report["groups"], report["missing"], report["quantizers"] = [], {}, {}
    effort = Effort(0.5, 2, 3, 0.0) if options.quick else Effort(8.0, 5, 15, 0.0)
    lines = ["| model | ranges | time / float | CPU time / float | saved bytes / float |", "| --- " * 5 + "|"]
    for name in options.models:
        build, *shapes = MODELS[name]
        torch.manual_seed(0)
        found = report["quantizers"][name] = quantizers(build(), torch.randn(shapes[options.quick]))
        print(f"\n{name}: {found['quantizers']} quantizers; of {found['products']} inputs of products "
              f"{len(found['off_grid'])} on no grid {found['off_grid'][:4] or ''}")  # fmt: skip
        for how in options.how:
            result = run(name, how, options.device, effort, options.quick)
            gc.collect()
            torch.compiler.reset()
            if isinstance(result, str):
                report["missing"][f"{name}, {how}"] = result
                print(f"\nstep of {name}, {how}: skipped, {result}")
                continue
            report["groups"].append(result)
            show(result)
            lines += table(name, how, result)
    print("\n" + "\n".join(lines) + f"\n\ngoals: {GOALS}")
    write_report(report, options.out, f"step_{options.device}", begin)


if __name__ == "__main__":
    main()
