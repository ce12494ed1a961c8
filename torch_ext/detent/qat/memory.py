"""What a forward keeps for backward, in bytes: float against quantized, layer by layer."""

from __future__ import annotations

import re
import sys
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from .._running import restored
from ..quantizers import quantization_disabled
from ._quantizers import model_of

if TYPE_CHECKING:
    from ..quantsim import QuantizationSimModel

__all__ = ["SavedBytes", "saved_bytes"]

_MIB = 2**20


@dataclass(frozen=True)
class SavedBytes:
    """What :func:`saved_bytes` found. ``str()`` is a table, layer by layer.

    Args:
        float_layers: Bytes by the layer that saves them, with every quantizer off.
        layers: The same as the model is. Quantizers and call sites of functions are layers of their own:
            ``"conv1.output_quantizers.0"``, ``"layer1.0.relu_0"``.
    """

    float_layers: dict[str, int]
    layers: dict[str, int]

    @property
    def float_total(self) -> int:
        """Bytes with every quantizer off."""
        return sum(self.float_layers.values())

    @property
    def total(self) -> int:
        """Bytes as the model is."""
        return sum(self.layers.values())

    @property
    def ratio(self) -> float:
        """``total / float_total``; nan where float saves nothing."""
        return self.total / self.float_total if self.float_total else float("nan")

    def __str__(self) -> str:
        names = sorted({*self.float_layers, *self.layers}, key=_natural)
        rows = [(name or "(model)", self.float_layers.get(name, 0), self.layers.get(name, 0)) for name in names]
        width = max([len("layer"), *(len(name) for name, _, _ in rows)])
        lines = [f"{'layer':<{width}}{'float MiB':>12}{'quantized MiB':>15}"]
        lines += [f"{name:<{width}}{before / _MIB:12.3f}{after / _MIB:15.3f}" for name, before, after in rows]
        total = f"{self.float_total / _MIB:12.3f}{self.total / _MIB:15.3f}"
        return "\n".join([*lines, f"{'total':<{width}}{total}  {self.ratio:.2f} x"])


def _natural(name: str) -> list[tuple[int, str]]:
    """layer2 before layer10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def saved_bytes(sim: QuantizationSimModel | nn.Module, *inputs: Any, **named_inputs: Any) -> SavedBytes:
    """How much one forward keeps for backward, with every quantizer off and as the model is.

    Counted is what autograd holds once the forward has returned: each storage once, whole, at the layer that saves it
    first. Parameters and buffers are alive anyway and left out; inputs that are saved count. In float the functions
    that a forward calls are counted at the module whose forward it is; quantized, at their call sites. Of what
    ``torch.utils.checkpoint`` runs again there are its inputs alone. What a function of one's own keeps outside
    ``save_for_backward`` is not seen.

    The model runs as it is, in train or eval mode; buffers and random state are afterwards what they were.

    Args:
        sim: A sim, or a module that contains its model; compiled ones are one layer. Calibrated.
        inputs, named_inputs: Arguments of the forward.
    Returns:
        Bytes per layer and in total.
    Raises:
        TypeError: ``sim`` is neither.
        RuntimeError: A quantizer has no range.
    Example:
        >>> model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
        >>> sim = detent.QuantizationSimModel(model, torch.randn(1, 16))
        >>> sim.compute_encodings(lambda model: model(torch.randn(8, 16)))
        >>> report = saved_bytes(sim, torch.randn(1024, 16))
        >>> report.float_layers
        {'0': 65536, '1': 65536}
        >>> report.ratio < 2
        True
    """
    model = model_of("saved_bytes", sim)

    def forward():
        return model(*inputs, **named_inputs)

    with restored(model):
        with quantization_disabled(model):
            float_layers = _saved_by(model, forward)
    with restored(model):
        return SavedBytes(float_layers, _saved_by(model, forward))


class _Saved:
    """A tensor that autograd holds, for as long as it does."""

    def __init__(self, tensor: Tensor, layer: str):
        self.tensor = tensor.detach()  # the tensor itself would hold the graph that holds it
        self.layer = layer


def _saved_by(model: nn.Module, forward: Callable[[], Any]) -> dict[str, int]:
    """Bytes by layer that ``forward()`` leaves with autograd."""
    names = {id(module): name for name, module in model.named_modules()}
    counted = {tensor.untyped_storage()._cdata for tensor in (*model.parameters(), *model.buffers())}
    saved: list[weakref.ref[_Saved]] = []

    def pack(tensor: Tensor) -> _Saved:
        packed = _Saved(tensor, _running_layer(names))
        saved.append(weakref.ref(packed))
        return packed

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(pack, lambda packed: packed.tensor):
        output = forward()
    layers: dict[str, int] = {}
    for packed in [packed for reference in saved if (packed := reference()) is not None]:
        storage = packed.tensor.untyped_storage()
        if storage.nbytes() and storage._cdata not in counted:
            counted.add(storage._cdata)
            layers[packed.layer] = layers.get(packed.layer, 0) + storage.nbytes()
    del output  # what it depends on was alive until here
    return layers


def _running_layer(names: dict[int, str]) -> str:
    """The innermost module whose method is running."""
    frame = sys._getframe(2)
    while frame is not None:
        name = names.get(id(frame.f_locals.get("self")))
        if name is not None:
            return name
        frame = frame.f_back
    return ""
