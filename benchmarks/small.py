"""Small tensors, where the call costs more than the work: one learned fake_quantize against ATen's, in microseconds.

Batches of calls alternate, short ones, so that most run without an interruption. ``python small.py`` prints JSON:
run.py measures the gradients registered from Python (``DETENT_PYTHON_AUTOGRAD=1``) in such a process of their own.
"""

from __future__ import annotations

import argparse
import json

import torch
from detent import build_info, functional
from harness import Effort, Group, measure

SIZES = (1, 16, 4096)
QMIN, QMAX = -128, 127


def _group(size: int, device: str, backward: bool) -> Group:
    x = torch.randn(size, device=device)
    grad = torch.ones_like(x)
    affine = tuple(torch.tensor([value], device=device) for value in (0.02, 3.0))
    ends = tuple(torch.tensor([value], device=device) for value in (-2.5, 2.5))
    # Not Python's cost of calling torch.ops but ours: the same ATen operator through the same door.
    learnable = torch.ops.aten._fake_quantize_learnable_per_tensor_affine
    functions = {
        "unit": (torch._fake_quantize_learnable_per_tensor_affine, affine, (QMIN, QMAX, 1.0), {}),
        "aten learnable through torch.ops": (learnable, affine, (QMIN, QMAX, 1.0), {}),
        "detent fake_quantize": (functional.fake_quantize, affine, (), {"qmin": QMIN, "qmax": QMAX}),
        "detent fake_quantize, torch.ops": (torch.ops.detent.fake_quantize, affine, (QMIN, QMAX), {}),
        "detent fake_quantize_range": (functional.fake_quantize_range, ends, (), {"qmin": QMIN, "qmax": QMAX}),
    }
    kind = "small, learned forward + backward" if backward else "small, learned forward"
    unit = "torch._fake_quantize_learnable_per_tensor_affine"
    group = Group(kind, "per_tensor", x.dtype, (size,), unit, 5 if backward else 2)
    for name, (function, encodings, plain, named) in functions.items():
        # Forward alone also builds the graph: this is training.
        leaves = tuple(tensor.clone().requires_grad_() for tensor in (x, *encodings))
        group.contenders[name] = _call(function, leaves, plain, named, grad if backward else None)
    group.contenders["x.clone()"] = x.clone
    return group


def _call(function, leaves, plain, named, grad):
    if grad is None:
        return lambda: function(*leaves, *plain, **named)
    return lambda: torch.autograd.grad(function(*leaves, *plain, **named), leaves, grad)


def run(device: str, quick: bool) -> list[dict]:
    effort = Effort(budget_s=0.15, min_rounds=11, max_rounds=500, sample_s=2e-4) if quick else (
        Effort(budget_s=2.0, min_rounds=101, max_rounds=2000, sample_s=3e-4)
    )  # fmt: skip
    results = []
    for size in SIZES:
        for backward in (False, True):
            result = measure(_group(size, device, backward), device, effort)
            results.append({**result, "autograd": build_info()["autograd"]})
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps(run(options.device, options.quick)))
