"""Running a model for what it shows, leaving no trace of the run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.utils._pytree import tree_map


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """eval() and no_grad() inside; each module's training flag as it was afterwards, whatever happens.

    Models that keep what they compute from parameters between evaluations drop it in ``train(mode)``. So eval() is
    called at the end too: what was kept inside was of numbers that are no longer those of the model.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            yield
    finally:
        model.eval()
        for module, training in flags:
            module.training = training


@contextlib.contextmanager
def without_trace(model: nn.Module) -> Iterator[None]:
    """:func:`evaluating`, and :func:`restored`."""
    with restored(model), evaluating(model):
        yield


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Random state and buffers are as they were afterwards."""
    devices = sorted({tensor.device.index for tensor in model.parameters() if tensor.is_cuda})
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


def call_with_sample(model: nn.Module, sample):
    """``model(sample)``, spread out where the sample is a tuple, a list or a mapping; moved to the model's device."""
    first = next((tensor for tensor in (*model.parameters(), *model.buffers())), None)
    if first is not None:
        sample = tree_map(lambda leaf: leaf.to(first.device) if isinstance(leaf, torch.Tensor) else leaf, sample)
    if isinstance(sample, dict):
        return model(**sample)
    if isinstance(sample, (tuple, list)):
        return model(*sample)
    return model(sample)
