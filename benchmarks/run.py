"""Times detent against ATen, the formula in Python and torch.compile, as ratios to a copy of the same bytes.

python benchmarks/run.py [--out DIR] [--quick] [--device cpu|cuda] [--threads N]
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import fixed_malloc

if __name__ == "__main__":
    fixed_malloc.ensure()  # before the seconds that importing torch takes

import contenders
import goals
import overhead
import small
import torch
import torch._inductor.config
from harness import Effort, Group, environment, measure, show, write_report

HERE = Path(__file__).resolve().parent


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder for the JSON (default: benchmarks/out)")
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds: shows that all of it runs")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where torch has it")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options = parser.parse_args()
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch.cuda.is_available() is False, expected True. Use --device cpu.")
    return options


def _groups(device: str, quick: bool) -> Iterator[tuple[Group, bool]]:
    """Groups in order, each built when it is its turn; the flag marks those that get more rounds."""
    usual = contenders.QUICK_SHAPE if quick else contenders.SHAPE

    def data(granularity: str, dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = usual) -> contenders.Data:
        return contenders.dataset(granularity, device, dtype, shape)

    for granularity in ("per_tensor", "per_channel_1") if quick else (
        "per_tensor", "per_channel_1", "per_channel_0", "per_block"
    ):  # fmt: skip
        compile = not quick or granularity == "per_tensor"
        for build in (contenders.forward, contenders.learned_backward):
            yield from ((group, True) for group in build(data(granularity), compile))
    for granularity in ("per_tensor",) if quick else ("per_tensor", "per_channel_1"):
        yield from ((group, False) for group in contenders.fixed_backward(data(granularity), not quick))
        yield from ((group, False) for group in contenders.observe(data(granularity)))
        yield from ((group, False) for group in contenders.activation(data(granularity)))
    yield from ((group, False) for group in contenders.integers(data("per_tensor"), not quick))
    for dtype in (torch.bfloat16,) if quick else (torch.bfloat16, torch.float16):
        for build in (contenders.forward, contenders.learned_backward):
            yield from ((group, False) for group in build(data("per_tensor", dtype), not quick))
        yield from ((group, False) for group in contenders.activation(data("per_tensor", dtype)))
    kib = {
        ("cpu", True): (4, 1 << 10), ("cpu", False): (4, 64, 1 << 10, 4 << 10, 16 << 10, 64 << 10),
        ("cuda", True): (1 << 10, 16 << 10),
        ("cuda", False): tuple(mib << 10 for mib in (1, 4, 16, 64, 256, 1024)),
    }[device, quick]  # fmt: skip
    for size in kib:
        sized = data("per_tensor", shape=(size * 256,))
        yield from ((group, False) for group in contenders.sweep(sized, device == "cuda" and not quick))


def _small_with_python_autograd(options: argparse.Namespace) -> list[dict] | str:
    command = [sys.executable, str(HERE / "small.py"), "--device", options.device, "--threads", str(options.threads)]
    child = {**os.environ, "DETENT_PYTHON_AUTOGRAD": "1"}
    done = subprocess.run(command + ["--quick"] * options.quick, env=child, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout)
    return (done.stderr.strip().splitlines() or ["no message"])[-1].replace(str(HERE.parent), ".")


def main() -> None:
    options = _options()
    torch.set_num_threads(options.threads)
    # A precompiled header costs a quarter of a minute first and pays from the fourth kernel on.
    torch._inductor.config.cpp_cache_precompile_headers = not options.quick
    warnings.filterwarnings("ignore", message=".*quantized tensor creation functions.*")
    begin = time.monotonic()
    report = {"schema": 1, "quick": options.quick, "device": options.device, "environment": environment(options.device)}
    for key, value in report["environment"].items():
        print(f"{key}: {value}")
    sample_s = 2e-4 if options.device == "cpu" else 2e-3
    much, some = (0.3, 0.15) if options.quick else (2.5, 1.0)
    results: list[dict] = []

    def take(result: dict) -> None:
        results.append(result)
        show(result)
        sys.stdout.flush()

    for group, main_group in _groups(options.device, options.quick):
        effort = Effort(much if main_group else some, 3 if options.quick else 7, 200, sample_s)
        take(measure(group, options.device, effort))
        group.contenders.clear()
        gc.collect()
    for result in small.run(options.device, options.quick):
        take(result)
    fallback = _small_with_python_autograd(options)
    if isinstance(fallback, str):
        print(f"\nsmall tensors with gradients from Python: {fallback}")
        report["python_autograd_missing"] = fallback
    else:
        print("\nthe same with gradients from Python (DETENT_PYTHON_AUTOGRAD=1)")
        for result in fallback:
            take(result)

    forward = overhead.run(options.device, options.quick)
    overhead.show_overhead(forward)
    if isinstance(forward, str):
        report["overhead_missing"] = forward
    else:
        results.append(forward)

    report["groups"] = results
    report["goals"] = goals.goals(results, options.device)
    goals.show(report["goals"])
    report["environment"]["load_average_after"] = list(os.getloadavg()) if hasattr(os, "getloadavg") else []
    write_report(report, options.out, options.device, begin)


if __name__ == "__main__":
    main()
