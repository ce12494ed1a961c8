"""Quantized weights, computed once for as many forwards as the weights stay what they are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from torch import nn

from ..distributed import is_sharded
from ..nn.keeping import keeping_weights
from ._quantizers import model_of, named_quantizers

if TYPE_CHECKING:
    from ..quantsim import QuantizationSimModel

__all__ = ["cached_weights"]


@contextlib.contextmanager
def cached_weights(sim: QuantizationSimModel | nn.Module) -> Iterator[None]:
    """Inside, each parameter is quantized once, and later forwards take what is there until it changes.

    For accumulated gradients and evaluation. Outputs and gradients have the same bits as without. A step of the
    optimizer, a new range, another mode or grid is seen, and the parameter quantized again; so the whole training loop
    may be inside. What is kept, a copy of every quantized parameter and a bit per element, is let go on leaving.

    A change is seen by the versions of tensors, which a write through ``.data`` does not move: begin anew after one.
    Parameters that came after entering, computed weights, replicas of DataParallel, what runs under ``torch.compile``,
    ``torch.func`` or a dispatch mode, and CUDA graphs are quantized each time, as without. Call backward inside where
    ``torch.utils.checkpoint`` is used, which compares what a forward saves with what its second run saves.

    Args:
        sim: A sim, or a module that contains its model.
    Raises:
        ValueError: There are no quantizers.
        RuntimeError: The model is sharded (FSDP): its parameters are gathered anew for each forward, unseen.
    Example:
        >>> sim = detent.QuantizationSimModel(nn.Linear(4, 2), torch.randn(1, 4))
        >>> sim.compute_encodings(lambda model: model(torch.randn(8, 4)))
        >>> optimizer = torch.optim.SGD(sim.model.parameters(), 0.1)
        >>> with cached_weights(sim):
        ...     for batch in torch.randn(8, 4).split(2):  # accumulated
        ...         sim.model(batch).sum().backward()
        ...     optimizer.step()
    """
    named_quantizers("cached_weights", sim)
    model = model_of("cached_weights", sim)
    if is_sharded(model):
        raise RuntimeError(
            "cached_weights: the model is sharded over ranks, expected whole parameters: those of FSDP are gathered "
            "anew for each forward, and what was made of the last ones cannot be told to be out of date. Leave "
            "cached_weights out."
        )
    with keeping_weights(model):
        yield
