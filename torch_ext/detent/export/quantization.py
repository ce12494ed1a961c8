"""What export knows of a quantizer: its numbers, and the ONNX type that holds its codes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor

from .._layout import Layout
from ..encodings import Encoding
from ..float_format import NAMED, FloatFormat

__all__ = ["BLOCKS_OPSET", "FloatQuantization", "IntegerQuantization", "Quantization", "is_cast"]
__all__ += ["opset_needed"]

_ops = torch.ops.detent

_LEAST_OPSET = 18
_FLOAT8_OPSET = 19
BLOCKS_OPSET = 21  # int4, uint4, int16, uint16 and block_size of QuantizeLinear

#: With the ends of the type, and the opset from which QuantizeLinear has it.
_INTEGERS = {
    ir.DataType.INT4: (-8, 7, BLOCKS_OPSET),
    ir.DataType.UINT4: (0, 15, BLOCKS_OPSET),
    ir.DataType.INT8: (-128, 127, 1),
    ir.DataType.UINT8: (0, 255, 1),
    ir.DataType.INT16: (-(2**15), 2**15 - 1, BLOCKS_OPSET),
    ir.DataType.UINT16: (0, 2**16 - 1, BLOCKS_OPSET),
}
_FOUR_BITS = (ir.DataType.INT4, ir.DataType.UINT4)
#: Of QuantizeLinear, which saturates as we do, infinities too; and of Cast, to whose infinities a Clip leaves no way.
_FLOATS = {
    NAMED["float8_e4m3fn"]: ir.DataType.FLOAT8E4M3FN,
    NAMED["float8_e5m2"]: ir.DataType.FLOAT8E5M2,
    NAMED["float8_e4m3fnuz"]: ir.DataType.FLOAT8E4M3FNUZ,
    NAMED["float8_e5m2fnuz"]: ir.DataType.FLOAT8E5M2FNUZ,
}
_CASTS = {
    NAMED["float32"]: ir.DataType.FLOAT,
    NAMED["float16"]: ir.DataType.FLOAT16,
    NAMED["bfloat16"]: ir.DataType.BFLOAT16,
}


@dataclass(frozen=True, eq=False, kw_only=True)
class Quantization:
    """One quantizer, as numbers.

    Args:
        name: What it stands on: ``conv.weight``, ``conv.output_0``.
        scale, zero_point: CPU float tensors in the quantizer's shape; zero_point holds integers.
        layout: How that shape lies on the tensor.
        encoding: What the ``.encodings`` file says of it.
    """

    name: str
    scale: Tensor
    zero_point: Tensor
    layout: Layout
    encoding: Encoding | None = None

    def on(self, x: Tensor) -> tuple:
        """``scale`` and ``zero_point`` as the operators take them for x, and ``axis`` and ``block_size``."""
        numbers = self.layout.on(x, self.scale), self.layout.on(x, self.zero_point)
        return numbers, (self.layout.axis, self.layout.blocks_for("export", x))


@dataclass(frozen=True, eq=False, kw_only=True)
class IntegerQuantization(Quantization):
    """A grid of integers, with its inclusive ends."""

    qmin: int
    qmax: int

    def fake_quantize(self, x: Tensor) -> Tensor:
        numbers, where = self.on(x)
        return _ops.fake_quantize(x, *numbers, self.qmin, self.qmax, *where)

    def codes(self, x: Tensor) -> Tensor:
        numbers, where = self.on(x)
        return _ops.quantize(x, *numbers, self.qmin, self.qmax, torch.int32, *where)

    @property
    def _is_four_bit(self) -> bool:
        """Eight to sixteen levels; fewer go to int8 with their exact codes."""
        return 8 < self.qmax - self.qmin + 1 <= 16

    def storage(self, opset: int, four_bits: bool = True) -> ir.DataType | None:
        """The smallest type of QuantizeLinear that holds the grid; ``None`` where none does."""
        for dtype, (low, high, since) in _INTEGERS.items():
            if dtype in _FOUR_BITS and not (four_bits and self._is_four_bit):
                continue
            if opset >= since and low <= self.qmin and self.qmax <= high:
                return dtype
        return None

    def is_narrower(self, dtype: ir.DataType) -> bool:
        """Whether the type has codes that the grid has not."""
        low, high, _ = _INTEGERS[dtype]
        return self.qmin > low or self.qmax < high

    @property
    def opset(self) -> int:
        """The lowest that has what this needs; 4 bits are stored as such."""
        wide = self.storage(1) is None and self.storage(BLOCKS_OPSET) is not None
        new = wide or self._is_four_bit or self.layout.block_size is not None
        return BLOCKS_OPSET if new else _LEAST_OPSET


@dataclass(frozen=True, eq=False, kw_only=True)
class FloatQuantization(Quantization):
    """A float format; ``scaled``: whether ``scale`` is other than 1."""

    format: FloatFormat
    scaled: bool

    def fake_quantize(self, x: Tensor) -> Tensor:
        (scale, _), where = self.on(x)
        format = self.format
        return _ops.float_cast(x, scale, format.mantissa_bits, format.min_exponent, format.max, *where)

    def codes(self, x: Tensor) -> Tensor:
        """The numbers of the format that stand for x."""
        x = x.float()
        (scale, _), where = self.on(x)
        scales = _ops.dequantize(torch.ones_like(x), scale, None, x.dtype, *where)
        format = self.format
        one = torch.ones(1)
        return _ops.float_cast(x / scales, one, format.mantissa_bits, format.min_exponent, format.max, None, None)

    def storage(self, opset: int, four_bits: bool = True) -> ir.DataType | None:
        """The ONNX type that has the format; ``None`` where there is none."""
        if opset >= _FLOAT8_OPSET and self.format in _FLOATS:
            return _FLOATS[self.format]
        return None if self.scaled else _CASTS.get(self.format)

    def is_narrower(self, dtype: ir.DataType) -> bool:
        return False

    @property
    def opset(self) -> int:
        """The lowest that has what this needs."""
        if self.format not in _FLOATS:
            return _LEAST_OPSET
        return _FLOAT8_OPSET if self.layout.block_size is None else BLOCKS_OPSET


def is_cast(dtype: ir.DataType) -> bool:
    """Whether a type is reached by Cast, and not by QuantizeLinear."""
    return dtype in _CASTS.values()


def opset_needed(quantizations: Iterable[Quantization]) -> int:
    """The lowest opset that has the types and blocks these quantizers need."""
    return max((q.opset for q in quantizations), default=_LEAST_OPSET)
