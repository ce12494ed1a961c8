"""torchvision's operators in Python, where its compiled part does not load beside the torch at hand.

``define()`` comes before ``import torchvision``, ``complete()`` after it. Forward and gradient, CPU, for small inputs.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
)
_library: torch.library.Library | None = None


def define() -> bool:
    """Define what is missing; False where torchvision's own operators are there, or there is no torchvision."""
    global _library
    if _library is not None:
        return True
    found = importlib.util.find_spec("torchvision")
    if found is None or _loads(found.submodule_search_locations[0]):
        return False
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)
    _library.impl("nms", _nms, "CompositeExplicitAutograd")
    _library.impl("roi_align", _roi_align, "CompositeImplicitAutograd")
    return True


def _loads(folder: str) -> bool:
    for path in Path(folder).glob("_C*.so"):
        try:
            torch.ops.load_library(str(path))
        except OSError:
            return False
    return True


def complete() -> None:
    """Tell torchvision that its operators are there."""
    for name in ("boxes", "roi_align"):
        module = importlib.import_module(f"torchvision.ops.{name}")
        module._assert_has_ops, module._has_ops = (lambda: None), (lambda: True)


def _nms(dets: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    area = (dets[:, 2] - dets[:, 0]) * (dets[:, 3] - dets[:, 1])
    order, kept = scores.argsort(descending=True, stable=True), []
    while order.numel():
        best, rest = order[0], order[1:]
        kept.append(best)
        low = torch.maximum(dets[rest, :2], dets[best, :2])
        high = torch.minimum(dets[rest, 2:], dets[best, 2:])
        common = (high - low).clamp(min=0).prod(dim=1)
        order = rest[common <= iou_threshold * (area[rest] + area[best] - common)]
    return torch.stack(kept) if kept else order


def _roi_align(
    input: Tensor, rois: Tensor, spatial_scale: float, height: int, width: int, sampling_ratio: int, aligned: bool
) -> Tensor:
    """He 2017: the mean of bilinear samples in every bin; ``sampling_ratio`` below 1 is taken as 2."""
    ratio, shift = max(sampling_ratio, 2), 0.5 if aligned else 0.0
    corners = rois[:, 1:] * spatial_scale - shift
    size = corners[:, 2:] - corners[:, :2]
    size = size if aligned else size.clamp(min=1.0)

    def points(start: Tensor, length: Tensor, bins: int, limit: int) -> Tensor:
        steps = (torch.arange(bins * ratio, device=input.device, dtype=input.dtype) + 0.5) / (bins * ratio)
        at = start[:, None] + steps * length[:, None]
        return (2 * at.clamp(0, limit - 1) + 1) / limit - 1

    x = points(corners[:, 0], size[:, 0], width, input.shape[3])
    y = points(corners[:, 1], size[:, 1], height, input.shape[2])
    grid = torch.stack((x[:, None, :].expand(-1, y.shape[1], -1), y[:, :, None].expand(-1, -1, x.shape[1])), dim=-1)
    images = input[rois[:, 0].long()]
    sampled = torch.nn.functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return torch.nn.functional.avg_pool2d(sampled, ratio)
