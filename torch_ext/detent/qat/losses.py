"""Terms to add to a loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..quantizers import Quantizer
from ._quantizers import named_quantizers, spread

if TYPE_CHECKING:
    from ..quantsim import QuantizationSimModel

__all__ = ["dampening_loss", "distillation_loss"]


def distillation_loss(student: Tensor, teacher: Tensor, *, temperature: float = 1.0, dim: int = -1) -> Tensor:
    """How far the quantized model's classes are from the float model's: the mean over samples of
    ``T**2 * KL(softmax(teacher / T) || softmax(student / T))`` (Hinton 2015, section 2).

    ``T**2`` keeps the size of the gradient, so that the weight of this term need not change with ``temperature``.

    Args:
        student, teacher: Logits of one shape; the teacher's get no gradient.
        temperature: ``T``, > 0; above 1 the small probabilities count for more.
        dim: Dimension of the classes; all others are samples.
    Returns:
        0-dim tensor, 0 where both agree.
    Raises:
        ValueError: The shapes differ, or ``temperature`` is not a positive number.
    Example:
        >>> logits = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> distillation_loss(logits, logits).item(), round(distillation_loss(logits, logits.flip(0)).item(), 4)
        (0.0, 1.5232)
    """
    if student.shape != teacher.shape:
        raise ValueError(
            f"distillation_loss: student has shape {tuple(student.shape)} and teacher {tuple(teacher.shape)}, expected "
            "one shape. Run both models on the same batch."
        )
    if not 0 < temperature < float("inf"):
        raise ValueError(f"distillation_loss: temperature is {temperature!r}, expected a positive number.")
    target = F.log_softmax(teacher.detach() / temperature, dim)
    divergence = F.kl_div(F.log_softmax(student / temperature, dim), target, reduction="none", log_target=True)
    return divergence.sum(dim).mean() * temperature**2


def dampening_loss(sim: QuantizationSimModel | nn.Module) -> Tensor:
    """Pulls weights to the middle of their steps, so that they do not swing between two codes late in training:
    the sum of ``(fake_quantize(w) - clamp(w, min, max))**2`` over all weights (Nagel 2022).

    The paper weighs it with a factor that grows from 0 in the course of training. The rounded weights and the ranges
    get no gradient from it, nor do weights outside their range.

    Args:
        sim: A sim, or a module that contains its model.
    Returns:
        0-dim tensor; 0 where no parameter has a quantizer that is on and calibrated.
    Example:
        >>> sim = detent.QuantizationSimModel(nn.Linear(64, 8), torch.randn(1, 64), default_param_bw=2)
        >>> sim.compute_encodings(lambda model: model(torch.randn(8, 64)))
        >>> optimizer = torch.optim.SGD(sim.model.parameters(), lr=0.1)
        >>> before = dampening_loss(sim)
        >>> before.backward()
        >>> optimizer.step()
        >>> bool(dampening_loss(sim) < before)
        True
    """
    terms = []
    for _, quantizer in named_quantizers("dampening_loss", sim):
        weight = quantizer._source.tensor() if quantizer._source is not None else None
        if weight is not None and quantizer.enabled and quantizer.is_initialized():
            terms.append(_distance_to_grid(quantizer, weight))
    return torch.stack(terms).sum() if terms else torch.zeros(())


def _distance_to_grid(quantizer: Quantizer, weight: Tensor) -> Tensor:
    with torch.no_grad():
        rounded = quantizer(weight)
        low, high = (spread(quantizer, end).to(weight.dtype) for end in (quantizer.get_min(), quantizer.get_max()))
    return (rounded - weight.clamp(low, high)).square().sum()
