"""What simulating costs beside the arithmetic: torchvision's MobileNetV2, one image, in Python calls and microseconds.

The image is small, so that the calls count and not the convolutions. "operators alone" are the fake-quantize operators
of that forward on the tensors they had: what the simulation takes beyond the float model and these is its overhead.
``python overhead.py`` prints it; run.py has it among its groups.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from detent import QuantizationSimModel
from detent.quantizers import AffineQuantizer
from harness import Effort, Group, measure, reason, show
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from zoo import cases

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


def _simulated(model: nn.Module, x: torch.Tensor) -> QuantizationSimModel:
    sim = QuantizationSimModel(model, x)
    sim.compute_encodings(lambda m: m(x))
    return sim


def run(device: str, quick: bool) -> dict | str:
    """One group with ``python_calls`` by contender, or why there is none."""
    try:
        case = next(case for case in cases("torchvision") if case.name == "mobilenet_v2")
    except ImportError as error:
        return reason(error)
    torch.manual_seed(0)
    model, x = case.build().to(device).eval(), torch.randn(1, 3, _SIZE, _SIZE, device=device)
    on, off = _simulated(model, x), _simulated(model, x)
    for quantizer in off.quantizers():
        quantizer.enabled = False

    def forward(net: nn.Module) -> Callable[[], Any]:
        def call():
            with torch.no_grad():
                return net(x)

        return call

    quantizers: list[tuple[AffineQuantizer, torch.Tensor]] = []
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


def show_overhead(result: dict | str) -> None:
    if isinstance(result, str):
        print(f"\nMobileNetV2 forward: skipped, {result}")
        return
    show(result)
    calls = ", ".join(f"{name} {count}" for name, count in result["python_calls"].items())
    print(f"  Python calls: {calls}\n  overhead of the simulation: {result['overhead_us']:.0f} us")


if __name__ == "__main__":
    torch.set_num_threads(1)
    show_overhead(run("cpu", quick=False))
