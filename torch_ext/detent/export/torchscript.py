"""A traced simulation model: quantizers inside, gradients and all, for programs without Python."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

__all__ = ["trace"]


def trace(model: nn.Module, args: tuple, kwargs: Mapping[str, Any], path: Path) -> None:
    """Trace a model (a copy: tracing may touch it) and save it to ``path``.

    The file loads after ``libdetent.so``, and for gradients ``libdetent_autograd.so``, were loaded:
    ``torch.ops.load_library`` in Python, ``dlopen(..., RTLD_NOW | RTLD_GLOBAL)`` in C++.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch 2.14 announces the end of TorchScript at every call
        warnings.simplefilter("ignore", DeprecationWarning)
        inputs = {"example_kwarg_inputs": dict(kwargs)} if kwargs else {"example_inputs": args}
        traced = torch.jit.trace(model, check_trace=False, **inputs)
        torch.jit.save(traced, str(path))
