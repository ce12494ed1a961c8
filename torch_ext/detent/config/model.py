"""The settings as Python objects; names and meaning are those of the JSON format."""

from __future__ import annotations

import copy
import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..float_format import FloatFormat
from . import names, reading, schema
from .overrides import Override

__all__ = [
    "Bits",
    "Config",
    "Defaults",
    "EncodingConstraints",
    "Kernel",
    "ModelInput",
    "ModelOutput",
    "OpType",
    "Ops",
    "Param",
    "Supergroup",
]


@dataclass
class Bits:
    """What a tensor of a kernel holds: ``bitwidth`` bits of ``dtype``, ``"int"`` or ``"float"``."""

    bitwidth: int
    dtype: str = "int"


@dataclass
class Kernel:
    """One kernel of the device: its activations and parameters."""

    activation: Bits
    param: Bits | None = None


@dataclass
class EncodingConstraints:
    """A fixed range of outputs, in real units; zero lies inside."""

    min: float
    max: float


@dataclass
class Param:
    """One kind of parameter; ``None`` leaves what a setting of lower precedence says."""

    is_quantized: bool | None = None
    is_symmetric: bool | None = None


@dataclass
class Ops:
    """Activations of every operator."""

    is_output_quantized: bool = False
    is_symmetric: bool = False


@dataclass
class Defaults:
    """What holds where nothing else says otherwise.

    ``strict_symmetric``: symmetric grids leave out their lowest code. ``unsigned_symmetric``: a symmetric range without
    negative numbers takes the grid ``0 .. 2^b - 1``; calibration decides. ``per_channel_quantization``: parameters of
    two dimensions and more have one scale per output channel.
    """

    ops: Ops = field(default_factory=Ops)
    params: Param = field(default_factory=Param)
    strict_symmetric: bool = False
    unsigned_symmetric: bool = False
    per_channel_quantization: bool = False
    supported_kernels: list[Kernel] = field(default_factory=list)
    hw_version: str | None = None


@dataclass
class OpType:
    """One ONNX operator type; ``None`` leaves what a setting of lower precedence says."""

    is_input_quantized: bool | None = None
    is_output_quantized: bool | None = None
    is_symmetric: bool | None = None
    params: dict[str, Param] = field(default_factory=dict)
    per_channel_quantization: bool | None = None
    supported_kernels: list[Kernel] = field(default_factory=list)
    encoding_constraints: EncodingConstraints | None = None


@dataclass
class Supergroup:
    """Operators that a device runs as one: only the last one's output is rounded."""

    op_list: list[str]


@dataclass
class ModelInput:
    """Tensors that no operator of the model made."""

    is_input_quantized: bool = False


@dataclass
class ModelOutput:
    """Tensors that the model returns."""

    is_output_quantized: bool = False


@dataclass
class Config:
    """The configuration of a simulation.

    Settings of higher precedence win: ``defaults``, ``params``, ``op_type``, ``supergroups``, ``model_input``,
    ``model_output``, and then overrides, the last of them first. ``Config()`` quantizes nothing; start from a name.

    ``on_missing_kernel`` is what happens to an operator with bits that none of its ``supported_kernels`` has:
    ``"warn"`` and ``"allow"`` simulate it, with a warning or without; ``"raise"`` raises a ValueError; ``"enforce"``
    replaces the sim's ``default_output_bw`` and ``default_param_bw`` for it by those of the first kernel, if these hold
    at least as much, and raises where they do not, or where an override asked for the bits.

    Example:
        >>> config = Config.load("htp_v73")
        >>> config.op_type["Gelu"] = OpType(is_symmetric=True)
        >>> config.override("0", param_bw=4)
        >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.GELU())
        >>> sim = detent.QuantizationSimModel(model, torch.randn(1, 4), config_file=config)
        >>> sim.model[0].param_quantizers["weight"].bitwidth, sim.model[1].output_quantizers[0].symmetric
        (4, True)
    """

    defaults: Defaults = field(default_factory=Defaults)
    params: dict[str, Param] = field(default_factory=dict)
    op_type: dict[str, OpType] = field(default_factory=dict)
    supergroups: list[Supergroup] = field(default_factory=list)
    supergroup_pass_list: list[str] = field(default_factory=list)
    model_input: ModelInput = field(default_factory=ModelInput)
    model_output: ModelOutput = field(default_factory=ModelOutput)
    on_missing_kernel: str = "warn"
    overrides: list[Override] = field(default_factory=list)

    @classmethod
    def load(cls, source: Config | Mapping[str, Any] | str | PathLike[str] | None = None) -> Config:
        """A configuration from a file, from the content of one, or by name.

        Args:
            source: Path of a JSON file, its content, one of :data:`NAMES`, or a ``Config``, of which a copy is made;
                ``None``: ``"default_per_channel"``.
        Raises:
            ValueError: A value is not what the schema allows; the message has its line and its path in the file.
            FileNotFoundError: There is no such file, and no configuration of that name.
        """
        if isinstance(source, Config):
            source.check()
            return cls(**{f.name: copy.deepcopy(getattr(source, f.name)) for f in dataclasses.fields(cls)[:-1]},
                       overrides=list(source.overrides))  # fmt: skip
        if isinstance(source, Mapping):
            return cls._built(source, reading.Place("config"))
        source = "default_per_channel" if source is None else source
        if not isinstance(source, (str, PathLike)):
            raise ValueError(
                f"config_file is a {type(source).__name__}, expected a path, a name, the content of a file or a Config."
            )
        path, changes = names.find(source)
        made = cls._built(*reading.read(path))
        changes(made)
        return made

    @classmethod
    def _built(cls, content: Any, place: reading.Place) -> Config:
        schema.check(content, place)
        return _from_json(cls, {key: value for key, value in content.items() if key != "$schema"})

    def check(self) -> None:
        """Raise ValueError at the first setting that is none, or that a file could not hold."""
        if self.on_missing_kernel not in _ON_MISSING_KERNEL:
            raise ValueError(
                f"Config: on_missing_kernel is {self.on_missing_kernel!r}, expected one of "
                f"{', '.join(map(repr, _ON_MISSING_KERNEL))}."
            )
        schema.check(self.to_dict(), reading.Place("Config"))

    def to_dict(self) -> dict[str, Any]:
        """The content of a JSON file that says the same; overrides and ``on_missing_kernel``, which JSON has none for,
        left out."""
        content = _to_json(self)
        for name in _PYTHON_ALONE:
            content.pop(name)
        return content

    def save(self, path: str | PathLike[str]) -> None:
        """Write :meth:`to_dict` as JSON.

        Example:
            >>> Config.load("default").save(f"{folder}/mine.json")
            >>> Config.load(f"{folder}/mine.json") == Config.load("default")
            True
        """
        Path(path).write_text(json.dumps(self.to_dict(), indent=2) + "\n", encoding="utf-8")

    def override(
        self,
        select: str | nn.Module | type[nn.Module] | Callable[[str, nn.Module], bool],
        *,
        quantized: bool | None = None,
        output_bw: int | FloatFormat | torch.dtype | str | None = None,
        output_symmetric: bool | None = None,
        param_bw: int | FloatFormat | torch.dtype | str | None = None,
        param_symmetric: bool | None = None,
        granularity: str | None = None,
        block_size: int | tuple[int, ...] | None = None,
    ) -> None:
        """Settings for some layers, and for all that is inside them. Of several, the last one wins.

        Args:
            select: A name or pattern of names, ``*`` and ``?`` as in a shell, of modules, call sites
                (``"layer1.0.add_0"``) and parameters (``"*.bias"``); a module of the float model; a type of modules; or
                a predicate of name and module.
            quantized: ``False``: float. Layers that read an output in float quantize their input. ``True`` undoes an
                earlier ``False``, and quantizes parameters that the configuration does not.
            output_bw: Bits of activations, 2 to 32, or what :meth:`detent.FloatFormat.of` knows as a float format:
                ``torch.float16``, ``"e4m3fn"``, a ``FloatFormat``. A number is of an integer's bits, whatever the
                sim's ``default_data_type`` is.
            output_symmetric: Whether their zero point is fixed.
            param_bw, param_symmetric: The same for parameters.
            granularity: ``"per_tensor"`` or ``"per_channel"``, of parameters.
            block_size: Blocks of a weight that share a scale: how many input channels, one scale per output channel
                beside; or one entry per dimension, -1 for a whole one.
        Raises:
            ValueError: An argument is none of these.
        Example:
            >>> config = Config.load()
            >>> config.override(torch.nn.Linear, param_bw=4, block_size=16)
            >>> config.override("*.head", quantized=False)
            >>> config.override(lambda name, module: name.count(".") > 3, output_bw=torch.bfloat16)
        """
        self.overrides.append(
            Override(
                select, quantized, output_bw, output_symmetric, param_bw, param_symmetric, granularity, block_size
            )
        )


_PYTHON_ALONE = ("on_missing_kernel", "overrides")
_ON_MISSING_KERNEL = ("warn", "allow", "raise", "enforce")


def _from_json(kind: Any, value: Any) -> Any:
    """``value`` of the JSON format, already checked, as a ``kind``."""
    origin, of = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return _from_json(of[0], value)
    if origin is list:
        return [_from_json(of[0], item) for item in value]
    if origin is dict:
        return {key: _from_json(of[1], item) for key, item in value.items()}
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{key: _from_json(hints[key], item) for key, item in value.items()})
    return value in (True, "True") if kind is bool else kind(value)


def _to_json(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        members = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        dropped = _DROPPED.get(type(value), {})
        return {
            key: _to_json(member) for key, member in members.items()
            if member is not None and not (key in dropped and member == dropped[key])
        }  # fmt: skip
    if isinstance(value, dict):
        return {key: _to_json(member) for key, member in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_json(member) for member in value]
    return str(value) if isinstance(value, bool) else value


#: What is left out of JSON because it says nothing, or because the format has no way to say it: False of a switch.
_DROPPED = {
    Ops: {"is_output_quantized": False},
    ModelInput: {"is_input_quantized": False},
    ModelOutput: {"is_output_quantized": False},
    OpType: {"params": {}, "supported_kernels": []},
}
