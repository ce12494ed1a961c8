"""Checkpoints of a simulation: numbers only, so that loading a file runs nothing that is in it."""

from __future__ import annotations

import os
import tempfile
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .quantizers import Quantizer

if TYPE_CHECKING:
    from .quantsim import QuantizationSimModel

__all__ = ["load_checkpoint", "save_checkpoint"]

_FORMAT = "detent checkpoint"


def save_checkpoint(sim: QuantizationSimModel, file_path: str | PathLike[str]) -> None:
    """Write all numbers of a simulation to one file: its state_dict, and which quantizers there are, on or off.

    The file appears whole or not at all.

    Args:
        sim: Any.
        file_path: Where to; its folder exists.
    Example:
        >>> sim = detent.QuantizationSimModel(torch.nn.Linear(4, 2), torch.randn(1, 4))
        >>> sim.compute_encodings(lambda model: model(torch.randn(32, 4)))
        >>> save_checkpoint(sim, f"{folder}/linear.pt")
        >>> fresh = detent.QuantizationSimModel(torch.nn.Linear(4, 2), torch.randn(1, 4))
        >>> x = torch.randn(3, 4)
        >>> torch.equal(load_checkpoint(f"{folder}/linear.pt", fresh).model(x), sim.model(x))
        True
    """
    content = {
        "format": _FORMAT,
        "version": 1,
        "state": sim._network.state_dict(),
        "quantizers": {
            name: {"enabled": quantizer.enabled, "allow_overwrite": quantizer._overwritable}
            for name, quantizer in _quantizers(sim).items()
        },
    }
    target = Path(file_path)
    number, hidden = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(number, "wb") as file:
            torch.save(content, file)
        os.replace(hidden, target)
    except BaseException:
        os.unlink(hidden)
        raise


def load_checkpoint(file_path: str | PathLike[str], sim: QuantizationSimModel) -> QuantizationSimModel:
    """Give a simulation the numbers of a checkpoint.

    Args:
        file_path: What :func:`save_checkpoint` wrote.
        sim: Built from the same model as the one that was saved, with the same layers excluded. A file of numbers holds
            no code from which it could be made.
    Returns:
        ``sim``. Quantizers that the saved one did not have any more are removed.
    Raises:
        OSError: The file cannot be opened.
        ValueError: It is no checkpoint, or of another model. ``sim`` is as it was.
    """
    content = _read(file_path)
    state, flags, held = content["state"], content["quantizers"], _quantizers(sim)
    extra = sorted(set(flags) - set(held))
    if extra:
        raise ValueError(
            f"load_checkpoint: {extra[0]} is in the file and not in the sim ({len(extra)} such quantizers), expected a "
            "sim with all quantizers of the file. Build it as the saved one was built and exclude the same layers."
        )
    removed = {name: quantizer for name, quantizer in held.items() if name not in flags}
    ours = {key: value for key, value in sim._network.state_dict().items() if not _below(key, removed)}
    numbers = {key: value for key, value in ours.items() if isinstance(value, Tensor) and not _below(key, held)}
    given = {key: state[key] for key in state if not _below(key, held)}
    if given.keys() != numbers.keys():
        odd = min(given.keys() ^ numbers.keys())
        raise ValueError(
            f"load_checkpoint: {odd} is {'only in the file' if odd in given else 'not in the file'}, expected the "
            "parameters and buffers of the sim's model."
        )
    for key, value in numbers.items():
        if not isinstance(given[key], Tensor) or given[key].shape != value.shape:
            shape = tuple(getattr(given[key], "shape", ()))
            raise ValueError(f"load_checkpoint: {key} has shape {shape}, expected {tuple(value.shape)}.")
    before = [(quantizer, quantizer._remember()) for quantizer in set(held.values())]
    try:
        sim._network.load_state_dict({key: state[key] for key in state if _below(key, held)}, strict=False)
    except RuntimeError as error:
        for quantizer, remembered in before:
            quantizer._recall(remembered)
        raise ValueError(f"load_checkpoint: the file does not fit the sim. {error}") from error
    sim._network.load_state_dict(given, strict=False)
    for name, quantizer in held.items():
        if name in flags:
            quantizer.enabled = bool(flags[name]["enabled"])
            quantizer.allow_overwrite(flags[name]["allow_overwrite"])
    sim._remove({id(quantizer) for quantizer in removed.values()}, "not in the checkpoint that was loaded")
    return sim


def _quantizers(sim: QuantizationSimModel) -> dict[str, Quantizer]:
    """Every quantizer under every name it has."""
    named = sim._network.named_modules(remove_duplicate=False)
    return {name: module for name, module in named if isinstance(module, Quantizer)}


def _below(key: str, quantizers: dict[str, Any]) -> bool:
    return key.rpartition(".")[0] in quantizers


def _read(path: str | PathLike[str]) -> dict[str, Any]:
    with open(path, "rb") as file:
        try:
            content = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:  # torch's reader raises of all kinds
            raise ValueError(f"load_checkpoint: {path} is no checkpoint or damaged: {error}") from error
    known = isinstance(content, dict) and content.get("format") == _FORMAT
    if not known or not isinstance(content.get("state"), dict) or not isinstance(content.get("quantizers"), dict):
        raise ValueError(
            f"load_checkpoint: {path} is no checkpoint, expected a file that save_checkpoint wrote. A state_dict is "
            "loaded with sim.model.load_state_dict."
        )
    if content["version"] != 1:
        raise ValueError(f"load_checkpoint: {path} has version {content['version']!r}, expected 1.")
    return content
