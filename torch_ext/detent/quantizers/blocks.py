"""The quantizer to block formats."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, NoReturn

import torch
from torch import Tensor

from .._layout import Layout
from ..block_format import BlockFormat
from ..float_format import FloatFormat
from ..functional import block_cast
from .grid import REACH
from .quantizer import Quantizer

__all__ = ["BlockQuantizeDequantize"]


class BlockQuantizeDequantize(Quantizer):
    """Round a tensor to a block format (MX, NVFP4) and back, with a straight-through gradient.

    Scales follow the tensor at every call (:func:`detent.functional.block_cast`), so there is nothing to calibrate and
    nothing to train. Neither encodings files nor exported graphs have a place for such scales: both raise.

    Args:
        format: A :class:`detent.BlockFormat`, or a name that :meth:`detent.BlockFormat.of` takes.
        axis: The dimension that is cut into blocks: the one that the reader's products are summed over.
    Raises:
        ValueError: There is no such format, or ``axis`` is no integer.
    Example:
        >>> BlockQuantizeDequantize("mxfp4")(torch.tensor([0.1, -1.0, 0.4, 3.9]))
        tensor([ 0.0000, -1.0000,  0.5000,  3.0000])
    """

    __jit_unused_properties__ = [*Quantizer.__jit_unused_properties__, "block_axis", "format"]

    scaled = False
    _modes = ("fixed",)

    def __init__(self, format: BlockFormat | str, axis: int = -1):
        owner = type(self).__name__
        super().__init__(Layout.of(owner, (1,)), REACH, "fixed", None)
        self._hold(BlockFormat.of(format), axis)
        self._install(self._layout, "fixed", torch.device("cpu"))

    def _hold(self, format: BlockFormat, axis: int) -> None:
        if type(axis) is not int:
            raise ValueError(f"{self._title()}: axis is {axis!r}, expected an integer.")
        self._format, self._block_axis = format, axis
        self._initialized = True

    @property
    def format(self) -> BlockFormat:
        """The format."""
        return self._format

    @property
    def block_axis(self) -> int:
        """The dimension that is cut into blocks."""
        return self._block_axis

    @property
    def bitwidth(self) -> int:
        """Bits of an element."""
        return self._format.bits

    def is_initialized(self) -> bool:
        return True

    def _calibrates(self) -> bool:
        return False

    def get_min(self, dtype: torch.dtype | None = None) -> None:
        """``None``: no range lasts longer than a call."""

    get_max = get_scale = get_min

    def get_encoding(self) -> NoReturn:
        """Raises ValueError: encodings have no place for scales that follow the tensor."""
        raise ValueError(
            f"{self._title()} rounds to {self._format}, whose scales follow the tensor; encodings and exports have no "
            "place for them. Export with this quantizer off (enabled = False), or with one of integers or floats there."
        )

    def _check_takes_range(self) -> NoReturn:
        raise ValueError(
            f"{self._title()} rounds to {self._format}, whose scales follow the tensor: it takes no range and no "
            "encoding. Put a quantizer of integers or floats there."
        )

    def set_encoding(self, encoding: Any, *, requires_grad: bool | None = None) -> NoReturn:
        """Raises ValueError: there is nothing to set."""
        self._check_takes_range()

    def _write_range(self, low: Tensor, high: Tensor) -> NoReturn:
        self._check_takes_range()

    def reset(self) -> None:
        """Nothing to forget."""

    # --- state --------------------------------------------------------------------------------------------------------

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "block_format": asdict(self._format), "block_axis": self._block_axis}

    def _take_over(self, state: dict[str, Any], tensors: dict[str, Any], prefix: str) -> None:
        said = state["block_format"]
        if not isinstance(said, dict):
            raise ValueError(f"{prefix[:-1]}: the state's block_format is {said!r}, expected that of a BlockFormat.")
        element = said.get("element")
        said = {**said, "element": FloatFormat(**element) if isinstance(element, dict) else element}
        self._hold(BlockFormat(**said), state["block_axis"])

    # --- the call -----------------------------------------------------------------------------------------------------

    def _forward(self, x: Tensor) -> Tensor:
        return block_cast(x, self._format, axis=self._block_axis)

    def _with_range(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        return self._forward(x)

    def _type_in_words(self) -> str:
        return f"in {self._format}"

    def _grid_in_words(self) -> str:
        return str(self._format)

    def extra_repr(self) -> str:
        off = "" if self._enabled else ", off"
        return f"{self._format}, axis={self._block_axis}{off}"
