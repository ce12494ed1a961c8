"""torchvision: classification, segmentation, detection, video and optical flow."""

from __future__ import annotations

from functools import partial

import torch

from . import _torchvision_operators
from .case import Case

# name, or name:size of the image
_CLASSIFICATION = """
    alexnet vgg11_bn:32 squeezenet1_0 squeezenet1_1 resnet18 resnet34 resnet50 resnext50_32x4d wide_resnet50_2
    densenet121 googlenet inception_v3:96 mobilenet_v2 mobilenet_v3_small mobilenet_v3_large mnasnet0_5 mnasnet1_0
    shufflenet_v2_x0_5 shufflenet_v2_x1_0 efficientnet_b0 efficientnet_v2_s regnet_x_400mf regnet_y_400mf
    regnet_x_1_6gf regnet_y_800mf convnext_tiny vit_b_32 vit_b_16 swin_t swin_v2_t
"""
_SEGMENTATION = "fcn_resnet50 deeplabv3_resnet50 deeplabv3_mobilenet_v3_large lraspp_mobilenet_v3_large"
_DETECTION = """
    fasterrcnn_mobilenet_v3_large_320_fpn fasterrcnn_resnet50_fpn fasterrcnn_resnet50_fpn_v2 retinanet_resnet50_fpn
    fcos_resnet50_fpn ssdlite320_mobilenet_v3_large maskrcnn_resnet50_fpn keypointrcnn_resnet50_fpn
"""
_VIDEO = "r3d_18 mc3_18 r2plus1d_18 s3d:224:14 swin3d_t"
_OPTIONS = {
    "vit_b_32": {"image_size": 64},
    "vit_b_16": {"image_size": 64},
    "googlenet": {"init_weights": False, "aux_logits": False},
    "inception_v3": {"init_weights": False, "aux_logits": False},
}
_PROPOSALS = {
    "rpn_pre_nms_top_n_test": 32, "rpn_post_nms_top_n_test": 8, "box_detections_per_img": 4,
    "box_score_thresh": 0.0,
}  # fmt: skip


def cases() -> list[Case]:
    by_hand = _torchvision_operators.define()
    from torchvision import models
    from torchvision.models import detection, optical_flow, segmentation, video

    if by_hand:
        _torchvision_operators.complete()
    found = []
    for kind, names, space in (
        ("classification", _CLASSIFICATION, models),
        ("segmentation", _SEGMENTATION, segmentation),
        ("detection", _DETECTION, detection),
        ("video", _VIDEO, video),
    ):
        for entry in names.split():
            name, size, frames = (*entry.split(":"), "64", "4")[:3] if ":" in entry else (entry, "64", "4")
            options = {"weights": None, **_OPTIONS.get(name, {})}
            if kind in ("segmentation", "detection"):
                options.update(weights_backbone=None, num_classes=5)
            if kind == "detection" and not name.startswith("ssd"):
                options.update(min_size=64, max_size=64)
            if "rcnn" in name:
                options.update(_PROPOSALS)
            build = partial(getattr(space, name), **options)
            sample = {"detection": _detected, "video": partial(_film, int(size), int(frames))}.get(
                kind, partial(_images, int(size))
            )
            if name.startswith("keypoint"):
                sample = partial(_detected, keypoints=17)
            elif name.startswith("mask"):
                sample = partial(_detected, masks=True)
            elif name.startswith("fcos"):
                sample = partial(_detected, box=_AROUND)
            found.append(Case("torchvision", kind, name, build, sample))
    raft = partial(optical_flow.raft_small, weights=None)
    found.append(Case("torchvision", "optical flow", "raft_small", raft, _flow))
    found.append(Case("torchvision", "classification", "maxvit", _maxvit, partial(_images, 64)))
    for version in (1, 2):
        found.append(Case("torchvision", "video", f"mvit_v{version}", partial(_mvit, version), partial(_film, 32, 4)))
    return found


def _maxvit() -> torch.nn.Module:
    from torchvision.models import MaxVit

    return MaxVit((64, 64), 16, 4, [16, 32], [1, 2], head_dim=8, stochastic_depth_prob=0.1, num_classes=5)


def _mvit(version: int) -> torch.nn.Module:
    from torchvision.models.video.mvit import MSBlockConfig, MViT

    blocks = [
        MSBlockConfig(heads, width, 2 * width if heads == 1 else width, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2])
        for heads, width in ((1, 16), (2, 32))
    ]
    second = version == 2
    return MViT((32, 32), 4, blocks, second, second, second, second, num_classes=5)


def _images(size: int, batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, size, size)


def _film(size: int, frames: int, batch: int) -> torch.Tensor:
    return torch.randn(batch, 3, frames, size, size)


def _flow(batch: int) -> tuple:
    return torch.rand(batch, 3, 128, 128), torch.rand(batch, 3, 128, 128), 2


_INSIDE = (8.0, 8.0, 40.0, 48.0)
# FCOS takes the root of a negative number for every anchor outside of its box and then drops the result. In float
# nothing there has a gradient; ranges that are learned on the way from box to root do, and it is NaN.
_AROUND = (-4.0, -4.0, 68.0, 68.0)


def _detected(batch: int, masks: bool = False, keypoints: int = 0, box: tuple[float, ...] = _INSIDE) -> tuple:
    images, targets = [], []
    for _ in range(batch):
        images.append(torch.rand(3, 64, 64))
        target = {"boxes": torch.tensor([box]), "labels": torch.tensor([1])}
        if masks:
            target["masks"] = torch.ones(1, 64, 64, dtype=torch.uint8)
        if keypoints:
            target["keypoints"] = torch.tensor([20.0, 20.0, 1.0]).expand(1, keypoints, 3).clone()
        targets.append(target)
    return images, targets
