"""Small tensors, where the call costs more than the work: one fake_quantize against ATen's, in microseconds.

Batches of calls alternate, short ones, so that most run without an interruption. ``python small.py`` prints JSON:
run.py measures the gradients registered from Python (``DETENT_PYTHON_AUTOGRAD=1``) in such a process of their own.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable

import torch
from detent import build_info, functional
from harness import Effort, Group, measure
from torch import Tensor

SIZES = (1, 4, 16, 256, 4096)
QMIN, QMAX = -128, 127


def _functions(device: str, learned: bool) -> dict[str, tuple[Callable, tuple[Tensor, ...], tuple, dict]]:
    """What is called: a function, its encodings, further arguments and named ones."""
    affine = tuple(torch.tensor([value], device=device) for value in (0.02, 3.0))
    ends = tuple(torch.tensor([value], device=device) for value in (-2.5, 2.5))
    grid, named = (QMIN, QMAX), {"qmin": QMIN, "qmax": QMAX}
    ours = {
        "detent fake_quantize": (functional.fake_quantize, affine, (), named),
        "detent fake_quantize, torch.ops": (torch.ops.detent.fake_quantize, affine, grid, {}),
        "detent fake_quantize_range": (functional.fake_quantize_range, ends, (), named),
    }
    if learned:
        # Not Python's cost of calling torch.ops but ours: the same ATen operator through the same door.
        through_ops = torch.ops.aten._fake_quantize_learnable_per_tensor_affine
        return {
            "unit": (torch._fake_quantize_learnable_per_tensor_affine, affine, (*grid, 1.0), {}),
            "aten learnable through torch.ops": (through_ops, affine, (*grid, 1.0), {}),
            **ours,
        }
    # Python's numbers are ATen's fastest way; a range that calibration has found is held in tensors.
    in_tensors = (affine[0], affine[1].int())
    return {
        "unit": (torch.fake_quantize_per_tensor_affine, (), (0.02, 3, *grid), {}),
        "aten fixed, encoding in tensors": (torch.fake_quantize_per_tensor_affine, in_tensors, grid, {}),
        **ours,
    }


def _group(size: int, device: str, learned: bool, backward: bool) -> Group:
    x = torch.randn(size, device=device)
    grad = torch.ones_like(x) if backward else None
    kind = f"small, {'learned' if learned else 'fixed'} forward{' + backward' * backward}"
    functions = _functions(device, learned)
    group = Group(kind, "per_tensor", x.dtype, (size,), f"torch.{functions['unit'][0].__name__}", 0)
    for name, (function, encodings, plain, named) in functions.items():
        # Forward alone also builds the graph: this is training.
        leaf = x.clone().requires_grad_()
        held = [tensor.clone().requires_grad_(learned) for tensor in encodings]
        arguments, wanted = (leaf, *held), (leaf, *held) if learned else (leaf,)
        group.contenders[name] = _call(function, arguments, wanted, plain, named, grad)
    group.contenders["x.clone()"] = x.clone
    return group


def _call(function, arguments, wanted, plain, named, grad):
    if grad is None:
        return lambda: function(*arguments, *plain, **named)
    return lambda: torch.autograd.grad(function(*arguments, *plain, **named), wanted, grad)


def run(device: str, quick: bool) -> list[dict]:
    effort = Effort(budget_s=0.05, min_rounds=11, max_rounds=500, sample_s=2e-4) if quick else (
        Effort(budget_s=1.0, min_rounds=101, max_rounds=2000, sample_s=3e-4)
    )  # fmt: skip
    results = []
    for size, learned, backward in itertools.product(SIZES, (False, True), (False, True)):
        group = _group(size, device, learned, backward)
        group.about = {"autograd": build_info()["autograd"]}
        results.append(measure(group, device, effort))
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps(run(options.device, options.quick)))
