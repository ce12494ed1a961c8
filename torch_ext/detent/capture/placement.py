"""Putting quantizers where the policy wants them: once, from the recorded dataflow of the sample."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..config import Config
from ..config.overrides import Selected
from ..nn import QuantizedModule, guard_fast_paths, quantize_module, quantized_class
from ..nn.base import ParamQuantizers, Use, entries
from ..quantizers import AffineQuantizer, QuantizeDequantize
from .graph import Event, Graph, Read
from .mode import Capture, Captured, captured_class
from .policy import Policy
from .sites import CallSite
from .spec import Spec

__all__ = ["install"]

_WEIGHTED = (_ConvNd, nn.Linear, nn.Embedding)


class _Installer:
    def __init__(self, model: nn.Module, graph: Graph, policy: Policy, learned: bool):
        self.model, self.graph, self.policy, self.learned = model, graph, policy, learned
        self.modules = dict(model.named_modules())
        self.shared: dict[int, QuantizeDequantize] = {}  # parameter -> its one quantizer
        first = next((t for t in (*model.parameters(), *model.buffers())), None)
        self.device = torch.device("cpu") if first is None else first.device

    def run(self) -> None:
        self._swap()
        for (path, name), spec in self.policy.params.items():
            if spec is not None:
                self._parameter(self.modules[path], name, spec)
        for path, module in self.modules.items():
            if isinstance(module, QuantizedModule) and isinstance(module, _WEIGHTED) and path not in self.graph.calls:
                self._unseen(path, module)
        for event in self.graph.events:
            self._leaf(event) if event.site is None else self._site(event)

    def _unseen(self, path: str, module: QuantizedModule) -> None:
        """A weighted layer on a branch that the sample does not take: calibration may still reach it."""
        specs = self.policy.unreached(path, module._slots.onnx_op)
        for slots, spec in zip((module.input_quantizers, module.output_quantizers), specs):
            for index in range(len(slots)):
                self._activation(slots, index, spec)

    def _swap(self) -> None:
        """Substitute leaves; let every other module see the functions that its forward calls."""
        for module in self.modules.values():
            if quantized_class(type(module)) is not None:
                quantize_module(module)
        guard_fast_paths(self.model)
        for path, module in self.modules.items():
            if isinstance(module, (QuantizedModule, torch.jit.ScriptModule)):
                continue
            try:
                module.__class__ = captured_class(type(module))
            except TypeError:  # a class that cannot be derived from is left as it is
                continue
            module._detent = Capture(path)
        for path, uses in self.graph.uses.items():
            if len(uses) > 1:
                leaf = self.modules[path]
                leaf._path, leaf._uses = path, dict(uses)
                for above in self.graph.callers[path]:
                    if isinstance(self.modules[above], Captured):
                        self.modules[above]._detent.reused.append(leaf)
                for use in range(1, len(uses)):
                    leaf.add_module(f"use_{use}", Use(leaf._slots.inputs, leaf._slots.outputs))

    # --- events -------------------------------------------------------------------------------------------------------

    def _leaf(self, event: Event) -> None:
        leaf = self.modules[event.path]
        holder = leaf if event.use == 0 else leaf._modules[f"use_{event.use}"]
        self._activation(holder.output_quantizers, 0, self.policy.output(event))
        for read in event.reads:
            if leaf._slots.inputs:
                self._activation(holder.input_quantizers, read.slot, self.policy.input(read))

    def _site(self, event: Event) -> None:
        owner = self.modules[event.path]
        if not isinstance(owner, Captured):
            return
        capture, key = owner._detent, event.site
        site = owner._modules.get(capture.names.get(key) or "")
        if site is None:
            site = CallSite(event.operator.name, event.onnx_op, 0)
        while len(site.input_quantizers) <= max((read.slot for read in event.reads), default=-1):
            site.input_quantizers.append(None)
        self._activation(site.output_quantizers, 0, self.policy.output(event))
        for read in event.reads:
            self._site_input(event, site, read)
        reason = self.policy.reasons.get(event.key)
        if reason is not None:
            capture.reasons[key] = reason
        if site.params or any(True for _ in entries(site)):
            name = capture.names.get(key) or _free_name(owner, key)
            owner.add_module(name, site)
            capture.names[key] = name
        else:
            capture.names.setdefault(key, None)

    def _site_input(self, event: Event, site: CallSite, read: Read) -> None:
        if event.on_state:
            return
        if read.parameter is None:
            if event.operator.weight != read.slot:
                spec = self.policy.input(read)
            else:
                spec = None if self.policy.on_grid(read.value) else self.policy.function_parameter(read)
            self._activation(site.input_quantizers, read.slot, spec)
            return
        path, _, name = read.parameter.rpartition(".")
        holder = self.modules[path]
        spec = self.policy.function_parameter(read)
        if spec is None or (isinstance(holder, QuantizedModule) and name not in holder.param_quantizers):
            return
        quantizer = self._parameter(holder, name, spec)
        if path == event.path:
            site.params[read.slot] = name
        else:
            site.input_quantizers[read.slot] = quantizer

    # --- quantizers ---------------------------------------------------------------------------------------------------

    def _activation(self, slots: nn.ModuleList, index: int, spec: Spec | None) -> None:
        if spec is not None and slots[index] is None:
            slots[index] = spec.make("learned" if self.learned else "fixed", self.device)

    def _parameter(self, module: nn.Module, name: str, spec: Spec) -> QuantizeDequantize:
        parameter = getattr(module, name)
        if "param_quantizers" not in module._modules:
            module.param_quantizers = ParamQuantizers(module, ())
        held = module.param_quantizers
        quantizer = self.shared.get(id(parameter))
        if quantizer is None:
            quantizer = spec.make("learned" if self.learned else "dynamic", self.device)
            self.shared[id(parameter)] = quantizer
        if name not in held or held[name] is None:
            held[name] = quantizer
        return quantizer


def _free_name(module: nn.Module, name: str) -> str:
    while hasattr(module, name):
        name += "_"
    return name


def install(
    model: nn.Module,
    graph: Graph,
    config: Config,
    selected: Selected,
    *,
    output_bw: int,
    param_bw: int,
    learned: bool,
) -> None:
    """Turn ``model`` into a simulation of itself, in place.

    Raises:
        ValueError: The configuration's overrides do not fit the model, which is as it was.
    """
    policy = Policy(graph, dict(model.named_modules()), config, selected, output_bw, param_bw)
    _Installer(model, graph, policy, learned).run()
    for name, module in model.named_modules():
        for slot, key, quantizer in entries(module):
            if isinstance(quantizer, AffineQuantizer) and not quantizer._label:
                quantizer._label = f"{name}.{slot}_quantizers.{key}".lstrip(".")
