"""How times are taken: all contenders of a group round-robin in one loop, so that other load hits all of them alike."""

from __future__ import annotations

import datetime
import gc
import json
import os
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import fixed_malloc
import torch

ROOT = Path(__file__).resolve().parent.parent

#: A function to time, or the reason why this contender is not here.
Contender = Callable[[], object] | str


@dataclass
class Group:
    """Contenders that do the same work on the same data.

    ``needed``: bytes of what must be read once and written once; 0 where time does not follow from bytes. ``moved``:
    the bytes that ours reads and writes in the passes it makes. A contender "copy" is a copy of ``x`` into memory that
    is there. ``about`` is written beside the result.
    """

    kind: str
    granularity: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    unit: str
    needed: int
    moved: int | None = None
    contenders: dict[str, Contender] = field(default_factory=dict)
    about: dict[str, object] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


@dataclass
class Effort:
    """``budget_s`` of rounds per group, but at least ``min_rounds``; one sample calls for at least ``sample_s``."""

    budget_s: float
    min_rounds: int
    max_rounds: int
    sample_s: float


def reason(error: Exception) -> str:
    """The first line of an error, without this machine's folders."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}".replace(str(ROOT), ".").replace(str(Path.home()), "~")


def seconds(call: Callable[[], object], count: int, device: str) -> tuple[float, float]:
    """Seconds per call of ``count`` calls in a row: by the clock (CUDA: by events), and CPU time of this process."""
    begin_cpu = time.process_time_ns()
    if device == "cuda":
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        for _ in range(count):
            call()
        end.record()
        end.synchronize()
        total = start.elapsed_time(end) / 1e3
    else:
        begin = time.perf_counter_ns()
        for _ in range(count):
            call()
        total = (time.perf_counter_ns() - begin) / 1e9
    return total / count, (time.process_time_ns() - begin_cpu) / 1e9 / count


def _calls_per_sample(call: Callable[[], object], device: str, sample_s: float) -> int:
    """Warm up, then as many calls as fill one sample."""
    call()
    again = seconds(call, 1, device)[0]
    if again >= sample_s:
        return 1
    return max(1, min(1000, round(sample_s / min(seconds(call, 1, device)[0] for _ in range(3)))))


def measure(group: Group, device: str, effort: Effort) -> dict:
    """Times of a group as a plain dict: per contender median, best and CPU time, each also as a ratio to ``unit``."""
    counts: dict[str, int] = {}
    missing: dict[str, str] = {}
    for name, call in group.contenders.items():
        if isinstance(call, str):
            missing[name] = call
            continue
        try:
            counts[name] = _calls_per_sample(call, device, effort.sample_s)
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            missing[name] = reason(error)
    samples: dict[str, list[tuple[float, float]]] = {name: [] for name in counts}
    order, shuffle = list(counts), random.Random(0).shuffle
    gc.collect()
    gc.disable()
    try:
        end = time.monotonic() + effort.budget_s
        rounds = 0
        while rounds < effort.min_rounds or (rounds < effort.max_rounds and time.monotonic() < end):
            shuffle(order)  # nobody always runs behind the same neighbour, with what that one left in the caches
            for name in order:
                samples[name].append(seconds(group.contenders[name], counts[name], device))
            rounds += 1
    finally:
        gc.enable()
    return {
        **group.about,
        "kind": group.kind,
        "granularity": group.granularity,
        "dtype": str(group.dtype).removeprefix("torch."),
        "shape": list(group.shape),
        "mib": group.bytes / 2**20,
        "unit": group.unit,
        "bytes_needed": group.needed,
        "bytes_moved": group.needed if group.moved is None else group.moved,
        "rounds": rounds,
        "contenders": _summary(samples, group),
        "missing": missing,
    }


def _summary(samples: dict[str, list[tuple[float, float]]], group: Group) -> dict[str, dict[str, float]]:
    middle = {name: statistics.median(wall for wall, _ in times) for name, times in samples.items()}
    best = {name: min(wall for wall, _ in times) for name, times in samples.items()}
    cpu = {name: statistics.median(cpu for _, cpu in times) for name, times in samples.items()}
    result = {}
    for name in samples:
        row = {
            "ratio": middle[name] / middle["unit"],
            "ratio_best": best[name] / best["unit"],
            "ratio_cpu": cpu[name] / cpu["unit"],
            "median_us": middle[name] * 1e6,
            "best_us": best[name] * 1e6,
            "cpu_us": cpu[name] * 1e6,
        }
        if group.needed:
            row["gb_per_s"] = group.needed / middle[name] / 1e9
            if "copy" in samples:
                row["copy_fraction"] = group.needed / (2 * group.bytes) * middle["copy"] / middle[name]
        result[name] = {key: float(f"{number:.5g}") for key, number in row.items()}
    return result


def show(result: dict) -> None:
    """Print one group."""
    shape = "x".join(map(str, result["shape"]))
    print(f"\n{result['kind']}, {result['granularity']}, {result['dtype']} [{shape}], {result['rounds']} rounds; "
          f"1 = {result['unit']}, {result['contenders']['unit']['median_us']:.1f} us")  # fmt: skip
    print(f"  {'':<34}{'median':>8}{'best':>8}{'CPU':>8}{'us':>12}{'GB/s' if result['bytes_needed'] else '':>8}")
    for name, row in result["contenders"].items():
        ratios = "".join(f"{row[key]:8.2f}" for key in ("ratio", "ratio_best", "ratio_cpu"))
        speed = f"{row['gb_per_s']:8.2f}" if "gb_per_s" in row else ""
        fraction = f"{row['copy_fraction']:8.0%} of copy" if "copy_fraction" in row else ""
        print(f"  {name:<34}{ratios}{row['median_us']:12.1f}{speed}{fraction}")
    for name, why in result["missing"].items():
        print(f"  {name:<34}       -  {why}")


def free_bytes(device: str) -> int:
    """Memory that a run may take."""
    if device == "cuda":
        return torch.cuda.mem_get_info()[0]
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError):
        return 4 << 30


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def environment(device: str) -> dict:
    """What ran, and on what."""
    import detent

    info = {key: value.replace(str(ROOT), ".") for key, value in detent.build_info().items()}
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name() if device == "cuda" else _cpu_model(),
        "cpu": _cpu_model(),
        "cpu_cores": os.cpu_count(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "threads": torch.get_num_threads(),
        "commit": _git("rev-parse", "HEAD"),
        "uncommitted_changes": bool(_git("status", "--porcelain")),
        "build_info": info,
        "malloc": {name: os.environ.get(name, "") for name in fixed_malloc.SETTINGS},
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else [],
    }


def write_report(report: dict, folder: Path, title: str, begin: float) -> Path:
    """Write a run, which began at ``time.monotonic()`` of ``begin``, to ``<title>_<date>_<commit>.json``; say where."""
    report["seconds"] = round(time.monotonic() - begin, 1)
    folder.mkdir(parents=True, exist_ok=True)
    stamp = report["environment"]["date"][:19].replace(":", "").replace("-", "")
    path = folder / f"{title}_{stamp}_{report['environment']['commit'][:9] or 'nocommit'}.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\n{report['seconds']} s; wrote {os.path.relpath(path)}")
    return path
