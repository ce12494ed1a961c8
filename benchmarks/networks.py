"""The quantizers of whole networks: each tensor that one rounds, and what all of them take together.

The tensors are those of one forward of the simulation at W8A8, weights per channel; equal ones are measured once and
count as often as they come.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import contenders
import torch
from harness import Group
from models import LlamaBlock, MobileNetV2, ResNet50, VisionTransformer
from torch import Tensor, nn

from detent import QuantizationSimModel

#: How to build each, and the shape of its input.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet-50": (ResNet50, (4, 3, 224, 224)),
    "MobileNetV2": (MobileNetV2, (4, 3, 224, 224)),
    "ViT-B/16": (VisionTransformer, (4, 3, 224, 224)),
    "Llama 3 8B layer": (LlamaBlock, (1, 256, 4096)),
}
QUICK_NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "small Llama layer": (lambda: LlamaBlock(64, 128, 4, 2, 16), (1, 16, 64)),
}
#: Tensors of fewer bytes are not compiled for: there are many, each takes a second, and they take none of the time.
COMPILED_BYTES = 1 << 18


@dataclass(frozen=True)
class Rounded:
    """A tensor as a quantizer gets it. ``axis``: of the channels, ``None`` per tensor."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    axis: int | None
    parameter: bool

    def data(self, device: str, compile: bool) -> contenders.Data:
        x = torch.empty_strided(self.shape, self.strides, device=device).normal_()
        name = "per_tensor" if self.axis is None else f"per_channel_{self.axis}"
        return contenders.Data(name, x, self.axis, compile=compile and x.nbytes >= COMPILED_BYTES)


def rounded(model: nn.Module, x: Tensor) -> Counter[Rounded]:
    """What the quantizers of ``model``'s simulation get in a forward with ``x``, and how often each comes."""
    sim = QuantizationSimModel(model, x[:1], "min_max")
    sim.compute_encodings(lambda model: model(x[:1]))
    found: Counter[Rounded] = Counter()
    parameters = {id(parameter) for parameter in sim.model.parameters()}

    def note(quantizer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        tensor = inputs[0]
        axis = None if quantizer.axis is None else tensor.dim() + quantizer.axis
        found[Rounded(tuple(tensor.shape), tensor.stride(), axis, id(tensor) in parameters)] += 1

    for quantizer in sim.quantizers():
        quantizer.register_forward_pre_hook(note)
    with torch.no_grad():
        sim.model(x)
    return found


def groups(device: str, quick: bool) -> Iterator[Group]:
    """Forward and both backwards of every tensor; ``about`` says of which network, and how often it comes."""
    for name, (build, shape) in (QUICK_NETWORKS if quick else NETWORKS).items():
        torch.manual_seed(0)
        for tensor, count in rounded(build().eval(), torch.randn(shape)).items():
            data = tensor.data(device, compile=not quick)
            for kind in (contenders.forward, contenders.learned_backward, contenders.fixed_backward):
                group = kind(data)
                group.about = {"network": name, "count": count, "strides": tensor.strides, "weight": tensor.parameter}
                yield group
                data.compile = data.compile and kind is contenders.forward


def summary(results: list[dict]) -> dict[str, list[dict]]:
    """``tensors``: the median times of each tensor; ``sums``: per network and kind what all of them take.

    ``ratio`` and ``over_detent`` compare with the unit and with ours on the tensors that the contender took part in,
    ``share`` of all bytes.
    """
    kept = ("network", "kind", "granularity", "shape", "strides", "weight", "count", "mib")
    tensors = [
        {
            **{key: result[key] for key in kept},
            "median_us": {name: row["median_us"] for name, row in result["contenders"].items()},
        }
        for result in results
    ]  # fmt: skip
    return {"sums": _sums(results), "tensors": tensors}


def _sums(results: list[dict]) -> list[dict]:
    found: dict[tuple[str, str], list[dict]] = {}
    for result in results:
        found.setdefault((result["network"], result["kind"]), []).append(result)
    return [_sum(*key, tensors) for key, tensors in found.items()]


def _sum(network: str, kind: str, tensors: list[dict]) -> dict:
    def total(name: str, chosen: list[dict]) -> float:
        return sum(tensor["count"] * tensor["contenders"][name]["median_us"] for tensor in chosen)

    def size(chosen: list[dict]) -> float:
        return sum(tensor["count"] * tensor["mib"] for tensor in chosen)

    rows = {}
    for name in dict.fromkeys(name for tensor in tensors for name in tensor["contenders"]):
        chosen = [tensor for tensor in tensors if name in tensor["contenders"]]
        us = total(name, chosen)
        rows[name] = {
            "us": us,
            "share": size(chosen) / size(tensors),
            "ratio": us / total("unit", chosen),
            "over_detent": us / total("detent fake_quantize", chosen),
        }
    return {
        "network": network,
        "kind": kind,
        "unit": tensors[0]["unit"],
        "tensors": sum(tensor["count"] for tensor in tensors),
        "different": len(tensors),
        "mib": size(tensors),
        "contenders": rows,
    }


def table(summed: list[dict]) -> list[str]:
    """Lines of Markdown: time of all tensors over the unit's."""
    names = ["detent fake_quantize", "detent fake_quantize_range", "aten fixed", "aten learnable", "formula, compiled"]
    lines = ["| network | pass / unit | tensors (different) | MiB | " + " | ".join(names) + " |"]
    lines.append("| --- " * (4 + len(names)) + "|")
    for row in summed:
        cells = [_cell(row["contenders"].get(name)) for name in names]
        lines.append(
            f"| {row['network']} | {row['kind']} / {row['unit']} | {row['tensors']} ({row['different']}) "
            f"| {row['mib']:.0f} | " + " | ".join(cells) + " |"
        )
    return lines


def _cell(row: dict | None) -> str:
    if row is None:
        return "-"
    return f"{row['ratio']:.2f}" + (f" (of {row['share']:.0%})" if row["share"] < 0.995 else "")
