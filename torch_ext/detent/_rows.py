"""The rows of a summary: from a simulation's quantizers as they are, and from the reasons of what has none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from ._report import Row, Step, Summary
from .capture import CallSite, Reasons, float_class, place
from .capture.graph import Event, Graph
from .capture.mode import Captured
from .capture.reasons import FOLDED, OFF
from .nn import QuantizedModule
from .nn.base import Use, holder
from .quantizers import Quantizer

__all__ = ["summarize"]


def summarize(model: nn.Module, graph: Graph, reasons: Reasons) -> Summary:
    """One row per quantizer, and one per tensor that has none where one could be, with the reason."""
    modules = dict(model.named_modules())
    steps = [_step(event, modules.get(event.path)) for event in graph.events]
    events: dict[str, Event] = {}
    for step, event in zip(steps, graph.events):
        events.setdefault("" if step.layer == "(model)" else step.layer, event)
    rows, float_parameters = [], Counter()
    for path, module in modules.items():
        kind = _kind(path, module, model)
        slots = list(_slots(path, module, events.get(path), graph, reasons, modules))
        float_parameters.update(slot[3] for slot in slots if _by_default(slot))
        rows += _of_module(path, kind, [slot for slot in slots if not _by_default(slot)], graph)
        if isinstance(module, Captured):
            rows += _unknown(path, module, graph)
    for path, event in events.items():
        if path not in modules and event.operator is not None:
            why = reasons.of(path, "output", "0", event, modules)
            rows.append(_float(path, event.operator.name, None, why or "on the grids of what it reads"))
    return Summary(_as_run(rows, steps), steps, float_parameters)


_Slot = tuple[str, str, Quantizer | None, str]  # "param", "weight", its quantizer or why there is none


def _slots(
    path: str, module: nn.Module, event: Event | None, graph: Graph, reasons: Reasons, modules: Mapping[str, nn.Module]
) -> Iterator[_Slot]:
    reached = path in graph.calls or not isinstance(module, QuantizedModule)
    for slot in ("input", "param", "output"):
        for key, quantizer in holder(module, slot).items():
            if quantizer is not None:
                yield slot, key, quantizer, ""
            elif slot != "param" or getattr(module, key, None) is not None:
                why = reasons.of(path, slot, key, event, modules)
                if why is None and slot == "output" and not reached:
                    why = "did not run with the sample"
                if why is not None:
                    yield slot, key, None, why


def _by_default(slot: _Slot) -> bool:
    """Whether a parameter is float as the configuration has it, which goes without a row."""
    return slot[0] == "param" and slot[3] in (OFF, FOLDED)


def _of_module(path: str, kind: str, slots: list[_Slot], graph: Graph) -> Iterator[Row]:
    name, whys = path or "(model)", {why for _, _, _, why in slots}
    if len(whys) == 1 and "" not in whys:
        yield _float(name, kind, None, whys.pop())
        return
    for slot, key, quantizer, why in slots:
        if quantizer is None:
            yield _float(name, kind, f"{slot} {key}", why)
        else:
            yield _row(name, kind, f"{slot} {key}", quantizer, _shared(path, slot, graph))


def _as_run(rows: list[Row], steps: list[Step]) -> list[Row]:
    """Rows in the order of execution: a module before what is inside it, one that did not run where it stands."""
    order: dict[str, float] = {}
    for number, step in enumerate(steps):
        order.setdefault(step.layer, number)
        above = step.layer
        while above:
            above = above.rpartition(".")[0]
            order.setdefault(above or "(model)", number - 0.5)
    keys, last = [], -1.0
    for row in rows:
        last = order.get(row.layer, last)
        keys.append(last)
    return [row for _, row in sorted(zip(keys, rows), key=lambda pair: pair[0])]


def _step(event: Event, module: nn.Module | None) -> Step:
    reads = [id(read.value) for read in event.reads if not read.value.constant]
    layer = place(module, event) or "(model)"
    return Step(layer, reads, None if event.output is None else id(event.output))


def _kind(path: str, module: nn.Module, model: nn.Module) -> str:
    if isinstance(module, CallSite):
        return module.function
    if isinstance(module, Use):
        module = model.get_submodule(path.rpartition(".")[0])
    made = float_class(type(module))
    return (nn.Linear if made is NonDynamicallyQuantizableLinear else made).__name__  # torch's own, in attention


def _shared(path: str, slot: str, graph: Graph) -> int:
    """How often an activation meets one quantizer in one pass."""
    uses = max(1, len(graph.uses.get(path, ())))
    return graph.calls.get(path, 0) - uses + 1 if slot != "param" else 1


def _row(name: str, kind: str, slot: str, quantizer: Quantizer, calls: int) -> Row:
    low = high = None
    if quantizer.scaled and quantizer.is_initialized():
        low, high = (end.detach().cpu().flatten() for end in (quantizer.get_min(), quantizer.get_max()))
    return Row(name, kind, slot, quantizer, low, high, _note(quantizer, calls))


def _note(quantizer: Quantizer, calls: int) -> str:
    if not quantizer.enabled:
        return "off"
    if quantizer._unseen:
        return "saw no data in calibration: passes float"
    if not quantizer.is_initialized():
        return "not calibrated yet"
    if calls > 1:
        return f"runs {calls} times in one pass, on one range"
    return ""


def _float(name: str, kind: str, slot: str | None, reason: str) -> Row:
    on_grid = reason.startswith(("inside ", "keeps the grid", "on the grid"))
    return Row(name, kind, slot, None, None, None, reason if on_grid else f"float: {reason}")


def _unknown(path: str, module: Captured, graph: Graph) -> Iterator[Row]:
    """Calls that the sample did not make, and functions nobody knows."""
    for call in module._detent.late:
        name = f"{path}.{call}" if path else call
        yield _float(name, call.partition(" (")[0].rpartition(".")[2], None, "did not run with the sample")
    for function in sorted(graph.unknown.get(path, ())):
        yield _float(path or "(model)", function, None, "not an operator that is known")
