"""What the configuration says of each tensor that the sample's dataflow has."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from ..config import Config, OpType
from ..config.overrides import NOTHING, Selected
from ..float_format import FloatFormat
from ..nn.table import SLOTS, is_leaf, outside_leaves
from .graph import MOVING, Event, Graph, Read, Value
from .kernels import Kernels
from .reasons import EXCLUDED, FOLDED, OFF, Reasons
from .spec import Spec, blocks, channels
from .supergroups import PASSES, Fusions, names_of

__all__ = ["Policy", "output_channels"]

_NEAR_ZERO = 1 / 16  # of the span, in the sample: other data may come closer


def output_channels(module: nn.Module) -> int:
    """The axis of a weight that has its output channels."""
    # A grouped transposed convolution has out / groups channels along axis 1, which its groups share.
    return 1 if isinstance(module, _ConvTransposeNd) else 0


def _role(name: str) -> str:
    """What configurations call a leaf's parameter: ``weight`` for ``weight_ih_l0``."""
    return next((role for role in ("weight", "bias") if name.startswith(f"{role}_")), name)


class Policy:
    """Answers with a :class:`Spec`, or ``None`` for what stays as it is.

    Args:
        graph, modules: The dataflow, and the float model's modules by name.
        config, selected: The settings, and what its overrides say of names.
        output_type, param_type: Bits of integers, or a float format, where no override says otherwise.
    Raises:
        ValueError: An override matches nothing, or does not fit a parameter.
    """

    def __init__(
        self,
        graph: Graph,
        modules: Mapping[str, nn.Module],
        config: Config,
        selected: Selected,
        output_type: int | FloatFormat,
        param_type: int | FloatFormat,
    ):
        self.graph, self.modules, self.config, self.selected = graph, modules, config, selected
        self.output_type, self.kernels = output_type, Kernels(config, output_type, param_type)
        selected.check(self._names())
        _warn_of_passes(config)
        self.fusions = Fusions.find(
            graph, modules, config, self._excluded, lambda event: self._cannot(event) is None
        )
        self.params = self._tied(dict(self._leaf_parameters()))
        self._weights = {path: spec for (path, _), spec in reversed(self.params.items()) if spec is not None}
        returned = {id(value) for value in graph.returned} if config.model_output.is_output_quantized else set()
        self.forced = {event.key for event in graph.events if id(event.output) in returned}
        self.reasons: dict[tuple, str] = {}
        for event in graph.events:
            reason = self._why_float(event)
            if reason is not None:
                self.reasons.setdefault(event.key, reason)
        self._check_blocks_of_functions()
        self.kernels.check(self._operators())

    def _names(self) -> Iterator[str]:
        for path, module in self.modules.items():
            yield path
            for name, _ in module.named_parameters(path, recurse=False):
                yield name
        yield from {_name(event) for event in self.graph.events if event.site is not None}

    def why(self) -> Reasons:
        """What is float, and why."""
        last, ends = self.fusions.last, {}
        for event in self.graph.events:
            end = event
            while end.key in last and end.key in self.fusions.inner:
                end = last[end.key]
            if end is not event:
                ends[event.key] = Event(*end.key, end.onnx_op)  # linked to no other: Graph.__getstate__
        inputs = {
            (event.key, read.slot): said for event in self.graph.events for read in event.reads
            if read.value.producer is None and not event.constant and (said := self._unfit(read.value)) is not None
        }  # fmt: skip
        params = {key: self._why_float_parameter(*key) for key, spec in self.params.items() if spec is None}
        return Reasons(self.reasons, inputs, ends, params)

    # --- outputs ------------------------------------------------------------------------------------------------------

    def _why_float(self, event: Event) -> str | None:
        cannot = self._cannot(event)
        if cannot is not None:
            return cannot
        if self._excluded(event):
            return EXCLUDED
        if event.key in self.fusions.inner:
            return f"inside {self.fusions.inner[event.key]}"
        return None if self._wants_output(event) else OFF

    def _cannot(self, event: Event) -> str | None:
        """Why no configuration quantizes an output."""
        if event.onnx_op in MOVING:
            return "keeps the grid of its input"
        if event.onnx_op == "Gather":
            return "on the grid of its weight"
        if event.constant:
            return "computed from constants alone"
        if event.output is None:
            return "makes no tensor of floats"
        return self._unfit(event.output) or ("changes a buffer or parameter" if event.on_state else None)

    def _loses(self, value: Value) -> bool:
        """Whether rounding may make zeros that something divides by."""
        step = 0.0 if isinstance(self.output_type, FloatFormat) else 1 / (2**self.output_type - 1)
        return value.nearest_zero < max(_NEAR_ZERO, step)

    def _wants_output(self, event: Event) -> bool:
        if event.key in self.forced:
            return True
        before = self.fusions.folded.get(event.key)
        if before is not None:
            return self._wants_output(before)
        return self._setting(event.onnx_op, "is_output_quantized", self.config.defaults.ops.is_output_quantized)

    def output(self, event: Event) -> Spec | None:
        return None if event.key in self.reasons else self.activation(_name(event), event.onnx_op, output=True)

    def on_grid(self, value: Value) -> bool:
        producer = value.producer
        if producer is None:
            return False
        if producer.onnx_op == "Gather":
            return self._table(producer) is not None
        if producer.onnx_op in MOVING:
            return any(self.input(read) for read in producer.reads)
        return producer.key not in self.reasons

    def _table(self, gather: Event) -> Spec | None:
        """Of the weight whose rows an embedding puts out."""
        if gather.site is None:
            return self.params.get((gather.path, "weight"))
        return None if gather.constant else self.function_parameter(gather.reads[0])

    # --- inputs -------------------------------------------------------------------------------------------------------

    def input(self, read: Read) -> Spec | None:
        """For a read of an activation: a quantizer of its own, where the configuration asks for one and where a
        quantized operator would take a tensor that is on no grid."""
        value, event = read.value, read.event
        if event.on_state or self._unfit(value) is not None or self._excluded(event):
            return None
        if event.onnx_op in MOVING:  # an input of the model, for those who read what it keeps
            readers = [reader.event for reader in event.output.reads] if event.output is not None else []
            return self.activation(event.path, event.onnx_op) if any(map(self.quantized, readers)) else None
        if event.operator is not None and event.operator.holds_parameter(read.slot):
            return None
        producer = value.producer
        if producer is not None and producer.key in self.reasons and (producer.key, event.key) in self.fusions.pairs:
            return None
        asked = self._setting(event.onnx_op, "is_input_quantized", False)
        if not asked and (self.on_grid(value) or not (self.quantized(event) or self._enters(value))):
            return None
        return self.activation(_name(event), event.onnx_op)

    def _unfit(self, value: Value) -> str | None:
        """Why no grid holds a tensor."""
        if value.masking:
            return "holds a mask's infinities"
        return "must not become zero, and some of it is near" if self._loses(value) else None

    def _enters(self, value: Value) -> bool:
        return value.entered and self.config.model_input.is_input_quantized

    def quantized(self, event: Event) -> bool:
        """Whether a device would run the operator on integers."""
        if self._excluded(event):
            return False
        if self._wants_output(event) or self._setting(event.onnx_op, "is_input_quantized", False):
            return True
        last = self.fusions.last.get(event.key)
        return self._has_parameters(event) or (last is not None and self.quantized(last))

    def _has_parameters(self, event: Event) -> bool:
        if event.site is None:
            return event.path in self._weights
        operator = event.operator
        return any(
            self.function_parameter(read) for read in event.reads
            if read.slot == operator.weight
            or (read.value.parameter is not None and not operator.holds_parameter(read.slot))
        )  # fmt: skip

    def unreached(self, path: str, onnx_op: str) -> tuple[Spec | None, Spec | None]:
        """Input and output of a layer that the sample does not reach."""
        if self.selected.of(path).quantized is False:
            return None, None
        spec = self.activation(path, onnx_op)
        out = self._setting(onnx_op, "is_output_quantized", self.config.defaults.ops.is_output_quantized)
        out = out and onnx_op != "Gather"  # whose output is on the grid of its weight
        weight = path in self._weights
        return (spec if out or weight else None), (self.activation(path, onnx_op, output=True) if out else None)

    def activation(self, name: str, onnx_op: str, output: bool = False) -> Spec:
        said, defaults = self.selected.of(name), self.config.defaults
        symmetric = self._setting(onnx_op, "is_symmetric", defaults.ops.is_symmetric)
        if said.output_symmetric is not None:
            symmetric = said.output_symmetric
        fixed = self._setting(onnx_op, "encoding_constraints", None) if output else None
        return Spec(
            said.output_bw or self.kernels.types(onnx_op)[0], symmetric, strict=defaults.strict_symmetric,
            unsigned=defaults.unsigned_symmetric, fixed=None if fixed is None else (fixed.min, fixed.max),
        )  # fmt: skip

    # --- parameters ---------------------------------------------------------------------------------------------------

    def _leaf_parameters(self) -> Iterator[tuple[tuple[str, str], Spec | None]]:
        folded = {event.path for event in self.graph.events if event.key in self.fusions.folded}
        for path, module in outside_leaves(self.modules).items():
            slots = SLOTS[type(module)] if is_leaf(module) else None
            for name in slots.params_of(module) if slots else ():
                parameter = getattr(module, name, None)
                if parameter is not None:
                    axis = output_channels(module)
                    spec = self.parameter(_join(path, name), _role(name), slots.onnx_op, parameter.shape, axis)
                    yield (path, name), None if path in folded else spec

    def _why_float_parameter(self, path: str, name: str) -> str:
        if any(event.path == path and event.key in self.fusions.folded for event in self.graph.events):
            return FOLDED
        return EXCLUDED if self.selected.of(_join(path, name)).quantized is False else OFF

    def _tied(self, specs: dict[tuple[str, str], Spec | None]) -> dict[tuple[str, str], Spec | None]:
        """A parameter with several names has one quantizer: that of the first name that an override speaks of."""
        keys: dict[int, list[tuple[str, str]]] = {}
        for path, name in specs:
            keys.setdefault(id(getattr(self.modules[path], name)), []).append((path, name))
        for names in keys.values():
            said = [key for key in names if self.selected.of(_join(*key)) != NOTHING]
            if len(names) > 1 and said:
                specs |= dict.fromkeys(names, specs[said[0]])
        return specs

    def parameter(self, name: str, role: str, onnx_op: str, shape: Sequence[int], axis: int | None) -> Spec | None:
        """For a parameter by its full name and what it is to its operator, its output channels on ``axis``."""
        said, defaults = self.selected.of(name), self.config.defaults
        on = self._param_setting(role, onnx_op, "is_quantized", defaults.params.is_quantized)
        if said.quantized is False or not on:
            return None
        symmetric = self._param_setting(role, onnx_op, "is_symmetric", defaults.params.is_symmetric)
        if said.param_symmetric is not None:
            symmetric = said.param_symmetric
        per_channel = self._setting(onnx_op, "per_channel_quantization", defaults.per_channel_quantization)
        if said.granularity is not None:
            per_channel = said.granularity == "per_channel"
        block_size = None
        scales = channels(shape, axis if per_channel and len(shape) > 1 else None)  # one each would round nothing
        if said.block_size is not None and len(shape) > 1 and axis is not None:
            scales, block_size = blocks(f"override: {name}", shape, axis, said.block_size)
        return Spec(
            said.param_bw or self.kernels.types(onnx_op)[1], bool(symmetric), scales, block_size,
            strict=defaults.strict_symmetric, unsigned=defaults.unsigned_symmetric,
        )  # fmt: skip

    def function_parameter(self, read: Read) -> Spec | None:
        """For what a function reads as a parameter: one of the model's, or a weight that some code makes."""
        event, value = read.event, read.value
        weight = read.slot == event.operator.weight
        role = "weight" if weight else "bias" if event.operator.holds_parameter(read.slot) else None
        axis = event.operator.channels if weight and value.axes_kept else None
        if value.parameter is None:
            return self.parameter(_join(_name(event), role), role, event.onnx_op, read.shape, axis) if weight else None
        owner, _, name = value.parameter.rpartition(".")
        if self._excluded(event):
            return None
        if (owner, name) in self.params:  # a leaf's: one quantizer, whoever reads it
            return self.params[owner, name]
        shape = getattr(self.modules[owner], name).shape
        return self.parameter(value.parameter, role or name, event.onnx_op, shape, axis)

    def _check_blocks_of_functions(self) -> None:
        for event in self.graph.events:
            for read in event.reads if event.operator is not None else ():
                if read.slot == event.operator.weight:
                    self.function_parameter(read)

    # --- settings -----------------------------------------------------------------------------------------------------

    def _op_types(self, onnx_op: str) -> Iterable[OpType]:
        return [self.config.op_type[name] for name in names_of(onnx_op) if name in self.config.op_type]

    def _setting(self, onnx_op: str, name: str, default: Any) -> Any:
        for op_type in self._op_types(onnx_op):
            said = getattr(op_type, name)
            default = default if said is None else said
        return default

    def _param_setting(self, param: str, onnx_op: str, name: str, default: Any) -> Any:
        for params in (self.config.params, *(op_type.params for op_type in self._op_types(onnx_op))):
            said = getattr(params[param], name) if param in params else None
            default = default if said is None else said
        return default

    def _excluded(self, event: Event) -> bool:
        return self.selected.of(_name(event)).quantized is False

    # --- kernels ------------------------------------------------------------------------------------------------------

    def _operators(self) -> Iterator[tuple[str, str, int | FloatFormat, int | FloatFormat | None]]:
        """What runs on integers or in a float format, and in which: once per name."""
        found = {}
        for event in self.graph.events:
            if event.onnx_op not in MOVING and self.quantized(event):
                weight = self._weight(event)
                output = self.activation(_name(event), event.onnx_op).type
                found[_name(event)] = event.onnx_op, output, None if weight is None else weight.type
        for name, asked in found.items():
            yield name, *asked

    def _weight(self, event: Event) -> Spec | None:
        if event.site is None:
            return self._weights.get(event.path)
        read = next((read for read in event.reads if read.slot == event.operator.weight), None)
        return None if read is None else self.function_parameter(read)


def _warn_of_passes(config: Config) -> None:
    unknown = [name for name in config.supergroup_pass_list if name not in PASSES]
    if unknown:
        warnings.warn(
            f"the configuration's supergroup_pass_list names {', '.join(unknown)}, which changes nothing; known are "
            f"{', '.join(PASSES)}.",
            stacklevel=6,
        )


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _name(event: Event) -> str:
    """What an override calls an operator."""
    return event.path if event.site is None else _join(event.path, event.site)
