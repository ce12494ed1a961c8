"""Finding where a NaN came from."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..quantizers import Quantizer
from ._quantizers import named_quantizers

if TYPE_CHECKING:
    from ..quantsim import QuantizationSimModel

__all__ = ["nan_guard"]


@contextlib.contextmanager
def nan_guard(sim: QuantizationSimModel | nn.Module) -> Iterator[None]:
    """Inside, the first quantizer that sees a NaN raises: in its input, its range or, in backward, its gradient.

    For looking, not for training: every quantizer waits for the device. It sees what runs eagerly, and a quantizer that
    is off or observing looks at its input too.

    Args:
        sim: A sim, or a module that contains its model.
    Raises:
        FloatingPointError: Naming the quantizer, and where in it the NaN is.
        ValueError: There are no quantizers.
    Example:
        >>> sim = detent.QuantizationSimModel(nn.Linear(2, 2), torch.randn(1, 2))
        >>> sim.compute_encodings(lambda model: model(torch.randn(8, 2)))
        >>> with nan_guard(sim):
        ...     sim.model(torch.tensor([[1.0, float("nan")]]))
        Traceback (most recent call last):
        FloatingPointError: nan_guard: 'input_quantizers.0' is the first quantizer to see a NaN, in its input: 1 of 2
        values of shape (1, 2). Look at what computes this tensor.
    """
    handles = []
    for name, quantizer in named_quantizers("nan_guard", sim):
        handles.append(quantizer.register_forward_pre_hook(functools.partial(_check_inputs, name)))
        handles.append(quantizer.register_forward_hook(functools.partial(_watch_gradient, name)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _complain(name: str, where: str, tensor: Tensor, advice: str) -> None:
    count = int(torch.isnan(tensor).sum()) if tensor.is_floating_point() else 0
    if count:
        raise FloatingPointError(
            f"nan_guard: {name!r} is the first quantizer to see a NaN, in its {where}: {count} of {tensor.numel()} "
            f"values of shape {tuple(tensor.shape)}. {advice}"
        )


def _check_inputs(name: str, quantizer: Quantizer, inputs: tuple) -> None:
    trained = "A step of the optimizer put it there: lower the rate."
    for key, tensor in (*quantizer.named_parameters(), *quantizer.named_buffers()):
        _complain(name, f"range ({key})", tensor, trained)
    if quantizer._source is None:
        _complain(name, "input", inputs[0], "Look at what computes this tensor.")
    else:
        _complain(name, "input, a parameter", inputs[0], trained)


def _watch_gradient(name: str, _quantizer: Quantizer, _inputs: tuple, output: Tensor) -> None:
    if output.requires_grad:
        output.register_hook(
            lambda gradient: _complain(name, "gradient", gradient, "It came from what reads this quantizer's output.")
        )
