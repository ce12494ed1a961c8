"""Which tensors get a quantizer: the input and weight of every layer with a weight, the output of the last one."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from ._running import call_with_sample, without_trace
from .nn import QuantizedModule, quantized_class
from .quantizers import QuantizeDequantize

_WEIGHTED = (_ConvNd, nn.Linear, nn.Embedding)


@dataclass
class Seen:
    """What one run of the sample showed: how often each leaf ran, and which weighted leaf ran last."""

    calls: dict[str, int] = field(default_factory=dict)
    last: str | None = None


def watch(model: nn.Module, sample) -> Seen:
    """Run the sample once and note which leaves ran, leaving no trace."""
    seen, hooks = Seen(), []
    for name, module in model.named_modules():
        if quantized_class(type(module)) is None:
            continue

        def note(module, inputs, output, name=name):
            seen.calls[name] = seen.calls.get(name, 0) + 1
            if isinstance(module, _WEIGHTED):
                seen.last = name

        hooks.append(module.register_forward_hook(note))
    try:
        with without_trace(model):
            call_with_sample(model, sample)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def weight_shape(module: nn.Module) -> tuple[int, ...]:
    """Shape of the weight's range: one scale per output channel; per tensor for an embedding's table."""
    weight = module.weight
    if isinstance(module, nn.Embedding):
        return (1,)
    # A grouped transposed convolution has out / groups channels along axis 1, which its groups share.
    axis = 1 if isinstance(module, _ConvTransposeNd) else 0
    return tuple(size if dim == axis else 1 for dim, size in enumerate(weight.shape))


def place(model: nn.Module, seen: Seen, *, output_bw: int, param_bw: int, learned: bool) -> None:
    """Put quantizers on the quantized leaves of ``model``."""
    shared: dict[int, QuantizeDequantize] = {}  # a tied weight has one quantizer
    for name, module in model.named_modules():
        if not isinstance(module, QuantizedModule) or not isinstance(module, _WEIGHTED):
            continue
        weight = module.weight
        quantizer = shared.get(id(weight))
        if quantizer is None:
            quantizer = _quantizer(
                weight.device, weight_shape(module), param_bw, True, "learned" if learned else "dynamic"
            )
            shared[id(weight)] = quantizer
        module.param_quantizers["weight"] = quantizer
        for slot, wanted in (
            (module.input_quantizers, module._slots.inputs > 0),
            (module.output_quantizers, name == seen.last),
        ):
            if wanted:
                slot[0] = _quantizer(weight.device, (1,), output_bw, False, "learned" if learned else "fixed")
        label(name, module)


def label(name: str, module: QuantizedModule) -> None:
    """Tell the quantizers of a module what they are called."""
    for slot, key, quantizer in module.quantizers():
        quantizer._label = f"{name}.{slot}_quantizers.{key}".lstrip(".")


def _quantizer(
    device: torch.device, shape: tuple[int, ...], bitwidth: int, symmetric: bool, mode: str
) -> QuantizeDequantize:
    quantizer = QuantizeDequantize(shape, bitwidth, symmetric, mode=mode).to(device)
    quantizer.reset()
    return quantizer
