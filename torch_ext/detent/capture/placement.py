"""Putting quantizers where the policy wants them: once, from the recorded dataflow of the sample."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ..config import Config
from ..config.overrides import Selected
from ..float_format import FloatFormat
from ..nn import QuantizedModule, guard_fast_paths, is_leaf, quantize_module
from ..nn.table import outside_leaves
from ..nn.base import ParamQuantizers, Use, entries
from ..quantizers import Quantizer
from .checkpoint import resume_recomputations
from .graph import Event, Graph, Read
from .mode import Capture, Captured, captured_class
from .policy import Policy
from .reasons import Reasons
from .sites import CallSite
from .spec import Spec
from .supergroups import only_reader

__all__ = ["install", "keep_site", "site_of"]

_WEIGHTED = (_ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.EmbeddingBag, nn.RNNBase, nn.RNNCellBase)


class _Installer:
    def __init__(self, model: nn.Module, graph: Graph, policy: Policy, learned: bool):
        self.model, self.graph, self.policy, self.learned = model, graph, policy, learned
        self.modules = dict(model.named_modules())
        self.seen = outside_leaves(self.modules)
        self.shared: dict[int, Quantizer] = {}  # parameter -> its one quantizer
        first = next((t for t in (*model.parameters(), *model.buffers())), None)
        self.device = torch.device("cpu") if first is None else first.device

    def run(self) -> None:
        self._swap()
        for (path, name), spec in self.policy.params.items():
            if spec is not None:
                self._parameter(self.modules[path], name, spec)
        for path, module in self.seen.items():
            if isinstance(module, QuantizedModule) and isinstance(module, _WEIGHTED) and path not in self.graph.calls:
                self._unseen(path, module)
        for event in self.graph.events:
            self._leaf(event) if event.site is None else self._site(event)
        for event in self.graph.events:
            if event.operator is not None and event.operator.name == "add":
                self._sum(event)

    def _unseen(self, path: str, module: QuantizedModule) -> None:
        """A weighted layer on a branch that the sample does not take: calibration may still reach it."""
        specs = self.policy.unreached(path, module._slots.onnx_op)
        for slots, spec in zip((module.input_quantizers, module.output_quantizers), specs):
            for index in range(len(slots)):
                self._activation(slots, index, spec)

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
            forward = module.__dict__.pop("forward", None)
            module._detent = Capture(path, forward=forward, lines=self.graph.lines.get(path, {}))
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
        spec = self.policy.output(event)
        for slot, value in event.outputs.items():
            unused = len(event.outputs) > 1 and not (value.reads or value.is_result)
            if not value.masking and not unused:
                self._activation(holder.output_quantizers, slot, spec)
        for read in event.reads:
            if leaf._slots.inputs:
                self._activation(holder.input_quantizers, read.slot, self.policy.input(read))
        if event.reads:
            kept = not event.reads[0].overwritten
            holder._exact = kept, kept and event.reads[0].alone

    def _site(self, event: Event) -> None:
        owner = self.modules[event.path]
        if not isinstance(owner, Captured):
            return
        if event.constant or event.integers:
            owner._detent.names.setdefault(event.site_name, None)
            return
        site = site_of(owner, event)
        site.copied |= {read.slot for read in event.reads if read.overwritten}
        self._activation(site.output_quantizers, 0, self.policy.output(event))
        for read in event.reads:
            self._site_input(owner, event, site, read)
        keep_site(owner, event, site)

    def _site_input(self, owner: nn.Module, event: Event, site: CallSite, read: Read) -> None:
        if event.on_state:
            return
        value, held = read.value, event.operator.holds_parameter(read.slot)
        if value.parameter is None:
            if not held:
                spec = self.policy.input(read)
            else:
                spec = None if self.policy.on_grid(value) else self.policy.function_parameter(read)
            self._activation(site.input_quantizers, read.slot, spec)
            return
        spec = self.policy.function_parameter(read)
        if value.mover is None:
            self._site_parameter(owner, event.path, site, read.slot, value.parameter, spec)
        elif spec is not None and (held or self.policy.input(read)):
            mover, owner = value.mover, self.modules[value.mover.path]
            if isinstance(owner, Captured):
                site = site_of(owner, mover)
                self._site_parameter(owner, mover.path, site, 0, value.parameter, spec)
                keep_site(owner, mover, site)
                owner._detent.moved.add(mover.operator.name)

    def _site_parameter(
        self, owner: nn.Module, owner_path: str, site: CallSite, slot: int, parameter: str, spec: Spec | None
    ) -> None:
        """A parameter that a call reads: its owner has the quantizer."""
        path, _, name = parameter.rpartition(".")
        holder = self.modules[path]
        if spec is None or (isinstance(holder, QuantizedModule) and name not in holder.param_quantizers):
            return
        quantizer = self._parameter(holder, name, spec)
        prefix = f"{owner_path}." if owner_path else ""
        if parameter.startswith(prefix):
            site.params[slot] = parameter[len(prefix) :]
        else:
            site.input_quantizers[slot] = quantizer

    def _sum(self, event: Event) -> None:
        """A sum that an activation alone reads, next and in the same forward: it is put off until then."""
        owner, reader = self.modules[event.path], only_reader(event)
        if reader is None or event.held or reader.moment != event.moment + 1:
            return
        if reader.caller != event.caller or reader.inside != event.inside:
            return
        if not isinstance(owner, Captured) or any(isinstance(m, torch.jit.ScriptModule) for m in owner.modules()):
            return  # torch shows to no mode what scripted code reads
        prefix = f"{event.path}." if event.path else ""
        if reader.site is not None:
            path = owner._detent.names.get(reader.site_name) if reader.activates else None
        elif reader.path.startswith(prefix) and getattr(type(self.modules[reader.path]).forward, "bounds", None):
            path = (*reader.path[len(prefix) :].split("."), *((f"use_{reader.use}",) if reader.use else ()))
        else:
            path = None
        if path is not None:
            owner._detent.sums[event.site_name] = path

    # --- quantizers ---------------------------------------------------------------------------------------------------

    def _activation(self, slots: nn.ModuleList, index: int, spec: Spec | None) -> None:
        if spec is not None and slots[index] is None:
            slots[index] = spec.make("learned" if self.learned else "fixed", self.device)

    def _parameter(self, module: nn.Module, name: str, spec: Spec) -> Quantizer:
        parameter = getattr(module, name)
        if "param_quantizers" not in module._modules:
            module.param_quantizers = ParamQuantizers(module, ())
        held = module.param_quantizers
        quantizer = self.shared.get(id(parameter))
        if quantizer is None:
            quantizer = spec.make("learned" if self.learned else "dynamic", self.device, "dynamic")
            self.shared[id(parameter)] = quantizer
        if name not in held or held[name] is None:
            held[name] = quantizer
        return quantizer


def site_of(owner: nn.Module, event: Event) -> CallSite:
    """The call site of an event, with an entry for every slot that it reads."""
    known = owner._detent.names.get(event.site_name)
    site = owner.get_submodule(".".join(known)) if known else CallSite(event.operator.name, event.onnx_op, 0)
    while len(site.input_quantizers) <= max((read.slot for read in event.reads), default=-1):
        site.input_quantizers.append(None)
    return site


def keep_site(owner: nn.Module, event: Event, site: CallSite) -> None:
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
    output_type: int | FloatFormat,
    param_type: int | FloatFormat,
    learned: bool,
) -> Reasons:
    """Turn ``model`` into a simulation of itself, in place.

    Returns:
        Why the rest is float.
    Raises:
        ValueError: The configuration's overrides do not fit the model, which is as it was.
    """
    policy = Policy(graph, dict(model.named_modules()), config, selected, output_type, param_type)
    resume_recomputations()
    _Installer(model, graph, policy, learned).run()
    for name, module in model.named_modules():
        for slot, key, quantizer in entries(module):
            if isinstance(quantizer, Quantizer) and not quantizer._label:
                quantizer._label = f"{name}.{slot}_quantizers.{key}".lstrip(".")
    reasons = policy.why()
    reasons.note_placed(model)
    return reasons
