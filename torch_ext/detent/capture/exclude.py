"""Taking the quantizers out of some modules of a simulation, without leaving a reader of theirs on no grid."""

from __future__ import annotations

import copy
from collections.abc import Collection

from torch import nn

from ..nn.base import entries
from .graph import MOVING, Graph, Read
from .mode import Captured, place
from .placement import keep_site, site_of
from .reasons import EXCLUDED, Reasons, within

__all__ = ["call_sites", "exclude"]


def call_sites(model: nn.Module) -> list[str]:
    """Full names of all call sites that are known, those in float included."""
    captured = ((path, module) for path, module in model.named_modules() if isinstance(module, Captured))
    return [
        f"{path}.{'.'.join(child or (site,))}".lstrip(".")
        for path, module in captured
        for site, child in module._detent.names.items()
    ]


def exclude(model: nn.Module, graph: Graph, reasons: Reasons, paths: Collection[str]) -> None:
    """Remove every quantizer of the modules at ``paths`` and of what is inside them, in place.

    An output's quantizer moves to those who read that output and stay quantized, one copy each: their inputs are as
    before on the grid, and only what is excluded works in float.
    """
    modules = dict(model.named_modules())
    reasons.excluded |= set(paths)

    for event in graph.events:
        path = place(modules.get(event.path), event)
        outputs = getattr(modules.get(path), "output_quantizers", None)
        if event.output is not None and outputs and outputs[0] is not None and within(path, paths):
            for read in event.output.reads:
                reader = place(modules.get(read.event.path), read.event)
                if not within(reader, reasons.excluded) and reasons.outputs.get(read.event.key) != EXCLUDED:
                    _hand_over(modules, read, outputs[0])
    for path, module in modules.items():
        if within(path, paths):
            for slot, key, _ in list(entries(module)):
                module._modules[f"{slot}_quantizers"]._modules[key] = None


def _hand_over(modules: dict[str, nn.Module], read: Read, quantizer: nn.Module) -> None:
    event = read.event
    owner = modules.get(event.path)
    if event.onnx_op in MOVING or event.on_state or event.constant or event.integers:
        return
    if event.site is None:
        holder = modules.get(place(owner, event))
    else:
        holder = site_of(owner, event) if isinstance(owner, Captured) else None
    if holder is None or read.slot >= len(holder.input_quantizers):
        return
    if holder.input_quantizers[read.slot] is None:
        holder.input_quantizers[read.slot] = made = copy.deepcopy(quantizer)
        if event.site is not None:
            keep_site(owner, event, holder)
        made._label = f"{place(owner, event)}.input_quantizers.{read.slot}"
