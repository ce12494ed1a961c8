"""What is known of one run of the sample: its calls, the tensors between them, who reads what."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from .functions import Operator
from .lines import Line

__all__ = ["MOVING", "POOLING", "Event", "Graph", "Read", "Value", "of_use"]

#: Leaf modules whose outputs hold only numbers of their inputs.
MOVING = (
    "MaxPool", "GlobalMaxPool", "MaxUnpool", "Flatten", "Reshape", "Dropout", "Identity", "Pad", "DepthToSpace",
    "SpaceToDepth", "ChannelShuffle", "Im2Col",
)  # fmt: skip
#: Those among them that leave numbers out: an input of the model is quantized before, as it comes.
POOLING = ("MaxPool", "GlobalMaxPool")


def of_use(use: int, name: str) -> str:
    return f"use_{use}.{name}" if use else name


@dataclass(eq=False)
class Value:
    """A tensor as its producer left it, followed through views."""

    producer: Event | None
    reads: list[Read] = field(default_factory=list)
    masking: bool = False  # holds infinities or numbers that stand for them
    constant: bool = False  # made of parameters, buffers, tensors that modules hold, and plain numbers alone
    nearest_zero: float = 1.0  # where a pole is at zero: its smallest magnitude over its span
    is_result: bool = False
    entered: bool = False  # was there before any function that was seen
    parameter: str | None = None  # full name of the parameter it is, or holds numbers of
    mover: Event | None = None  # the call that read that parameter to move its numbers
    axes_kept: bool = True  # whether the dimensions are where the parameter has them


@dataclass(eq=False)
class Read:
    event: Event
    slot: int
    value: Value | None  # None: made by nothing that was seen
    direct: bool  # not through a view
    shape: torch.Size
    overwritten: bool = False  # later, in place

    @property
    def alone(self) -> bool:
        """Whether nobody else reads, returns or keeps what is read here."""
        value = self.value
        made = value.producer is not None and not value.constant
        return made and len(value.reads) == 1 and not value.is_result and not self.event.reread


@dataclass(eq=False)
class Event:
    """One execution of a leaf module or of an operator."""

    path: str  # of the leaf, or of the module whose forward calls the operator
    site: str | None  # "add_0"; None for a leaf
    use: int  # which of the executions of the module at path it belongs to
    onnx_op: str
    operator: Operator | None = None
    reads: list[Read] = field(default_factory=list)
    output: Value | None = None  # the first of
    outputs: dict[int, Value] = field(default_factory=dict)  # by slot
    on_state: bool = False  # works in place on a buffer or parameter
    constant: bool = False  # of parameters, buffers and plain numbers alone
    integers: bool = False  # its output is not of a float type
    reread: bool = False  # what it wrote over is read again, by the name that it had before
    moment: int = 0  # the number of the call, among all that were seen
    caller: tuple[str, int] | None = None  # the module, and its use, whose forward calls it
    inside: int = 0  # how many torch.autograd.Functions run there
    activates: bool = False  # an activation that may be one pass with a sum
    held: bool = False  # its output, by somebody when the next call but one came

    @property
    def key(self) -> tuple:
        return self.path, self.site, self.use

    @property
    def site_name(self) -> str:
        """As :class:`detent.capture.mode.Capture` knows it."""
        return of_use(self.use, self.site)


@dataclass
class Graph:
    events: list[Event] = field(default_factory=list)
    uses: dict[str, dict[str, int]] = field(default_factory=dict)  # "<execution of the caller>:<count>" -> use
    callers: dict[str, set[str]] = field(default_factory=dict)  # module -> who calls it
    calls: dict[str, int] = field(default_factory=dict)  # module -> executions
    unknown: dict[str, set[str]] = field(default_factory=dict)  # module -> functions nobody knows
    lines: dict[str, dict[tuple[str, Line], list[str]]] = field(default_factory=dict)  # module -> Capture.lines
    returned: list[Value] = field(default_factory=list)  # by the model

    def __getstate__(self) -> dict:
        """Copied and pickled as a list of nodes that are linked by number: by reference they are nested as deeply as
        the model is long, which is more than Python's stack holds."""
        nodes, numbers = [], {}

        def flat(value):
            if isinstance(value, _NODES):
                if id(value) not in numbers:
                    numbers[id(value)] = _Number(len(nodes))
                    nodes.append(value)
                return numbers[id(value)]
            if isinstance(value, list):
                return [flat(item) for item in value]
            return {key: flat(item) for key, item in value.items()} if isinstance(value, dict) else value

        state = flat(vars(self))
        return {"graph": state, "nodes": [(type(node), flat(vars(node))) for node in nodes]}  # more of them on the way

    def __setstate__(self, state: dict) -> None:
        nodes = [kind.__new__(kind) for kind, _ in state["nodes"]]

        def linked(value):
            if isinstance(value, _Number):
                return nodes[value.number]
            if isinstance(value, list):
                return [linked(item) for item in value]
            return {key: linked(item) for key, item in value.items()} if isinstance(value, dict) else value

        for node, (_, fields) in zip(nodes, state["nodes"]):
            vars(node).update(linked(fields))
        vars(self).update(linked(state["graph"]))


_NODES = (Event, Read, Value)


@dataclass(frozen=True)
class _Number:
    """Stands for a node."""

    number: int
