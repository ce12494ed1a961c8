"""What simulating costs beside the arithmetic: torchvision's MobileNetV2, one image, in Python calls and microseconds.

The image is small, so that the calls count and not the convolutions. "operators alone" are the fake-quantize operators
of that forward on the tensors they had: what a simulation takes beyond the float model and these is its overhead.
run.py has it among its groups. ``python overhead.py [--threads N] [--out FILE]`` prints it, and beside it how long the
simulation of torchvision's ResNet-50 takes to build from one image of 224x224.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from detent import QuantizationSimModel
from detent.quantizers import Quantizer
from harness import Effort, Group, environment, measure, reason, show
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import cases, versions

_SIZE = 32


class _Operators(TorchDispatchMode):
    """Keeps every call of a detent operator."""

    def __init__(self):
        super().__init__()
        self.calls: list[tuple[Any, tuple]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.namespace == "detent":
            self.calls.append((func, args))
        return func(*args, **(kwargs or {}))


def python_calls(call: Callable[[], Any]) -> int:
    """Calls of Python and C functions that Python makes in ``call()``."""
    count = 0

    def note(frame, event, argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def _model(name: str) -> nn.Module:
    torch.manual_seed(0)
    return next(case for case in cases("torchvision") if case.name == name).build().eval()


def _simulated(model: nn.Module, x: torch.Tensor) -> QuantizationSimModel:
    sim = QuantizationSimModel(model, x)
    sim.compute_encodings(lambda m: m(x))
    return sim


def run(device: str, quick: bool) -> dict | str:
    """One group with ``python_calls`` by contender, or why there is none."""
    try:
        model = _model("mobilenet_v2").to(device)
    except ImportError as error:
        return reason(error)
    x = torch.randn(1, 3, _SIZE, _SIZE, device=device)
    on, off = _simulated(model, x), _simulated(model, x)
    for quantizer in off.quantizers():
        quantizer.enabled = False

    def forward(net: nn.Module) -> Callable[[], Any]:
        def call():
            with torch.no_grad():
                return net(x)

        return call

    quantizers: list[tuple[Quantizer, torch.Tensor]] = []
    handles = [
        quantizer.register_forward_pre_hook(lambda quantizer, inputs: quantizers.append((quantizer, inputs[0])))
        for quantizer in on.quantizers()
    ]
    with torch.no_grad(), _Operators() as operators:
        on.model(x)
    for handle in handles:
        handle.remove()

    def operators_alone():
        with torch.no_grad():
            for operator, args in operators.calls:
                operator(*args)

    def quantizers_alone():
        with torch.no_grad():
            for quantizer, tensor in quantizers:
                quantizer(tensor)

    group = Group("MobileNetV2 forward", "per_channel_0", x.dtype, tuple(x.shape), "the float model", 0)
    group.contenders = {
        "unit": forward(model),
        "simulated, quantizers off": forward(off.model),
        "simulated": forward(on.model),
        f"its {len(quantizers)} quantizers alone": quantizers_alone,
        f"its {len(operators.calls)} operators alone": operators_alone,
    }
    result = measure(group, device, Effort(1.0 if quick else 5.0, 5 if quick else 31, 200, 0.01))
    result["python_calls"] = {name: python_calls(call) for name, call in group.contenders.items()}
    times = {name: row["median_us"] for name, row in result["contenders"].items()}
    simulated, operators_us = times["simulated"], times[f"its {len(operators.calls)} operators alone"]
    result["overhead_us"] = simulated - times["unit"] - operators_us
    return result


def construction(rounds: int = 7) -> dict[str, float]:
    """Seconds that one forward of the float ResNet-50 and building its simulation take, medians."""
    model, x = _model("resnet50"), torch.randn(1, 3, 224, 224)
    times: dict[str, list[float]] = {"forward_s": [], "build_s": []}
    with torch.no_grad():
        for _ in range(rounds):
            begin = time.perf_counter()
            model(x)
            middle = time.perf_counter()
            QuantizationSimModel(model, x)
            times["forward_s"].append(middle - begin)
            times["build_s"].append(time.perf_counter() - middle)
    return {name: statistics.median(values) for name, values in times.items()}


def show_overhead(result: dict | str) -> None:
    if isinstance(result, str):
        print(f"\nMobileNetV2 forward: skipped, {result}")
        return
    show(result)
    calls = ", ".join(f"{name} {count}" for name, count in result["python_calls"].items())
    print(f"  Python calls: {calls}\n  overhead of the simulation: {result['overhead_us']:.0f} us")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--out", type=Path, help="write JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    forward = run("cpu", quick=False)
    show_overhead(forward)
    built = {} if isinstance(forward, str) else construction()
    print(f"\nsimulation of ResNet-50: {built}")
    if options.out:
        report = {"environment": {**environment("cpu"), "versions": versions()}, "forward": forward, "resnet50": built}
        options.out.write_text(json.dumps(report, indent=1) + "\n")
