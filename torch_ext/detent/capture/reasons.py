"""Why tensors are float: what the policy said when the simulation was built, and what was changed since."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import nn

from ..nn.base import entries, holder
from .graph import Event
from .mode import place

__all__ = ["EXCLUDED", "FOLDED", "OFF", "Reasons", "within"]

EXCLUDED, FOLDED, OFF = "excluded by an override", "folded into the layer before", "off in the configuration"


@dataclass
class Reasons:
    """Filled by :func:`detent.capture.install`, and by whatever removes quantizers later.

    ``outputs`` and ``inputs`` are by key of the event and slot, ``ends`` has the last event of the group that an event
    is inside of, ``params`` and ``removed`` are by name of the module and slot as a report calls it.
    """

    outputs: dict[tuple, str] = field(default_factory=dict)
    inputs: dict[tuple[tuple, int], str] = field(default_factory=dict)
    ends: dict[tuple, Event] = field(default_factory=dict)
    params: dict[tuple[str, str], str] = field(default_factory=dict)
    placed: set[tuple[str, str]] = field(default_factory=set)
    removed: dict[tuple[str, str], str] = field(default_factory=dict)
    excluded: set[str] = field(default_factory=set)  # names of modules and call sites

    def note_placed(self, model: nn.Module) -> None:
        for path, module in model.named_modules():
            self.placed |= {(path, f"{slot} {key}") for slot, key, _ in entries(module)}

    def remove(self, path: str, slot: str, key: str, why: str) -> None:
        """Note that a quantizer was taken out of a module."""
        self.removed[path, f"{slot} {key}"] = why

    def of(self, path: str, slot: str, key: str, event: Event | None, modules: Mapping[str, nn.Module]) -> str | None:
        """Why there is no quantizer; ``None`` where nobody expects one, at an input that is on a grid say."""
        name = path, f"{slot} {key}"
        expected = name in self.placed
        said = self.params.get((path, key)) if slot == "param" else None
        if event is not None and slot == "input":
            said = self.inputs.get((event.key, int(key)))
        elif event is not None and (slot, key) == ("output", "0"):
            said = self._of_output(event, modules)
        if (expected or said) and within(path, self.excluded):
            return "excluded"
        return self.removed.get(name, "removed") if expected else said

    def _of_output(self, event: Event, modules: Mapping[str, nn.Module]) -> str | None:
        said, end = self.outputs.get(event.key), self.ends.get(event.key)
        if end is None or said is None:
            return said
        at = place(modules.get(end.path), end)
        quantizer = holder(modules[at], "output").get("0") if at in modules else None
        rounded = quantizer is not None and quantizer.enabled
        return f"{said}, rounded at {at}" if rounded else f"{said}, whose end {at} is float"


def within(path: str, others: Collection[str]) -> bool:
    """Whether a name is one of ``others``, or inside of one."""
    return any(above in ("", path) or path.startswith(f"{above}.") for above in others)
