"""Targets, each beside what this run measured. They never fail a run: a busy machine misses them blamelessly."""

from __future__ import annotations

from collections.abc import Callable

#: The two parametrizations of one operator. A target holds where the slower one meets it.
OURS = ("detent fake_quantize", "detent fake_quantize_range")
_ATEN = ("aten fixed", "aten learnable")
_TIMES = {"median": "median_us", "best": "best_us", "cpu": "cpu_us"}
_Value = Callable[[dict[str, dict], str], "float | None"]


def _ours(row: dict[str, dict], time: str) -> float:
    return max(row[name][time] for name in OURS if name in row)


def _over(*rivals: str) -> _Value:
    """Ours over the fastest of ``rivals``."""

    def value(row: dict[str, dict], time: str) -> float | None:
        there = [row[name][time] for name in rivals if name in row]
        return _ours(row, time) / min(there) if there else None

    return value


def _ahead(*rivals: str) -> _Value:
    over = _over(*rivals)

    def value(row: dict[str, dict], time: str) -> float | None:
        ratio = over(row, time)
        return None if ratio is None else 1 / ratio

    return value


def _copy_fraction(tensors: int) -> _Value:
    return lambda row, time: tensors / 2 * row["copy"][time] / _ours(row, time)


def _where(group: dict) -> str:
    """Which group it is, of those with one goal."""
    size = f"{group['mib']:g} MiB" if group["mib"] >= 1 else f"{group['shape'][0]} elements"
    shape = "x".join(map(str, group["shape"]))
    return f"{group['granularity']}, {group['dtype']}, {size} [{shape}]"


def _goal(name: str, sign: str, target: float, groups: list[dict], value: _Value) -> dict:
    measured: dict[str, dict[str, float]] = {}
    for group in groups:
        numbers = {label: value(group["contenders"], time) for label, time in _TIMES.items()}
        if numbers["median"] is not None:
            met = numbers["median"] <= target if sign == "<=" else numbers["median"] >= target
            measured[_where(group)] = {**numbers, "met": met}
    met = sum(numbers["met"] for numbers in measured.values())
    result = ("met" if met == len(measured) else "not met") if measured else "not measured"
    return {
        "goal": name, "target": f"{sign} {target:g}", "measured": measured, "met": f"{met} of {len(measured)}",
        "result": result,
    }  # fmt: skip


def goals(groups: list[dict], device: str) -> list[dict]:
    """One entry per target; met where every size, shape, type and granularity that was measured meets it."""
    tensors = [group for group in groups if group.get("part") in ("sweep", "shapes")]

    def named(kind: str, mib: float = 1) -> list[dict]:
        return [group for group in tensors if group["kind"] == kind and group["mib"] >= mib]

    result = []
    if device == "cuda":
        for kind, target, count in (("forward", 0.90, 2), ("learned backward", 0.85, 3), ("fixed backward", 0.85, 2)):
            name = f"{kind}: fraction of copy bandwidth from 16 MiB up"
            result.append(_goal(name, ">=", target, named(kind, 16), _copy_fraction(count)))
        large = named("learned backward", 1024)
        result.append(_goal("ATen's learnable backward / ours at 1 GiB", ">=", 2.3, large, _ahead("aten learnable")))
    else:
        for kind, unit, target in (
            ("forward", "x.clone()", 1.1), ("fixed backward", "g.clone()", 1.15),
            ("learned backward", "torch.add(g, x)", 1.25),
        ):  # fmt: skip
            result.append(_goal(f"{kind} / {unit}", "<=", target, named(kind), _over("unit")))
        for kind, rivals in (("forward", _ATEN), ("learned backward", ("aten learnable",))):
            result.append(_goal(f"ATen's {kind} / ours", ">=", 10, named(kind), _ahead(*rivals)))
    steps = ("learned forward + backward", "fixed forward + backward")
    for kind in ("forward", "learned backward", "fixed backward", *steps):
        result.append(_goal(f"{kind} / compiled formula", "<=", 1, named(kind, 0), _over("formula, compiled")))
    for kind in ("fixed forward", "fixed forward + backward", "learned forward", "learned forward + backward"):
        chosen = [
            group for group in groups
            if group["kind"] == f"small, {kind}" and group["autograd"] == "C++" and 4 <= group["shape"][0] <= 4096
        ]  # fmt: skip
        result.append(_goal(f"4 to 4096 elements, {kind} / ATen", "<=", 1, chosen, _over("unit")))
    return result


def show(results: list[dict]) -> None:
    print("\ngoals: met or not by medians (best, CPU time beside them); cite full runs on an idle machine only")
    for goal in results:
        print(f"  {goal['goal']} {goal['target']}: {goal['result']} ({goal['met']})")
        for where, n in goal["measured"].items():
            mark = " " if n["met"] else "!"
            print(f"    {mark} {where:<58}{n['median']:8.2f}  (best {n['best']:.2f}, CPU {n['cpu']:.2f})")
