"""Chains of operators that a device runs as one, found in the recorded dataflow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from ..config import Config
from .graph import Event, Graph

__all__ = ["PASSES", "Fusions", "names_of", "only_reader"]

_ALSO = {"Gemm": ("MatMul",), "GlobalAveragePool": ("AveragePool",), "ReduceMean": ("Mean",)}
_FOLDED_INTO = ("Conv", "ConvTranspose", "Gemm")

_SQUARED = [[square, "ReduceMean", "Add"] for square in ("Pow", "Square", "Mul")]
_ROOTS = [["Rsqrt", "Mul"], ["Sqrt", "Div"], ["Sqrt", "Reciprocal", "Mul"]]
_RMS = [[*head, *tail] for head in _SQUARED for tail in _ROOTS]
#: Normalizations that are written out: the longest form first.
PASSES = {
    "RMSNormalization": [[*chain, *tail] for tail in (["Mul"], []) for chain in _RMS],
    "LayerNormalization": [
        ["ReduceMean", "Sub", *chain, *tail] for tail in (["Mul", "Add"], ["Mul"], []) for chain in _RMS
    ],
}


def names_of(onnx_op: str) -> tuple[str, ...]:
    """Names by which a configuration may call an operator, the most particular last."""
    return (*_ALSO.get(onnx_op, ()), onnx_op)


@dataclass
class Fusions:
    """Which operators run as one.

    ``inner``: by key of those whose output stays inside, what the group is called; ``last``: for their keys the
    operator whose output leaves;
    ``pairs``: keys of producer and reader inside one group; ``folded``: batch norms that go into the layer before.
    """

    inner: dict[tuple, str] = field(default_factory=dict)
    last: dict[tuple, Event] = field(default_factory=dict)
    pairs: set[tuple[tuple, tuple]] = field(default_factory=set)
    folded: dict[tuple, Event] = field(default_factory=dict)

    @classmethod
    def find(
        cls,
        graph: Graph,
        modules: Mapping[str, nn.Module],
        config: Config,
        excluded: Callable[[Event], bool],
        can_quantize: Callable[[Event], bool],
    ) -> Fusions:
        """``excluded``: who may be no member; ``can_quantize``: whose output can be rounded, as the last one's is."""
        made = cls()

        def allowed(members: Sequence[Event]) -> bool:
            return can_quantize(members[-1]) and not any(map(excluded, members))

        for event in graph.events:
            after = only_reader(event)
            if after is not None and _folds(event, after, modules) and not (excluded(event) or excluded(after)):
                made._add([event, after], f"[{event.onnx_op}, {after.onnx_op}]")
                made.folded[after.key] = event
        groups = [group.op_list for group in config.supergroups]
        for event in graph.events:
            for op_list in groups:
                members = made._chain(event, op_list)
                if members is not None and allowed(members):
                    made._add(members, f"[{', '.join(op_list)}]")
            for name in config.supergroup_pass_list:
                region = next(_regions(event, PASSES.get(name, ())), None)
                if region is not None and allowed(region):
                    made._add(region, name)
        return made

    def _add(self, members: Sequence[Event], title: str) -> None:
        self.pairs |= {(a.key, b.key) for a in members for b in members if a is not b}
        for member in members[:-1]:
            self.inner[member.key] = title
            self.last[member.key] = members[-1]

    def _chain(self, first: Event, op_list: Sequence[str]) -> list[Event] | None:
        """The members of a chain that begins here; batch norms that are folded away do not count."""
        if op_list[0] not in names_of(first.onnx_op):
            return None
        members = [first]
        for op in op_list[1:]:
            after = only_reader(members[-1])
            if after is not None and after.key in self.folded and op != "BatchNormalization":
                members.append(after)
                after = only_reader(after)
            if after is None or op not in names_of(after.onnx_op):
                return None
            members.append(after)
        return members


def only_reader(event: Event) -> Event | None:
    """Who alone takes the very output of ``event``."""
    value = event.output
    if value is None or value.is_result or len(value.reads) != 1 or not value.reads[0].direct:
        return None
    return value.reads[0].event


def _folds(layer: Event, norm: Event, modules: Mapping[str, nn.Module]) -> bool:
    if layer.onnx_op not in _FOLDED_INTO or norm.onnx_op != "BatchNormalization":
        return False
    if layer.site is not None or norm.site is not None:
        return True
    linear = isinstance(modules[layer.path], nn.Linear)  # whose channels are those of the norm on matrices only
    return modules[norm.path].running_mean is not None and (not linear or len(norm.reads[0].shape) == 2)


def _regions(first: Event, chains: Iterable[Sequence[str]]) -> Iterator[list[Event]]:
    """Operators along one of ``chains`` from ``first`` on, where nobody else reads what is inside."""
    for chain in chains:
        for path in _paths(first, chain):
            keys = {event.key for event in path}
            inside = [event.output for event in path[:-1]]
            if all(not v.is_result and all(read.event.key in keys for read in v.reads) for v in inside):
                yield path


def _paths(event: Event, chain: Sequence[str]) -> Iterator[list[Event]]:
    if event.onnx_op != chain[0]:
        return
    if len(chain) == 1:
        yield [event]
        return
    readers = {read.event.key: read.event for read in (event.output.reads if event.output else ())}
    for reader in readers.values():
        for rest in _paths(reader, chain[1:]):
            yield [event, *rest]
