"""Simulates models of torchvision, timm and transformers as they are, and says of each whether all of it works.

python benchmarks/coverage.py [--family LIBRARY ...] [--only NAME ...] [--jobs N] [--out FILE]

Each model runs in a process of its own, with limits on time and memory. The exit status is 1 if a model failed.
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import multiprocessing.connection
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
import zoo
from coverage_checks import check
from harness import environment
from zoo.case import LIBRARIES

_fork = multiprocessing.get_context("fork")  # the child has the libraries imported already


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", nargs="+", choices=LIBRARIES, default=LIBRARIES, help="libraries (default: all)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="models with one of these in their names")
    parser.add_argument("--jobs", type=int, default=1, help="models at a time (default: 1)")
    parser.add_argument("--timeout", type=float, default=180, help="seconds of CPU a model may take (default: 180)")
    parser.add_argument("--memory", type=float, default=10, help="GiB of address space a model may take (default: 10)")
    parser.add_argument("--out", type=Path, help="write the table as JSON")
    return parser.parse_args()


def _cases(options: argparse.Namespace) -> tuple[list[zoo.Case], dict[str, str]]:
    """The models that were asked for, and which libraries are missing."""
    chosen, missing = [], {}
    for library in options.family:
        try:
            found = zoo.cases(library)
        except ImportError as error:
            missing[library] = str(error)
            continue
        chosen += [case for case in found if not options.only or any(part in case.title for part in options.only)]
    return chosen, missing


class _Running:
    """One model in a process of its own."""

    def __init__(self, case: zoo.Case, timeout: float, gib: float):
        self.case, self.end = case, time.monotonic() + 10 * timeout  # by the clock: one that waits for ever
        self.result, end = _fork.Pipe(duplex=False)
        self.process = _fork.Process(target=self._check, args=(end, timeout, gib))
        self.process.start()
        end.close()

    def _check(self, end, timeout: float, gib: float) -> None:
        for limit, value in ((resource.RLIMIT_CPU, timeout), (resource.RLIMIT_AS, gib * 2**30)):
            resource.setrlimit(limit, (int(value), int(value)))
        torch.set_num_threads(1)
        end.send(check(self.case))

    def row(self) -> dict[str, Any]:
        """The row that arrived, or one that says why none did."""
        try:
            row = self.result.recv() if self.result.poll() else None
            reason = "" if row else "out of time"
        except EOFError:
            self.process.join()
            code = self.process.exitcode
            row, reason = None, f"the process ended with {signal.Signals(-code).name if code < 0 else code}"
        if self.process.is_alive():
            self.process.kill() if row is None else self.process.join()
        case = self.case
        return row or {"library": case.library, "kind": case.kind, "name": case.name, "failures": [reason]}


def _rows(cases: list[zoo.Case], options: argparse.Namespace):
    """Rows as they come."""
    waiting, running = collections.deque(cases), []
    while waiting or running:
        while waiting and len(running) < options.jobs:
            running.append(_Running(waiting.popleft(), options.timeout, options.memory))
        left = min(one.end for one in running) - time.monotonic()
        ready = multiprocessing.connection.wait([one.result for one in running], max(left, 0))
        for one in list(running):
            if one.result in ready or time.monotonic() >= one.end:
                running.remove(one)
                yield one.row()


_COLUMNS = {"quantizers": 6, "used": 6, "products": 9, "off_grid": 9, "late": 5}


def _print(row: dict[str, Any]) -> None:
    numbers = "".join(f"{row.get(key, '-'):>{width}}" for key, width in _COLUMNS.items())
    seconds = row.get("seconds", {})
    unknown = len(row.get("unknown", ()))
    print(
        f"{row['library'] + '/' + row['name']:<52}{row['kind']:<20}{seconds.get('build', float('nan')):7.2f}"
        f"{sum(seconds.values()):8.1f}{numbers}{unknown:>8}  {'ok' if not row['failures'] else 'FAILED'}",
        flush=True,
    )
    for failure in row["failures"]:
        print(f"    {failure}", flush=True)


def _summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    unknown = collections.Counter(name for row in rows for name in row.get("unknown", ()))
    return {
        "models": len(rows),
        "passed": sum(not row["failures"] for row in rows),
        "by_library": {
            library: f"{sum(not r['failures'] for r in rows if r['library'] == library)} of "
            f"{sum(r['library'] == library for r in rows)}"
            for library in LIBRARIES
        },
        "inputs_looked_at": sum(row.get("products", 0) for row in rows),
        "inputs_on_no_grid": sum(row.get("off_grid", 0) for row in rows),
        "unknown_functions": dict(unknown.most_common()),
    }


def _write(path: Path, rows: list[dict[str, Any]], missing: dict[str, str], seconds: float) -> None:
    """What is known so far."""
    report = {
        "environment": {**environment("cpu"), "versions": zoo.versions()},
        "seconds": round(seconds),
        "missing": missing,
        **_summary(rows),
        "rows": sorted(rows, key=lambda row: (LIBRARIES.index(row["library"]), row["name"])),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def main() -> int:
    options = _options()
    torch.set_num_threads(1)
    begin = time.monotonic()
    cases, missing = _cases(options)
    for library, why in missing.items():
        print(f"{library}: skipped, {why}")
    head = ("quant", "used", "products", "off grid", "late")
    numbers = "".join(f"{name:>{width}}" for name, width in zip(head, _COLUMNS.values()))
    print(f"{'model':<52}{'kind':<20}{'build s':>7}{'all s':>8}{numbers}{'unknown':>8}")
    rows = []
    for row in _rows(cases, options):
        rows.append(row)
        _print(row)
        if options.out:
            _write(options.out, rows, missing, time.monotonic() - begin)
    summary = _summary(rows)
    print()
    for key, value in summary.items():
        print(f"{key.replace('_', ' ')}: {value}")
    print(f"{time.monotonic() - begin:.0f} s")
    return int(any(row["failures"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
