"""A copy of a simulation model whose quantizers are constants."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from .._layout import Layout
from ..encodings import Encoding
from ..quantizers import FloatQuantizeDequantize, Quantizer
from .quantization import FloatQuantization, IntegerQuantization, Quantization

if TYPE_CHECKING:
    from ..quantsim import QuantizationSimModel

__all__ = ["call_arguments", "check_calibrated", "cpu_copy", "encodings", "freeze"]


class _Frozen(nn.Module):
    """A quantizer with constant numbers; exported, one operator whose ``number`` finds it again in the graph."""

    def __init__(self, number: int, quantization: Quantization) -> None:
        super().__init__()
        self._number = float(number)
        self._quantization = quantization
        self.register_buffer("_one", torch.ones(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_exporting():
            return torch.ops.detent.fake_quantize(x, self._one, None, -1, 1, None, None, self._number)
        return self._quantization.fake_quantize(x)


def check_calibrated(sim: QuantizationSimModel) -> None:
    """Raise RuntimeError where an enabled quantizer has no range."""
    missing = [
        name for name, _, quantizer in sim._named_slots() if _active(quantizer) and not quantizer.is_initialized()
    ]
    if missing:
        shown = ", ".join(missing[:5]) + (" ..." if len(missing) > 5 else "")
        raise RuntimeError(
            f"export: {len(missing)} quantizers have no range yet ({shown}). Run sim.compute_encodings() with a few "
            "batches of representative data first, load encodings, or switch those quantizers off."
        )


def _active(quantizer: Quantizer) -> bool:
    return quantizer.enabled and not quantizer._unseen


@torch.no_grad()
def _read(name: str, quantizer: Quantizer) -> Quantization:
    """The numbers the quantizer's own forward uses now."""
    encoding = _encoding(quantizer)
    if isinstance(quantizer, FloatQuantizeDequantize):
        scaled = quantizer.scaled
        layout = Layout.of("export", quantizer.shape if scaled else (1,), quantizer.block_size)
        scale = quantizer.get_scale().cpu() if scaled else torch.ones(1)
        return FloatQuantization(
            name=name, scale=scale, zero_point=torch.zeros_like(scale), layout=layout, encoding=encoding,
            format=quantizer.format, scaled=scaled,
        )  # fmt: skip
    layout = Layout.of("export", quantizer.shape, quantizer.block_size)
    scale, zero_point = quantizer.get_scale().detach().cpu(), quantizer.get_zero_point().detach().cpu()
    return IntegerQuantization(
        name=name, scale=scale, zero_point=zero_point, layout=layout, encoding=encoding, qmin=quantizer.qmin,
        qmax=quantizer.qmax,
    )  # fmt: skip


def _encoding(quantizer: Quantizer) -> Encoding | None:
    """The quantizer's encoding, block sizes as numbers where the parameter says them."""
    encoding = quantizer.get_encoding()
    source = quantizer._source.tensor() if quantizer._source is not None else None
    if encoding is None or encoding.block_size is None or source is None:
        return encoding
    blocks = Layout.of("export", quantizer.shape, quantizer.block_size).blocks_for("export", source)
    return replace(encoding, block_size=tuple(blocks))


def encodings(sim: QuantizationSimModel) -> tuple[dict[str, Encoding], dict[str, Encoding]]:
    """Activation and parameter encodings by module, as :meth:`QuantizationSimModel.encodings` gives them."""
    found: tuple[dict[str, Encoding], dict[str, Encoding]] = {}, {}
    for name, is_param, quantizer in sim._named_slots():
        encoding = _encoding(quantizer) if quantizer.enabled else None
        if encoding is not None:
            found[is_param][name] = encoding
    return found


def freeze(sim: QuantizationSimModel, first_number: int) -> tuple[nn.Module, dict[int, Quantization]]:
    """A CPU copy in eval mode with frozen quantizers, and what each of their numbers means.

    Quantizers that are off, or saw no data, pass their tensor in float, as in the simulation.
    """
    quantizations: dict[int, Quantization] = {}
    replacements: dict[int, nn.Module] = {}
    for name, _, quantizer in sim._named_slots():
        if id(quantizer) in replacements:
            continue  # shared: known by its first name
        if not _active(quantizer):
            replacements[id(quantizer)] = nn.Identity()
            continue
        number = first_number + len(quantizations)
        quantizations[number] = _read(name, quantizer)
        replacements[id(quantizer)] = _Frozen(number, quantizations[number])
    return cpu_copy(sim._network, replacements), quantizations


def cpu_copy(model: nn.Module, replacements: Mapping[int, nn.Module] | None = None) -> nn.Module:
    """A deep copy on the CPU in eval mode; modules whose id is in ``replacements`` are replaced, not copied."""
    made = copy.deepcopy(model, dict(replacements or {}))
    return made.cpu().eval()


def call_arguments(dummy_input: Any) -> tuple[tuple, dict[str, Any]]:
    """A sample input as positional and keyword arguments on the CPU."""
    sample = tree_map(lambda leaf: leaf.detach().cpu() if isinstance(leaf, Tensor) else leaf, dummy_input)
    if isinstance(sample, Mapping):
        return (), dict(sample)
    return (tuple(sample) if isinstance(sample, (tuple, list)) else (sample,)), {}
