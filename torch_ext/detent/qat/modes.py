"""Switching in the course of training: which ranges move, and whether batch norms do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from ..quantizers import Quantizer
from ._quantizers import changeable, model_of

if TYPE_CHECKING:
    from ..quantsim import QuantizationSimModel

__all__ = ["freeze_batch_norm", "set_modes"]


def set_modes(
    sim: QuantizationSimModel | nn.Module, *, activations: str | None = None, parameters: str | None = None
) -> None:
    """Say how ranges move from now on; values stay those of the moment.

    ``("fixed", "dynamic")`` is training without range learning, ``("learned", "learned")`` with it, and
    ``("fixed", "fixed")`` freezes every range. Encodings frozen for good (``allow_overwrite(False)``) stay as they are.
    A range that stops learning forgets its gradient, so that no optimizer moves it on. One that leaves ``"dynamic"``
    has new parameters: add ``parameter_groups(sim, ..., without=optimizer)`` to an optimizer that runs already.

    Float formats have no range to learn, and without a scale none that moves: theirs stay as they are then.

    Args:
        sim: A sim, or a module that contains its model.
        activations: ``"fixed"`` or ``"learned"``; ``None`` leaves them.
        parameters: ``"fixed"``, ``"learned"`` or ``"dynamic"``; ``None`` leaves them.
    Raises:
        ValueError: A mode is none of these, or a range held as scale and zero point should become dynamic. Nothing has
            changed.
        RuntimeError: The model is wrapped in DistributedDataParallel, which has to be made anew. Nothing has changed.
    Example:
        >>> sim = detent.QuantizationSimModel(nn.Linear(4, 2), torch.randn(1, 4))
        >>> sim.compute_encodings(lambda model: model(torch.randn(8, 4)))
        >>> set_modes(sim, activations="learned", parameters="learned")
        >>> sorted({quantizer.mode for quantizer in sim.quantizers()})
        ['learned']
    """
    for name, mode, known in (
        ("activations", activations, ("fixed", "learned")),
        ("parameters", parameters, ("fixed", "learned", "dynamic")),
    ):
        if mode is not None and mode not in known:
            raise ValueError(f"set_modes: {name} is {mode!r}, expected {', '.join(known)}, or None to leave them.")
    wanted: list[tuple[Quantizer, str]] = []
    for _, quantizer in changeable("set_modes", sim):
        mode = activations if quantizer._source is None else parameters
        if mode in quantizer._modes:
            quantizer._check_mode(f"set_modes: {quantizer._title()}", mode)
            wanted.append((quantizer, mode))
    for quantizer, mode in wanted:
        quantizer.mode = mode
        if mode == "fixed":
            for parameter in quantizer.parameters():
                parameter.grad = None


def freeze_batch_norm(model: QuantizationSimModel | nn.Module, freeze: bool = True) -> None:
    """Keep the statistics of every batch norm as they are, in ``train()`` too; weights and biases still train.

    Late in training, running statistics that lag behind the weights cost more than they bring (Krishnamoorthi 2018).
    Copies and pickles stay frozen; a state_dict does not say it, so freeze again after loading one.

    Args:
        model: A sim, or a module.
        freeze: ``False`` undoes it, at the next ``train()`` for a model in eval mode.
    Example:
        >>> model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        >>> freeze_batch_norm(model)
        >>> _ = model.train()(torch.randn(8, 4) + 7)
        >>> model[1].running_mean
        tensor([0., 0., 0., 0.])
    """
    model = model_of("freeze_batch_norm", model)
    for module in model.modules():
        if not isinstance(module, nn.modules.batchnorm._BatchNorm):
            continue
        hooks = module._forward_pre_hooks
        found = [key for key, hook in hooks.items() if hook is _as_in_eval]
        if freeze and not found:
            module.register_forward_pre_hook(_as_in_eval)
        elif not freeze and found:
            for key in found:
                del hooks[key]
            module.train(model.training)


def _as_in_eval(norm: nn.Module, _inputs: tuple) -> None:
    if norm.training:
        norm.training = False
