"""Parameter groups: ranges are not weights, and are trained otherwise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..quantizers import AffineQuantizer, Quantizer
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
    range_weight_decay: float = 0.0,
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
        range_weight_decay: Decay of the upper ends that :func:`use_pact` made, which the paper decays like weights;
            other ranges have none.
        decay_norms_and_biases: ``False`` takes decay off parameters of at most one dimension.
        without: An optimizer that runs already: parameters it holds are left out, so that the groups returned can be
            added to it after :func:`set_modes` or :func:`use_lsq` made new ones.
    Returns:
        Groups with the keys ``"params"``, ``"lr"``, ``"weight_decay"`` and ``"name"``, which is ``"weights"``,
        ``"norms_and_biases"`` (only with ``decay_norms_and_biases=False``), ``"ranges"`` or ``"pact"``; none of them
        empty. Every optimizer of torch takes them; further options go into its constructor.
    Raises:
        ValueError: A rate or a decay is negative or not finite, or nothing is there for ``range_weight_decay``.
        TypeError: ``sim`` is neither a sim nor a module.
    Example:
        >>> sim = detent.QuantizationSimModel(nn.Linear(4, 2), torch.randn(1, 4), "training_range_learning")
        >>> groups = parameter_groups(sim, lr=1e-2, range_lr=1e-3, weight_decay=1e-4)
        >>> optimizer = torch.optim.SGD(groups, momentum=0.9)
        >>> [(group["name"], len(group["params"]), group["lr"], group["weight_decay"]) for group in groups]
        [('weights', 2, 0.01, 0.0001), ('ranges', 6, 0.001, 0.0)]
    """
    range_lr = lr if range_lr is None else range_lr
    given = {"lr": lr, "range_lr": range_lr, "weight_decay": weight_decay, "range_weight_decay": range_weight_decay}
    for name, value in given.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"parameter_groups: {name} is {value!r}, expected a number of 0 or more.")
    groups: dict[str, dict[str, Any]] = {
        "weights": {"params": [], "lr": lr, "weight_decay": weight_decay},
        "norms_and_biases": {"params": [], "lr": lr, "weight_decay": 0.0},
        "ranges": {"params": [], "lr": range_lr, "weight_decay": 0.0},
        "pact": {"params": [], "lr": range_lr, "weight_decay": range_weight_decay},
    }
    model = model_of("parameter_groups", sim)
    if range_weight_decay and not any(_has_pact(module) for module in model.modules()):
        raise ValueError(
            f"parameter_groups: range_weight_decay is {range_weight_decay!r} and no range is PACT's, expected 0. Call "
            "use_pact first; other ranges have no decay."
        )
    held = [] if without is None else [parameter for group in without.param_groups for parameter in group["params"]]
    seen = {id(parameter) for parameter in held}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            name = "weights"
            if isinstance(module, Quantizer):
                name = "pact" if _has_pact(module) else "ranges"
            elif not decay_norms_and_biases and parameter.dim() <= 1:
                name = "norms_and_biases"
            groups[name]["params"].append(parameter)
    return [{**group, "name": name} for name, group in groups.items() if group["params"]]


def _has_pact(module: nn.Module) -> bool:
    return isinstance(module, AffineQuantizer) and module.parametrization == "pact"
