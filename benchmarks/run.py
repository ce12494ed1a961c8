"""Times detent against ATen, the formula in Python and torch.compile, as ratios to a copy of the same bytes.

python benchmarks/run.py [--parts PART ...] [--out DIR] [--quick] [--device cpu|cuda] [--threads N]
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
import families
import goals
import networks
import overhead
import plot
import small
import torch
import torch._inductor.config
from harness import Effort, Group, environment, free_bytes, measure, show, write_report

HERE = Path(__file__).resolve().parent
PARTS = ("sweep", "shapes", "families", "networks", "small", "overhead")
KINDS = (contenders.forward, contenders.learned_backward, contenders.fixed_backward)

#: Bytes of x. The formula is compiled for some of them: each takes seconds.
SIZES = tuple(kib << 10 for kib in (4, 64, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20))
QUICK_SIZES = (4 << 10, 1 << 20)
COMPILED_SIZES = (1 << 20, 16 << 20, 256 << 20)
#: On the CPU ATen, which takes ten to twenty times as long, is beside tensors of up to this.
ATEN_BYTES = 64 << 20
#: Memory that the contenders of one group take together, in sizes of x.
HELD = 12

#: Shapes that are harder than the sweep's: few long channels, short ones, single elements, depthwise and large weights.
SHAPES = (
    ("per_channel_1", (1, 3, 1024, 1024)), ("per_channel_1", (64, 1280, 7, 7)), ("per_channel_1", (2048, 2048, 1, 1)),
    ("per_channel_0", (1024, 4096)), ("per_channel_0", (1 << 19, 1, 3, 3)), ("per_block", (1024, 11008)),
)  # fmt: skip
QUICK_SHAPES = (("per_channel_1", (64, 64, 7, 7)),)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="default: all")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="for JSON and plots (default: benchmarks/out)")
    parser.add_argument("--quick", action="store_true", help="fewer cases and rounds: shows that all of it runs")
    parser.add_argument("--device", choices=["cpu", "cuda"], help="default: cuda where torch has it")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options = parser.parse_args()
    options.device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch.cuda.is_available() is False, expected True. Use --device cpu.")
    return options


def _of_size(granularity: str, elements: int) -> tuple[int, ...]:
    if granularity == "per_tensor":
        return (elements,)
    if granularity == "per_block":
        return (elements // 1024, 1024)
    inner = min(1024, elements // 32)
    return (elements // (32 * inner), 32, inner)


def _sweep(device: str, quick: bool, left_out: list[str]) -> Iterator[Group]:
    """Three granularities and two types over sizes."""
    for size in QUICK_SIZES if quick else SIZES:
        if HELD * size > free_bytes(device):
            left_out.append(f"sweep of {size >> 20} MiB: {HELD} times that, expected free, are not")
            continue
        for dtype in (torch.float32, torch.bfloat16):
            if quick and dtype != torch.float32 and size > QUICK_SIZES[0]:
                continue
            if size > 256 << 20 and dtype != torch.float32 and device == "cpu":
                left_out.append(f"sweep of {size >> 20} MiB, {dtype}: takes minutes on the CPU")
                continue
            for granularity in ("per_tensor", "per_channel_1", "per_block"):
                wanted = {
                    "aten": device == "cuda" or size <= ATEN_BYTES,
                    "compile": size in COMPILED_SIZES and (not quick or granularity == "per_tensor"),
                }
                data = contenders.dataset(
                    granularity, device, dtype, _of_size(granularity, size // dtype.itemsize), **wanted
                )
                yield from (kind(data) for kind in KINDS)


def _shapes(device: str, quick: bool) -> Iterator[Group]:
    """Hard shapes; then 16 MiB by forward and backward together, also in float16."""
    for granularity, shape in QUICK_SHAPES if quick else SHAPES:
        data = contenders.dataset(granularity, device, torch.float32, shape, compile=not quick)
        yield from (kind(data) for kind in KINDS)
    elements = 1 << (17 if quick else 22)
    for granularity in ("per_tensor",) if quick else ("per_tensor", "per_channel_1", "per_block"):
        shape = _of_size(granularity, elements)
        data = contenders.dataset(granularity, device, torch.float32, shape, compile=not quick, eager=True)
        yield from (kind(data) for kind in (contenders.learned_step, contenders.fixed_step))
    half = contenders.dataset("per_tensor", device, torch.float16, (elements,), compile=not quick)
    yield from (kind(half) for kind in KINDS)


def _groups(options: argparse.Namespace, left_out: list[str]) -> Iterator[Group]:
    """Groups in order, each built when it is its turn."""
    parts = {
        "sweep": lambda: _sweep(options.device, options.quick, left_out),
        "shapes": lambda: _shapes(options.device, options.quick),
        "families": lambda: families.groups(options.device, options.quick),
        "networks": lambda: networks.groups(options.device, options.quick),
    }
    for name, groups in parts.items():
        if name in options.parts:
            for group in groups():
                group.about["part"] = name
                yield group


def _effort(group: Group, device: str, quick: bool) -> Effort:
    sample_s = 2e-4 if device == "cpu" else 2e-3
    if quick:
        return Effort(0.02, 3, 50, sample_s)
    if group.about["part"] == "networks":
        return Effort(0.1, 3, 100, sample_s)
    return Effort(0.6, 7 if group.bytes <= ATEN_BYTES else 3, 200, sample_s)


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
    report = {"schema": 2, "quick": options.quick, "device": options.device, "parts": list(options.parts)}
    report["environment"] = environment(options.device)
    report["seconds_by_part"], report["left_out"] = {}, []
    for key, value in report["environment"].items():
        print(f"{key}: {value}")
    results: list[dict] = []
    gc.freeze()  # torch's own objects need no looking at before each group

    def take(result: dict) -> None:
        results.append(result)
        show(result)
        sys.stdout.flush()

    def note_time(part: str) -> None:
        """``part`` took what is in no part yet."""
        spent = time.monotonic() - begin - sum(report["seconds_by_part"].values())
        report["seconds_by_part"][part] = report["seconds_by_part"].get(part, 0.0) + spent

    for group in _groups(options, report["left_out"]):
        take(measure(group, options.device, _effort(group, options.device, options.quick)))
        note_time(group.about["part"])
        group.contenders.clear()
    if "small" in options.parts:
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
        note_time("small")
    if "overhead" in options.parts:
        forward = overhead.run(options.device, options.quick)
        overhead.show_overhead(forward)
        if isinstance(forward, str):
            report["overhead_missing"] = forward
        else:
            results.append(forward)
        note_time("overhead")

    report["groups"] = [result for result in results if "network" not in result]
    report["networks"] = networks.summary([result for result in results if "network" in result])
    tables = {
        "families, per tensor": families.table([result for result in results if result.get("part") == "families"]),
        "all quantizers of a network": networks.table(report["networks"]["sums"]),
    }
    for title, lines in tables.items():
        if len(lines) > 2:
            print(f"\n{title}\n\n" + "\n".join(lines))
    for line in report["left_out"]:
        print(f"left out: {line}")
    report["goals"] = goals.goals(results, options.device)
    goals.show(report["goals"])
    report["environment"]["load_average_after"] = list(os.getloadavg()) if hasattr(os, "getloadavg") else []
    path = write_report(report, options.out, options.device, begin)
    plot.write(report, path)


if __name__ == "__main__":
    main()
