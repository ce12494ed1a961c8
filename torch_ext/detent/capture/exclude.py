"""Taking the quantizers out of some modules of a simulation, without leaving a reader of theirs on no grid."""

from __future__ import annotations

import copy
from collections.abc import Collection

from torch import nn

from ..nn.base import ActivationQuantizers, entries
from .graph import MOVING, Event, Graph, Read
from .mode import Captured
from .placement import site_of

__all__ = ["call_sites", "exclude"]


def call_sites(model: nn.Module) -> list[str]:
    """Full names of all call sites that are known, those in float included."""
    found = []
    for path, module in model.named_modules():
        if isinstance(module, Captured):
            names = module._detent.names
            found += [f"{path}.{name or site}".lstrip(".") for site, name in names.items()]
    return found


def exclude(model: nn.Module, graph: Graph, paths: Collection[str]) -> None:
    """Remove every quantizer of the modules at ``paths`` and of what is inside them, in place.

    An output's quantizer moves to those who read that output and stay quantized, one copy each: their inputs are as
    before on the grid, and only the modules at ``paths`` work in float.
    """
    modules = dict(model.named_modules())

    def inside(path: str) -> bool:
        return any(above in ("", path) or path.startswith(f"{above}.") for above in paths)

    for event in graph.events:
        holder = _holder(modules, event)
        quantizer = None if holder is None or event.output is None else holder.output_quantizers[0]
        if quantizer is not None and inside(_path(modules, event)):
            for read in event.output.reads:
                if not inside(_path(modules, read.event)):
                    _hand_over(modules, read, quantizer)
    for path, module in modules.items():
        if inside(path):
            for slot, key, _ in list(entries(module)):
                module._modules[f"{slot}_quantizers"]._modules[key] = None


def _path(modules: dict[str, nn.Module], event: Event) -> str:
    """Where the event's quantizers are, or would be."""
    if event.site is None:
        return event.path
    name = modules[event.path]._detent.names.get(event.site) or event.site
    return f"{event.path}.{name}".lstrip(".")


def _holder(modules: dict[str, nn.Module], event: Event) -> ActivationQuantizers | None:
    module = modules[event.path]
    if event.site is None:
        return module if event.use == 0 else module._modules[f"use_{event.use}"]
    return modules.get(_path(modules, event))


def _hand_over(modules: dict[str, nn.Module], read: Read, quantizer: nn.Module) -> None:
    event = read.event
    if event.onnx_op in MOVING or event.on_state or read.parameter is not None:
        return
    holder = site_of(modules[event.path], event) if event.site is not None else _holder(modules, event)
    if read.slot < len(holder.input_quantizers) and holder.input_quantizers[read.slot] is None:
        made = copy.deepcopy(quantizer)
        made._label = f"{_path(modules, event)}.input_quantizers.{read.slot}"
        holder.input_quantizers[read.slot] = made
