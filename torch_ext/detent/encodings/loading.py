"""Encodings of a file into a simulation model: all of them, or none."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING, Any

import torch

from ..defs import Granularity
from . import checking, v2_0_0
from .files import EncodingsFile, read_any
from .floating import Encoding, FloatEncoding
from .grouped import GroupedBlockEncoding

if TYPE_CHECKING:
    from ..quantizers import Quantizer
    from ..quantsim import QuantizationSimModel

__all__ = ["load"]

#: In an ONNX graph a module that runs twice has ``fc.input_0`` and ``fc.input_0_1``.
_AGAIN = re.compile(r"((?:.*\.)?(?:input|output)_[0-9]+)_[0-9]+", re.DOTALL)


@dataclass
class _Target:
    name: str
    encoding: Encoding
    quantizer: Quantizer


def load(
    sim: QuantizationSimModel,
    encodings: Mapping[str, Any] | str | PathLike[str],
    *,
    strict: bool = True,
    partial: bool = True,
    requires_grad: bool | None = None,
    allow_overwrite: bool | None = True,
    parameters_only: bool = False,
) -> None:
    """What :meth:`QuantizationSimModel.load_encodings` does; ``parameters_only`` passes over activations."""
    if not isinstance(encodings, (Mapping, str, PathLike)):
        raise ValueError(
            f"load_encodings: encodings is {checking.shown(encodings)}, expected a path or a mapping with its content."
        )
    from ..quantizers.kinds import suit_encoding

    file = read_any(encodings)
    given = dict(file.parameters) if parameters_only else {**file.activations, **file.parameters}
    if parameters_only and file.version == v2_0_0.VERSION:  # which does not say what is a parameter
        known = {name for name, _ in sim._network.named_parameters(remove_duplicate=False)}
        given = {name: encoding for name, encoding in given.items() if name in known}
    if not given:
        what = "encodings of parameters" if parameters_only else "encodings"
        raise RuntimeError(f"load_encodings: the file holds no {what}, expected at least one.")
    targets, kept = _targets(sim, file, given, strict)
    before = [(target.quantizer, target.quantizer._remember()) for target in targets]
    try:
        for target in targets:
            if target.quantizer._overwritable:
                _check_layout(target)
                suit_encoding(target.quantizer, target.encoding)
                target.quantizer.set_encoding(target.encoding, requires_grad=requires_grad)
                _check_taken(target)
    except BaseException:  # Ctrl-C too
        for quantizer, state in before:
            quantizer._recall(state)
        raise
    for target in targets:
        if allow_overwrite is not None:
            target.quantizer.allow_overwrite(allow_overwrite)
    if not partial:
        unwanted = {id(quantizer) for _, _, quantizer in sim._named_slots()} - kept
        sim._remove(unwanted, "not in the encodings that were loaded")


def _targets(
    sim: QuantizationSimModel, file: EncodingsFile, given: Mapping[str, Encoding], strict: bool
) -> tuple[list[_Target], set[int]]:
    """Which quantizer each encoding is for, and the ids of all quantizers that the file speaks of."""
    slots = {name: quantizer for name, _, quantizer in sim._named_slots()}
    found: dict[int, _Target] = {}
    kept: set[int] = set()
    unknown: list[str] = []
    off: list[str] = []
    for name, encoding in given.items():
        again = None if name in slots else _AGAIN.fullmatch(name)
        quantizer = slots.get(again[1] if again else name)
        if quantizer is None:
            unknown.append(name)
            continue
        kept.add(id(quantizer))
        if not quantizer.enabled:
            off.append(name)
            continue
        encoding = _laid_out(name, encoding, quantizer)
        first = found.setdefault(id(quantizer), _Target(name, encoding, quantizer))
        if not _same(first.encoding, encoding):
            raise ValueError(
                f"load_encodings: {checking.printable(first.name)} and {checking.printable(name)} have one quantizer "
                "in this sim and two different encodings in the file, expected equal ones."
            )
    for names, what in ((unknown, "no quantizer for"), (off, "the quantizer is off of")):
        if strict and names:
            listed = ", ".join(checking.printable(name) for name in names[:5])
            raise RuntimeError(
                f"load_encodings: {what} {listed}{' ...' if len(names) > 5 else ''}, expected only tensors this sim "
                f"quantizes (the file is {file.version}, keyed by {file.keyed_by}). Pass strict=False to skip them."
            )
    return list(found.values()), kept


def _laid_out(name: str, encoding: Encoding, quantizer: Quantizer) -> Encoding:
    """Grouped blocks in the shape of their quantizer, which a flat file does not say."""
    counts = getattr(quantizer, "_group_counts", None)
    if isinstance(encoding, FloatEncoding):
        return encoding
    if isinstance(encoding, GroupedBlockEncoding) != (counts is not None):
        kinds = "blocks with integer scales (LPBQ)", "scales without groups"
        came, expected = kinds if counts is None else kinds[::-1]
        raise ValueError(
            f"load_encodings: {checking.printable(name)} has {came}, expected {expected}, as its quantizer is a "
            f"{type(quantizer).__name__}."
        )
    if counts is None:
        return encoding
    return encoding.laid_on(f"load_encodings: {checking.printable(name)}", quantizer.shape, counts)


def _same(first: Encoding, second: Encoding) -> bool:
    def grid(encoding: Encoding) -> tuple:
        if isinstance(encoding, FloatEncoding):
            return (encoding.format,)
        return encoding.bitwidth, encoding.is_symmetric, encoding.num_steps, getattr(encoding, "decompressed_bw", None)

    def numbers(encoding: Encoding) -> list[list[float]]:
        held = (getattr(encoding, name, None) for name in ("scale", "offset"))
        return [tensor.flatten().tolist() for tensor in held if tensor is not None]

    return first is second or (grid(first) == grid(second) and numbers(first) == numbers(second))


def _check_layout(target: _Target) -> None:
    """Raise ValueError where as many scales would lie on the tensor in another way."""
    encoding, quantizer = target.encoding, target.quantizer
    quantizer._check_takes_range()
    if encoding.scale is None:
        return
    name, scales = checking.printable(target.name), encoding.scale.numel()
    if scales != math.prod(quantizer.shape):
        raise ValueError(
            f"load_encodings: {name} has {scales} scales, expected {math.prod(quantizer.shape)} for scales of shape "
            f"{quantizer.shape}."
        )
    if scales == 1:
        return
    granularity = quantizer._layout.granularity
    if encoding.granularity is not granularity:
        raise ValueError(
            f"load_encodings: {name} is {encoding.granularity.name}, expected {granularity.name} for scales of shape "
            f"{quantizer.shape}."
        )
    if encoding.granularity is Granularity.per_channel and encoding.axis is not None:
        axis = quantizer._known_axis()
        if (axis < 0) == (encoding.axis < 0) and axis != encoding.axis:
            raise ValueError(f"load_encodings: {name} has axis {encoding.axis}, expected {axis}.")
    if encoding.granularity is Granularity.per_block:
        if encoding.scale.dim() > 1 and tuple(encoding.scale.shape) != quantizer.shape:
            raise ValueError(
                f"load_encodings: {name} has scales of shape {tuple(encoding.scale.shape)}, expected {quantizer.shape}."
            )
        blocks = quantizer._concrete_blocks()
        if -1 not in blocks and encoding.block_size[0] not in blocks:
            raise ValueError(
                f"load_encodings: {name} has blocks of {encoding.block_size[0]}, expected blocks of {tuple(blocks)}."
            )


@torch.no_grad()
def _check_taken(target: _Target) -> None:
    """Raise ValueError where the quantizer now computes with other numbers than the file says."""
    encoding, quantizer = target.encoding, target.quantizer
    if encoding.scale is None:
        return
    taken = quantizer.get_encoding()
    wanted, got = encoding.scale.double().flatten(), taken.scale.double().flatten()
    same = ((got - wanted).abs() <= 1e-6 * wanted).all()
    if not isinstance(encoding, FloatEncoding):
        shift = (taken.offset.double().flatten() - encoding.offset.double().flatten()).abs()
        same &= (shift <= 1e-6 * encoding.num_steps).all()
    if not bool(same):
        worst = int((got / wanted - 1).abs().argmax())
        raise ValueError(
            f"load_encodings: {checking.printable(target.name)} has scale {wanted[worst].item():g}, expected one that "
            f"float32 ranges can hold (the nearest is {got[worst].item():g})."
        )
