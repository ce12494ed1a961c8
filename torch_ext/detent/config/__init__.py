"""The configuration of a simulation: which tensors of which operators are quantized, and how.

The same settings as a Python object, :class:`Config`, and as JSON in AIMET's format; ``schema.json`` beside this file
is the published schema. Settings per layer, which JSON has none for, are :meth:`Config.override`.
"""

from .model import (
    Bits,
    Config,
    Defaults,
    EncodingConstraints,
    Kernel,
    ModelInput,
    ModelOutput,
    Ops,
    OpType,
    Param,
    Supergroup,
)
from .names import NAMES
from .overrides import Override

__all__ = [
    "NAMES",
    "Bits",
    "Config",
    "Defaults",
    "EncodingConstraints",
    "Kernel",
    "ModelInput",
    "ModelOutput",
    "OpType",
    "Ops",
    "Override",
    "Param",
    "Supergroup",
]
