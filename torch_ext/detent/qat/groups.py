"""Parameter groups: ranges are not weights, and are trained otherwise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..quantizers import Quantizer
from ._quantizers import model_of

if TYPE_CHECKING:
    from ..quantsim import QuantizationSimModel

__all__ = ["parameter_groups"]


def parameter_groups(
    sim: QuantizationSimModel | nn.Module,
    *,
    lr: float,
    range_lr: float | None = None,
    weight_decay: float = 0.0,
    decay_norms_and_biases: bool = True,
    without: torch.optim.Optimizer | None = None,
) -> list[dict[str, Any]]:
    """What to hand a torch optimizer: every trainable parameter once, and no decay on ranges.

    Decay pulls a range to zero whatever the data say, and a rate that suits weights is rarely one that suits ranges.

    Args:
        sim: A sim, or a module that contains its model, DataParallel say. A float model gives the same groups less the
            ranges.
        lr: Learning rate of the model's own parameters.
        range_lr: Learning rate of the quantizers' parameters; ``None``: ``lr``.
        weight_decay: Decay of the model's own parameters.
        decay_norms_and_biases: ``False`` takes decay off parameters of at most one dimension.
        without: An optimizer that runs already: parameters it holds are left out, so that the groups returned can be
            added to it after :func:`set_modes` or :func:`use_lsq` made new ones.
    Returns:
        Groups with the keys ``"params"``, ``"lr"``, ``"weight_decay"`` and ``"name"``, which is ``"weights"``,
        ``"norms_and_biases"`` (only with ``decay_norms_and_biases=False``) or ``"ranges"``; none of them empty. Every
        optimizer of torch takes them; further options go into its constructor.
    Raises:
        ValueError: A rate or the decay is negative or not finite.
        TypeError: ``sim`` is neither a sim nor a module.
    Example:
        >>> sim = detent.QuantizationSimModel(nn.Linear(4, 2), torch.randn(1, 4), "training_range_learning")
        >>> groups = parameter_groups(sim, lr=1e-2, range_lr=1e-3, weight_decay=1e-4)
        >>> optimizer = torch.optim.SGD(groups, momentum=0.9)
        >>> [(group["name"], len(group["params"]), group["lr"], group["weight_decay"]) for group in groups]
        [('weights', 2, 0.01, 0.0001), ('ranges', 6, 0.001, 0.0)]
    """
    range_lr = lr if range_lr is None else range_lr
    for name, value in (("lr", lr), ("range_lr", range_lr), ("weight_decay", weight_decay)):
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"parameter_groups: {name} is {value!r}, expected a number of 0 or more.")
    groups: dict[str, dict[str, Any]] = {
        "weights": {"params": [], "lr": lr, "weight_decay": weight_decay},
        "norms_and_biases": {"params": [], "lr": lr, "weight_decay": 0.0},
        "ranges": {"params": [], "lr": range_lr, "weight_decay": 0.0},
    }
    held = [] if without is None else [parameter for group in without.param_groups for parameter in group["params"]]
    seen = {id(parameter) for parameter in held}
    for module in model_of("parameter_groups", sim).modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            name = "weights"
            if isinstance(module, Quantizer):
                name = "ranges"
            elif not decay_norms_and_biases and parameter.dim() <= 1:
                name = "norms_and_biases"
            groups[name]["params"].append(parameter)
    return [{**group, "name": name} for name, group in groups.items() if group["params"]]
