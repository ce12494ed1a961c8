"""Targets, each beside what this run measured. They never fail a run: a busy machine misses them blamelessly."""

from __future__ import annotations

from collections.abc import Callable

OURS = "detent fake_quantize"
_ATEN = ("aten fixed", "aten learnable")
_TIMES = {"median": "median_us", "best": "best_us", "cpu": "cpu_us"}


def _over_unit(row: dict[str, dict], time: str) -> float:
    return row[OURS][time] / row["unit"][time]


def _copy_fraction(moves: int) -> Callable[[dict, str], float]:
    return lambda row, time: moves / 2 * row["copy"][time] / row[OURS][time]


def _over_compiled(row: dict[str, dict], time: str) -> float | None:
    return row[OURS][time] / row["formula, compiled"][time] if "formula, compiled" in row else None


def _ahead_of_aten(row: dict[str, dict], time: str) -> float | None:
    rivals = [row[name][time] for name in _ATEN if name in row]
    return min(rivals) / row[OURS][time] if rivals else None


def _goal(name: str, sign: str, target: float, groups: list[dict], value: Callable[[dict, str], float | None]) -> dict:
    measured: dict[str, dict[str, float]] = {}
    for group in groups:
        numbers = {label: value(group["contenders"], time) for label, time in _TIMES.items()}
        if numbers["median"] is not None:
            size = f"{group['mib']:g} MiB" if group["mib"] >= 1 else f"{group['shape'][0]} elements"
            measured[f"{group['granularity']}, {size}"] = numbers
    medians = [numbers["median"] for numbers in measured.values()]
    met = all(n <= target if sign == "<=" else n >= target for n in medians)
    result = ("met" if met else "not met") if medians else "not measured"
    return {"goal": name, "target": f"{sign} {target:g}", "measured": measured, "result": result}


def goals(groups: list[dict], device: str) -> list[dict]:
    """One entry per target; met where every measured granularity or size meets it."""

    def named(kind: str, **fields) -> list[dict]:
        return [g for g in groups if g["kind"] == kind and all(g[key] == value for key, value in fields.items())]

    forward = named("forward", dtype="float32")
    alone = named("learned backward alone", dtype="float32")
    both = named("learned forward + backward", dtype="float32")
    one = [g for g in named("small, learned forward + backward", shape=[1]) if g["autograd"] == "C++"]
    result = []
    if device == "cuda":
        large = [g for g in groups if g["kind"].startswith("sweep") and g["mib"] >= 16]
        for kind, target, moves in (("sweep, forward", 0.90, 2), ("sweep, learned backward alone", 0.85, 3)):
            chosen = [g for g in large if g["kind"] == kind]
            name = f"{kind.removeprefix('sweep, ')}: fraction of copy bandwidth from 16 MiB up"
            result.append(_goal(name, ">=", target, chosen, _copy_fraction(moves)))
    else:
        result.append(_goal("forward / x.clone()", "<=", 1.2, forward, _over_unit))
        result.append(_goal("learned backward / torch.add(g, x)", "<=", 1.5, alone, _over_unit))
    result.append(_goal("ATen's faster forward / forward", ">=", 8, forward, _ahead_of_aten))
    for kind, chosen in (("forward", forward), ("learned forward + backward", both)):
        result.append(_goal(f"{kind} / compiled formula", "<=", 1, chosen, _over_compiled))
    result.append(_goal("1 element, learned forward + backward / ATen", "<=", 1.25, one, _over_unit))
    return result


def show(results: list[dict]) -> None:
    print("\ngoals: met or not by medians (best, CPU time beside them); cite full runs on an idle machine only")
    for goal in results:
        print(f"  {goal['goal']} {goal['target']}: {goal['result']}")
        for where, n in goal["measured"].items():
            print(f"      {where:<28}{n['median']:8.2f}  (best {n['best']:.2f}, CPU {n['cpu']:.2f})")
