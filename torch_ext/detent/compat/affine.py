"""``aimet_torch.quantization.affine``: its functions, whose grid comes as positional arguments, and its encoding.

Everywhere ``offset`` is AIMET's: ``q = clamp(rint(x / scale) - offset, qmin, qmax)``, minus our ``zero_point``; and
``scale`` broadcasts against the tensor, or with ``block_size`` has one value per block.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import encodings as ours
from .. import functional
from .._layout import Layout
from ..defs import Granularity
from ..encodings import v0_6_1, v1_0_0, v2_0_0
from ..quantizers import Quantize, QuantizeDequantize

__all__ = ["AffineEncoding", "Quantize", "QuantizeDequantize", "dequantize", "quantize", "quantize_dequantize"]


def _grid(owner: str, positional: Sequence[Any], named: dict[str, Any]) -> tuple[int, int, dict[str, Any]]:
    """``(qmin, qmax, further arguments)`` of ``(bitwidth, signed=False, ...)``, ``(qmin, qmax, ...)`` or
    ``(*, num_steps, signed=False, ...)``."""
    given = dict(named)
    if "num_steps" in given:
        names: tuple[str, ...] = ()
    elif "bitwidth" in given or len(positional) == 1 or (len(positional) > 1 and isinstance(positional[1], bool)):
        names = ("bitwidth", "signed", *_LATER[owner])
    else:
        names = ("qmin", "qmax", *_LATER[owner])
    if len(positional) > len(names):
        raise TypeError(f"{owner}: got {len(positional)} arguments for the grid, expected {_FORMS}.")
    for name, value in zip(names, positional):
        if name in given:
            raise TypeError(f"{owner}: {name} was given twice, as {value!r} and {given[name]!r}.")
        given[name] = value
    further = {name: given.pop(name) for name in _LATER[owner] if name in given}
    if given.keys() == {"qmin", "qmax"}:
        return given["qmin"], given["qmax"], further
    signed = given.pop("signed", False)
    if given.keys() == {"bitwidth"}:
        steps = 2 ** given["bitwidth"] - 1
    elif given.keys() == {"num_steps"}:
        steps = given["num_steps"]
    else:
        raise TypeError(f"{owner}: got {', '.join(sorted(given)) or 'nothing'} for the grid, expected {_FORMS}.")
    low = -math.ceil(steps / 2) if signed else 0
    return low, low + steps, further


_FORMS = "(qmin, qmax), (bitwidth, signed=False) or num_steps=, signed=False"
_LATER = {
    "quantize": ("block_size",),
    "quantize_dequantize": ("block_size", "zero_point_shift"),
    "AffineEncoding": ("symmetry", "block_size", "zero_point_shift"),
}


def _check_shift(owner: str, shift: float | None) -> None:
    if shift not in (None, 0, 0.0):
        raise NotImplementedError(f"{owner}: zero_point_shift is {shift!r}, expected 0, the only grid supported.")


def _placed(owner: str, x: Tensor, scale: Tensor, offset: Tensor | None, block_size: Sequence[int] | None) -> tuple:
    """scale, zero_point, axis and blocks as our functions take them."""
    layout = Layout.of(owner, tuple(scale.shape), block_size)
    point = None if offset is None else layout.on(x, -offset.to(scale.dtype).expand_as(scale))
    return layout.on(x, scale), point, {"axis": layout.axis, "block_size": layout.blocks_for(owner, x)}


def quantize(tensor: Tensor, scale: Tensor, offset: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
    """Codes, as floats of the tensor's type: :func:`detent.functional.quantize`.

    Args:
        tensor: Any float tensor.
        scale, offset: As the module says.
        args, kwargs: ``(qmin, qmax, block_size=None)``, ``(bitwidth, signed=False, block_size=None)`` or
            ``(*, num_steps, signed=False, block_size=None)``.
    Raises:
        TypeError: The arguments are of none of these forms. ValueError: Shapes do not fit.
    Example:
        >>> quantize(torch.tensor([-1.0, 0.3, 9.0]), torch.tensor(0.5), torch.tensor(-1.0), 3, False)
        tensor([0., 2., 7.])
    """
    qmin, qmax, further = _grid("quantize", args, kwargs)
    scale, point, where = _placed("quantize", tensor, scale, offset, further.get("block_size"))
    return functional.quantize(tensor, scale, point, qmin=qmin, qmax=qmax, **where)


def quantize_dequantize(tensor: Tensor, scale: Tensor, offset: Tensor | None, *args: Any, **kwargs: Any) -> Tensor:
    """To the grid and back: :func:`detent.functional.fake_quantize`; arguments as :func:`quantize`.

    Example:
        >>> quantize_dequantize(torch.tensor([-1.0, 0.3, 9.0]), torch.tensor(0.5), torch.tensor(-1.0), 0, 7)
        tensor([-0.5000,  0.5000,  3.0000])
    """
    qmin, qmax, further = _grid("quantize_dequantize", args, kwargs)
    _check_shift("quantize_dequantize", further.get("zero_point_shift"))
    scale, point, where = _placed("quantize_dequantize", tensor, scale, offset, further.get("block_size"))
    return functional.fake_quantize(tensor, scale, point, qmin=qmin, qmax=qmax, **where)


def dequantize(
    tensor: Tensor, scale: Tensor, offset: Tensor | None = None, block_size: Sequence[int] | None = None
) -> Tensor:
    """``(q + offset) * scale``: :func:`detent.functional.dequantize`.

    Example:
        >>> dequantize(torch.tensor([0.0, 2.0, 7.0]), torch.tensor(0.5), torch.tensor(-1.0))
        tensor([-0.5000,  0.5000,  3.0000])
    """
    scale, point, where = _placed("dequantize", tensor, scale, offset, block_size)
    return functional.dequantize(tensor, scale, point, **where)


class AffineEncoding:
    """An encoding in AIMET's terms; it does not change.

    Args:
        scale: Real units per step.
        offset: Minus the zero point, shaped like ``scale``.
        args, kwargs: ``(qmin, qmax, symmetry=False, block_size=None)`` or
            ``(bitwidth, signed=False, symmetry=False, block_size=None)``.
    Raises:
        TypeError: The arguments are of neither form.
    Example:
        >>> encoding = AffineEncoding(torch.tensor([0.5]), torch.tensor([-2.0]), bitwidth=3)
        >>> encoding.min, encoding.max, encoding.num_steps, encoding.granularity
        (tensor([-1.]), tensor([2.5000]), 7, 'pertensor')
    """

    mapping = "affine"

    def __init__(self, scale: Tensor, offset: Tensor, *args: Any, **kwargs: Any):
        self.qmin, self.qmax, further = _grid("AffineEncoding", args, kwargs)
        _check_shift("AffineEncoding", further.get("zero_point_shift"))
        self.scale, self.offset = scale, offset
        self.symmetry = bool(further.get("symmetry", False))
        self.block_size = further.get("block_size")

    @property
    def num_steps(self) -> int:
        """``qmax - qmin``."""
        return self.qmax - self.qmin

    @property
    def bitwidth(self) -> int:
        """Bits that hold the grid."""
        return self.num_steps.bit_length()

    @property
    def signed(self) -> bool:
        """Whether the grid has negative codes."""
        return self.qmin < 0

    @property
    def min(self) -> Tensor:
        """Smallest value on the grid."""
        return self.scale * (self.offset + self.qmin)

    @property
    def max(self) -> Tensor:
        """Largest value on the grid."""
        return self.scale * (self.offset + self.qmax)

    @property
    def dtype(self) -> torch.dtype:
        """The smallest integer type that holds the codes."""
        sizes = next(bits for bits in (8, 16, 32) if self.bitwidth <= bits)
        return getattr(torch, f"{'int' if self.signed else 'uint'}{sizes}")

    @property
    def granularity(self) -> str:
        """``"pertensor"``, ``"perchannel"`` or ``"blockwise"``."""
        kind = self._layout().granularity
        return {Granularity.per_tensor: "pertensor", Granularity.per_channel: "perchannel"}.get(kind, "blockwise")

    def _layout(self) -> Layout:
        return Layout.of("AffineEncoding", tuple(self.scale.shape), self.block_size)

    def to(self, *args: Any, **kwargs: Any) -> AffineEncoding:
        """Scale and offset on another device or of another float type; itself if that changes nothing.

        Raises:
            RuntimeError: The type is none of floats.
        """
        scale, offset = self.scale.to(*args, **kwargs), self.offset.to(*args, **kwargs)
        if not scale.is_floating_point():
            raise RuntimeError(f"AffineEncoding: the type to convert to is {scale.dtype}, expected one of floats.")
        if scale is self.scale and offset is self.offset:
            return self
        return AffineEncoding(scale, offset, self.qmin, self.qmax, self.symmetry, self.block_size)

    def as_ours(self) -> ours.AffineEncoding:
        """:class:`detent.encodings.AffineEncoding`, whose offset is counted from ``qmin``."""
        layout = self._layout()
        shape = layout.shape
        scale, offset = (part.detach().cpu().expand(shape) for part in (self.scale, self.offset))
        return ours.AffineEncoding(
            scale, offset + self.qmin, self.bitwidth, self.symmetry, layout.granularity, self.num_steps,
            layout.block_size, layout.axis,
        )  # fmt: skip

    def to_qnn_encoding_dict(self, encoding_version: str = "1.0.0") -> Any:
        """The entry of a file of this version, without a name.

        Raises:
            ValueError: The version is not known, or cannot say this encoding.
        """
        return entry_of(self.as_ours(), encoding_version)

    def __repr__(self) -> str:
        return (
            f"AffineEncoding(scale={self.scale}, offset={self.offset}, qmin={self.qmin}, qmax={self.qmax}, "
            f"symmetry={self.symmetry}, block_size={self.block_size})"
        )


def entry_of(encoding: ours.Encoding, version: str) -> Any:
    """What a file of this version has of a tensor, without its name."""
    ours.files.check_version(version)
    form = {module.VERSION: module for module in (v0_6_1, v1_0_0, v2_0_0)}[version]
    if encoding.axis is not None:
        encoding = replace(encoding, axis=encoding.axis + encoding.scale.dim())
    entry = form.entry_of("", encoding)
    return {key: value for key, value in entry.items() if key != "name"} if isinstance(entry, dict) else entry
