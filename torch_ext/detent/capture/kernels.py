"""The kernels that a configuration says a device has, against what a simulation asks of it."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable

from ..config import Bits, Config, Kernel
from ..float_format import FloatFormat
from .supergroups import names_of

__all__ = ["Kernels", "bits_of"]

_Type = int | FloatFormat
_SHOWN = 3  # operators in a message


def bits_of(type: _Type) -> Bits:
    """The type of a tensor as configurations say it."""
    return Bits(type.bits, "float") if isinstance(type, FloatFormat) else Bits(type)


class Kernels:
    """``supported_kernels`` of a configuration; see :class:`detent.Config` for ``on_missing_kernel``.

    Args:
        config: The settings.
        output_type, param_type: What the sim asks for where nothing else does.
    """

    def __init__(self, config: Config, output_type: _Type, param_type: _Type):
        self.config, self.asked = config, (output_type, param_type)
        self.types = functools.cache(self._types)

    def of(self, onnx_op: str) -> list[Kernel]:
        """The kernels of an operator type; none: whatever is asked for runs."""
        kernels = self.config.defaults.supported_kernels
        for name in names_of(onnx_op):
            if name in self.config.op_type:
                kernels = self.config.op_type[name].supported_kernels or kernels
        return kernels

    def _types(self, onnx_op: str) -> tuple[_Type, _Type]:
        """Types of activations and parameters of an operator that no override speaks of.

        Raises:
            ValueError: The sim's have to be raised to the first kernel's, which holds less.
        """
        kernels, asked = self.of(onnx_op), tuple(map(bits_of, self.asked))
        if self.config.on_missing_kernel != "enforce" or self._run(onnx_op, *self.asked):
            return self.asked
        first = kernels[0].activation, kernels[0].param or asked[1]
        if not all(_holds(new, old) for new, old in zip(first, asked)):
            raise ValueError(
                f"supported_kernels: {onnx_op} was asked to run with {_pair(*asked)}, for which the configuration has "
                f"no kernel; its first one, {_kernel(kernels[0])}, holds less. The configuration permits "
                f"{_kernels(kernels)}. Set default_output_bw and default_param_bw to one of these, or "
                "config.on_missing_kernel to 'warn'."
            )
        return tuple(old if new == bits else _type(new) for new, bits, old in zip(first, asked, self.asked))

    def check(self, operators: Iterable[tuple[str, str, _Type, _Type | None]]) -> None:
        """Say which operators, ``(name, ONNX operator, activations, parameters)``, no kernel runs.

        Raises:
            ValueError: There are such, and ``on_missing_kernel`` is ``"raise"`` or ``"enforce"``.
        """
        action = self.config.on_missing_kernel
        missing = [] if action == "allow" else [asked for asked in operators if not self._run(*asked[1:])]
        if not missing:
            return
        shown = [
            f"{name} ({onnx_op}) was asked to run with {_pair(bits_of(output), param and bits_of(param))}, the "
            f"configuration permits {_kernels(self.of(onnx_op))}" for name, onnx_op, output, param in missing[:_SHOWN]
        ]  # fmt: skip
        said = (
            f"supported_kernels: no kernel for {len(missing)} operator{'s' if len(missing) > 1 else ''}: "
            f"{'; '.join(shown)}{'; ...' if len(missing) > _SHOWN else ''}."
        )
        if action == "warn":
            warnings.warn(f"{said} They are simulated all the same.", stacklevel=5)
        else:
            raise ValueError(f"{said} Change the bitwidths, or config.on_missing_kernel, which is {action!r}.")

    def _run(self, onnx_op: str, output: _Type, param: _Type | None) -> bool:
        kernels = self.of(onnx_op)
        return not kernels or any(_runs(kernel, bits_of(output), param and bits_of(param)) for kernel in kernels)


def _runs(kernel: Kernel, activation: Bits, param: Bits | None) -> bool:
    return kernel.activation == activation and (None in (param, kernel.param) or kernel.param == param)


def _holds(new: Bits, old: Bits) -> bool:
    """Whether ``new`` is as precise as ``old``."""
    return new.bitwidth >= old.bitwidth and (new.dtype == "float" or old.dtype == "int")


def _type(bits: Bits) -> _Type:
    return FloatFormat.of(bits.bitwidth) if bits.dtype == "float" else bits.bitwidth


def _pair(activation: Bits, param: Bits | None) -> str:
    with_param = "" if param is None else f" and {param.dtype}{param.bitwidth} parameters"
    return f"{activation.dtype}{activation.bitwidth} activations{with_param}"


def _kernel(kernel: Kernel) -> str:
    return _pair(kernel.activation, kernel.param)


def _kernels(kernels: list[Kernel]) -> str:
    return " or ".join(map(_kernel, kernels))
