"""What a step of quantization-aware training costs over the float model's: time, and bytes saved for backward.

    python benchmarks/step.py [--models resnet20 ...] [--how eager ...] [--device cpu|cuda] [--threads N] [--quick]
                              [--out DIR]

A step is forward, backward and SGD with momentum, at W8A8. Ranges are fixed (activations stay, weights follow),
learned, or LSQ's; "compressed" is with ``detent.qat.compress_saved_tensors``. "ATen" is the same simulation with
torch's operators in the quantizers' place, "formula" with the formula written out. Eager, compiled as one graph, and
captured in a CUDA graph, each beside the float model treated alike; the contenders of a group take turns.
"""

from __future__ import annotations

import argparse
import copy
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import fixed_malloc

if __name__ == "__main__":
    fixed_malloc.ensure()  # before the seconds that importing torch takes

import rivals
import torch
from grids import inputs_off_grid
from harness import Contender, Effort, Group, environment, measure, reason, show, write_report
from models import LlamaBlock, MobileNetV2, ResNet20, ResNet50, VisionTransformer
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


def llama() -> nn.Module:
    """A layer of Llama 3.2 1B: nine contenders of 8B's would take 20 GiB."""
    return LlamaBlock(2048, 8192, 32, 8)


@dataclass(frozen=True)
class Case:
    """How to build a model and the shape of its batch; then both for ``--quick``."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...]
    quick_build: Callable[[], nn.Module]
    quick_shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32

    def made(self, quick: bool, device: str = "cpu") -> tuple[nn.Module, Tensor]:
        torch.manual_seed(0)
        build, shape = (self.quick_build, self.quick_shape) if quick else (self.build, self.shape)
        return build().to(device, self.dtype).train(), torch.randn(shape, device=device, dtype=self.dtype)


def _small_llama() -> nn.Module:
    return LlamaBlock(64, 128, 4, 2, 16)


CASES = {
    "resnet20": Case(ResNet20, (128, 3, 32, 32), ResNet20, (4, 3, 32, 32)),
    "resnet50": Case(ResNet50, (4, 3, 160, 160), ResNet50, (2, 3, 32, 32)),
    "mobilenet_v2": Case(MobileNetV2, (16, 3, 96, 96), MobileNetV2, (2, 3, 32, 32)),
    "vit_b": Case(VisionTransformer, (1, 3, 224, 224), lambda: VisionTransformer(32, 64, 2, 2), (2, 3, 32, 32)),
    "encoder": Case(encoder, (8, 128, 256), encoder, (2, 16, 256)),
    "llama": Case(llama, (1, 128, 2048), _small_llama, (1, 16, 64)),
    "llama_bf16": Case(llama, (1, 128, 2048), _small_llama, (1, 16, 64), torch.bfloat16),
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


def steps(model: nn.Module, x: Tensor, how: str) -> dict[str, Step | str]:
    """The float model, ours, and who does the same another way; or why one cannot be built."""

    def made(way: str, compressed: bool = False, rival: type | None = None) -> Step | str:
        try:
            sim = simulated(model, x, way)
            if compressed:
                qat.compress_saved_tensors(sim)
            if rival is not None:
                rivals.replace(sim, rival)
            return Step(sim.model, x)
        except RuntimeError as error:
            return reason(error)

    found = {FLOAT: Step(copy.deepcopy(model), x)}
    if how == "compiled":  # minutes each; LSQ calls the operator of learned ranges
        return found | {"fixed": made("fixed"), "learned": made("learned")} | {
            "learned, formula": made("learned", rival=rivals.Formula)
        }  # fmt: skip
    found |= {way: made(way) for way in WAYS}
    if how == "eager":
        found |= {f"{way}, compressed": made(way, compressed=True) for way in WAYS}
    return found | {f"{way}, ATen": made(way, rival=rivals.Aten) for way in ("fixed", "learned")}


def quantizers(model: nn.Module, x: Tensor) -> dict[str, int | list[str]]:
    """How many there are, and which inputs of products are on no grid: none should be."""
    sim = simulated(model, x, "fixed")
    sim.model.eval()
    count = sum(1 for _ in sim.quantizers())
    with torch.no_grad():
        off, seen = inputs_off_grid(sim.model, lambda: sim.model(x))
    return {"quantizers": count, "products": seen, "off_grid": off}


def contenders(how: str, made: dict[str, Step | str]) -> tuple[dict[str, Contender], dict[str, int]]:
    """What to time, and the bytes each saves."""
    calls: dict[str, Contender] = {}
    saved: dict[str, int] = {}
    for name, step in made.items():
        if isinstance(step, str):
            calls[name] = step
            continue
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
    model, x = CASES[name].made(quick, device)
    group = Group(f"step of {name}", how, x.dtype, tuple(x.shape), "the float model", 0)
    group.contenders, saved = contenders(how, steps(model, x, how))
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
    parser.add_argument("--models", nargs="+", choices=CASES, default=list(CASES))
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
        found = report["quantizers"][name] = quantizers(*CASES[name].made(options.quick))
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
