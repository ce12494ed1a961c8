"""Which tensors get a quantizer, from the dataflow of the sample.

Weights: symmetric, signed, per channel. Activations: asymmetric, unsigned, per tensor: outputs of all leaves and
operators that compute new numbers, except inside supergroups; and every input of these that is on no grid.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvTransposeNd

from ..nn import QuantizedModule, guard_fast_paths, is_leaf, quantize_module
from ..nn.base import ParamQuantizers, Use, entries
from ..quantizers import AffineQuantizer, QuantizeDequantize
from .checkpoint import resume_recomputations
from .graph import MOVING, Event, Graph, Read, Value
from .mode import Capture, Captured, captured_class
from .sites import CallSite

__all__ = ["install"]

_UNWEIGHTED = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU)
_SUPERGROUPS = {("Conv", "Relu"), ("Conv", "Clip"), ("ConvTranspose", "Relu"), ("Add", "Relu"), ("Gemm", "Relu")}
_FOLDS = ("Conv", "ConvTranspose", "Gemm")
_NEAR_ZERO = 1 / 16  # of the span, in the sample: other data may come closer


def _weights(module: QuantizedModule) -> list[str]:
    """The parameters of a leaf that have a quantizer: no biases, and none of normalizations."""
    if isinstance(module, _UNWEIGHTED):
        return []
    names = module._slots.params_of(module)
    return [name for name in names if not name.startswith("bias") and getattr(module, name) is not None]


def _weight_shape(module: nn.Module, name: str) -> tuple[int, ...]:
    """Shape of a weight's range: one scale per output channel; per tensor for an embedding's table."""
    shape = getattr(module, name).shape
    if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) or len(shape) < 2:
        return (1,)
    # A grouped transposed convolution has out / groups channels along axis 1, which its groups share.
    return _per_channel(shape, 1 if isinstance(module, _ConvTransposeNd) else 0)


def _per_channel(shape, axis: int | None) -> tuple[int, ...]:
    if axis is None:
        return (1,)
    return tuple(size if dim == axis else 1 for dim, size in enumerate(shape))


class _Decisions:
    """What the dataflow says, by :attr:`Event.key`."""

    def __init__(self, graph: Graph, output_bw: int):
        self.graph = graph
        self.near_zero = max(_NEAR_ZERO, 1 / (2**output_bw - 1))
        self.reasons: dict[tuple, str] = {}
        inner = {event.key for event in graph.events} - {e.key for e in graph.events if not self._inside(e)}
        for event in graph.events:
            reason = self._why_float(event)
            if reason is None and event.key in inner:
                reason = "inside a supergroup"
            if reason is not None:
                self.reasons.setdefault(event.key, reason)

    def _why_float(self, event: Event) -> str | None:
        if event.onnx_op in MOVING:
            return "keeps the grid of its input"
        if event.onnx_op == "Gather":
            return "on the grid of its weight"
        if event.constant:
            return "computed from parameters alone"
        if event.output is None:
            return "makes no tensor of floats"
        if event.output.masking:
            return "its output holds a mask's infinities"
        if self._loses(event.output):
            return "its output must not become zero, and some of it is near"
        return "changes a buffer or parameter" if event.on_state else None

    def _inside(self, event: Event) -> bool:
        """Whether the output only feeds, once and as it is, the next operator of a supergroup."""
        after = self._only_reader(event)
        if after is None:
            return False
        if event.onnx_op in _FOLDS and after.onnx_op == "BatchNormalization":
            return True
        first = event.onnx_op
        if first == "BatchNormalization" and event.reads and event.reads[0].slot == 0:
            before = event.reads[0].value.producer
            if before is None or before.onnx_op not in _FOLDS or not self._inside(before):
                return False
            first = before.onnx_op
        return (first, after.onnx_op) in _SUPERGROUPS and self._why_float(after) is None

    @staticmethod
    def _only_reader(event: Event) -> Event | None:
        value = event.output
        if value is None or value.is_result or len(value.reads) != 1 or not value.reads[0].direct:
            return None
        return value.reads[0].event

    def _loses(self, value: Value) -> bool:
        """Whether rounding may make zeros that something divides by."""
        return value.nearest_zero < self.near_zero

    def output(self, event: Event) -> bool:
        return event.key not in self.reasons

    def on_grid(self, value: Value) -> bool:
        producer = value.producer
        if producer is None:
            return False
        return self.output(producer) or self.reasons[producer.key] == "on the grid of its weight"

    def input(self, read: Read) -> bool:
        """Whether a read needs a quantizer of its own."""
        value, event = read.value, read.event
        if event.onnx_op in MOVING or event.on_state or value.masking or self._loses(value) or self.on_grid(value):
            return False
        producer = value.producer
        if producer is not None and self.reasons.get(producer.key) == "inside a supergroup":
            return not (self._only_reader(producer) is event)
        return True


class _Installer:
    def __init__(self, model: nn.Module, graph: Graph, output_bw: int, param_bw: int, learned: bool):
        self.model, self.graph = model, graph
        self.output_bw, self.param_bw, self.learned = output_bw, param_bw, learned
        self.decisions = _Decisions(graph, output_bw)
        self.modules = dict(model.named_modules())
        leaves = tuple(f"{path}." if path else "" for path, module in self.modules.items() if is_leaf(module))
        # What is below a leaf is computed in float.
        self.seen = {path: module for path, module in self.modules.items() if not path or not path.startswith(leaves)}
        self.shared: dict[int, QuantizeDequantize] = {}  # parameter -> its one quantizer
        first = next((t for t in (*model.parameters(), *model.buffers())), None)
        self.device = torch.device("cpu") if first is None else first.device

    def run(self) -> None:
        self._swap()
        for path, module in self.seen.items():
            weights = _weights(module) if isinstance(module, QuantizedModule) else []
            for name in weights:
                self._parameter(path, module, name, _weight_shape(module, name))
            if weights and path not in self.graph.calls:
                self._unseen(module)
        for event in self.graph.events:
            self._leaf(event) if event.site is None else self._site(event)

    def _unseen(self, module: QuantizedModule) -> None:
        """A weighted layer on a branch that the sample does not take: calibration may still reach it."""
        for slots in (module.input_quantizers, module.output_quantizers):
            for index in range(len(slots)):
                self._activation(slots, index)

    def _swap(self) -> None:
        """Substitute leaves; let every other module see the functions that its forward calls."""
        for module in self.seen.values():
            if is_leaf(module):
                quantize_module(module)
        guard_fast_paths(self.model)
        for path, module in self.seen.items():
            if isinstance(module, (QuantizedModule, torch.jit.ScriptModule)):
                continue
            try:
                module.__class__ = captured_class(type(module))
            except TypeError:  # a class that cannot be derived from is left as it is
                continue
            module._detent = Capture(path, forward=module.__dict__.pop("forward", None))
        for path, uses in self.graph.uses.items():
            if len(uses) > 1:
                self._reused(path, uses)

    def _reused(self, path: str, uses: dict[str, int]) -> None:
        """A module that runs more than once: its callers count, and theirs while they do so too."""
        module = self.modules[path]
        if isinstance(module, QuantizedModule):
            module._path, module._uses = path, dict(uses)
            for use in range(1, len(uses)):
                module.add_module(f"use_{use}", Use(module._slots.inputs, module._slots.outputs))
        elif isinstance(module, Captured):
            module._detent.uses = dict(uses)
        waiting, told = [path], set()
        while waiting:
            for above in self.graph.callers[waiting.pop()] - told:
                told.add(above)
                if isinstance(self.modules[above], Captured):
                    self.modules[above]._detent.reused.append(module)
                if len(self.graph.uses[above]) > 1:
                    waiting.append(above)

    # --- events -------------------------------------------------------------------------------------------------------

    def _leaf(self, event: Event) -> None:
        leaf = self.modules[event.path]
        holder = leaf if event.use == 0 else leaf._modules[f"use_{event.use}"]
        if self.decisions.output(event):
            for slot, value in event.outputs.items():
                unused = len(event.outputs) > 1 and not (value.reads or value.is_result)
                if not value.masking and not unused:
                    self._activation(holder.output_quantizers, slot)
        for read in event.reads:
            if leaf._slots.inputs and self.decisions.input(read):
                self._activation(holder.input_quantizers, read.slot)

    def _site(self, event: Event) -> None:
        owner = self.modules[event.path]
        if not isinstance(owner, Captured):
            return
        if event.constant or event.integers:
            owner._detent.names.setdefault(event.site_name, None)
            owner._detent.reasons[event.site_name] = self.decisions.reasons[event.key]
            return
        site = self._site_of(owner, event)
        site.copied |= {read.slot for read in event.reads if read.overwritten}
        if self.decisions.output(event):
            self._activation(site.output_quantizers, 0)
        for read in event.reads:
            self._site_input(owner, event, site, read)
        reason = self.decisions.reasons.get(event.key)
        if reason is not None:
            owner._detent.reasons[event.site_name] = reason
        self._keep(owner, event, site)

    @staticmethod
    def _site_of(owner: nn.Module, event: Event) -> CallSite:
        """The call site of an event, with an entry for every slot that it reads."""
        known = owner._detent.names.get(event.site_name)
        site = owner.get_submodule(".".join(known)) if known else CallSite(event.operator.name, event.onnx_op, 0)
        while len(site.input_quantizers) <= max((read.slot for read in event.reads), default=-1):
            site.input_quantizers.append(None)
        return site

    @staticmethod
    def _keep(owner: nn.Module, event: Event, site: CallSite) -> None:
        """Put a call site that quantizes something under its parent, or under a further use of that."""
        names = owner._detent.names
        if not site.params and not any(True for _ in entries(site)):
            names.setdefault(event.site_name, None)
        elif names.get(event.site_name) is None:
            use = (f"use_{event.use}",) if event.use else ()
            holder = owner
            for name in use:
                if name not in owner._modules:
                    owner.add_module(name, Use(0, 0))
                holder = owner._modules[name]
            name = _free_name(holder, event.site)
            holder.add_module(name, site)
            names[event.site_name] = (*use, name)

    def _site_input(self, owner: nn.Module, event: Event, site: CallSite, read: Read) -> None:
        if event.on_state:
            return
        weight, value = read.slot == event.operator.weight, read.value
        channels = event.operator.channels if weight and value.axes_kept else None
        if value.parameter is None:
            shape = _per_channel(read.shape, channels)
            if weight and not self.decisions.on_grid(read.value):
                if site.input_quantizers[read.slot] is None:
                    made = self._quantizer(shape, self.param_bw, True, self._activation_mode)
                    site.input_quantizers[read.slot] = made
            elif self.decisions.input(read):
                self._activation(site.input_quantizers, read.slot)
            return
        if value.mover is None:
            self._site_parameter(owner, event.path, site, read.slot, value.parameter, channels)
        elif weight or self.decisions.input(read):
            mover, owner = value.mover, self.modules[value.mover.path]
            if isinstance(owner, Captured):
                site = self._site_of(owner, mover)
                self._site_parameter(owner, mover.path, site, 0, value.parameter, channels)
                self._keep(owner, mover, site)
                owner._detent.moved.add(mover.operator.name)

    def _site_parameter(
        self, owner: nn.Module, owner_path: str, site: CallSite, slot: int, parameter: str, channels: int | None
    ) -> None:
        """A parameter that a call reads: its owner has the quantizer."""
        path, _, name = parameter.rpartition(".")
        holder = self.modules[path]
        if isinstance(holder, QuantizedModule) and name not in holder.param_quantizers:
            return
        quantizer = self._parameter(path, holder, name, _per_channel(getattr(holder, name).shape, channels))
        prefix = f"{owner_path}." if owner_path else ""
        if parameter.startswith(prefix):
            site.params[slot] = parameter[len(prefix) :]
        else:
            site.input_quantizers[slot] = quantizer

    # --- quantizers ---------------------------------------------------------------------------------------------------

    @property
    def _activation_mode(self) -> str:
        return "learned" if self.learned else "fixed"

    def _activation(self, slots: nn.ModuleList, index: int) -> None:
        if slots[index] is None:
            slots[index] = self._quantizer((1,), self.output_bw, False, self._activation_mode)

    def _parameter(self, path: str, module: nn.Module, name: str, shape: tuple[int, ...]) -> QuantizeDequantize:
        parameter = getattr(module, name)
        if "param_quantizers" not in module._modules:
            module.param_quantizers = ParamQuantizers(module, ())
        held = module.param_quantizers
        quantizer = self.shared.get(id(parameter))
        if quantizer is None:
            quantizer = self._quantizer(shape, self.param_bw, True, "learned" if self.learned else "dynamic")
            self.shared[id(parameter)] = quantizer
        if name not in held or held[name] is None:
            held[name] = quantizer
        return quantizer

    def _quantizer(self, shape: tuple[int, ...], bitwidth: int, symmetric: bool, mode: str) -> QuantizeDequantize:
        quantizer = QuantizeDequantize(shape, bitwidth, symmetric, mode=mode).to(self.device)
        quantizer.reset()
        return quantizer


def _free_name(module: nn.Module, name: str) -> str:
    while hasattr(module, name):
        name += "_"
    return name


def install(model: nn.Module, graph: Graph, *, output_bw: int, param_bw: int, learned: bool) -> None:
    """Turn ``model`` into a simulation of itself, in place."""
    resume_recomputations()
    _Installer(model, graph, output_bw, param_bw, learned).run()
    for name, module in model.named_modules():
        for slot, key, quantizer in entries(module):
            if isinstance(quantizer, AffineQuantizer) and not quantizer._label:
                quantizer._label = f"{name}.{slot}_quantizers.{key}".lstrip(".")
