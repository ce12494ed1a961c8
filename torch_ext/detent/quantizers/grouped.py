"""Block scales that are small integers times one float scale per channel (low-power blockwise quantization, LPBQ)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._layout import Layout
from ..encodings import AffineEncoding, GroupedBlockEncoding
from .affine import QuantizeDequantize
from .grid import Grid, integer
from .quantizer import Operator

__all__ = ["GroupedBlockQuantizeDequantize"]

_ops = torch.ops.detent


class GroupedBlockQuantizeDequantize(QuantizeDequantize):
    """Fake-quantize in blocks whose scales a runtime stores as integers of ``decompressed_bw - bitwidth`` bits.

    With ``s`` the scales of the ranges of the blocks and ``k = decompressed_bw - bitwidth``::

        channel_scale = max of s over a group of blocks / 2**k
        block_scale   = clamp(rint(s / channel_scale), 1, 2**k)
        y             = clamp(rint(x / scale), qmin, qmax) * scale        scale = block_scale * channel_scale

    so that y is also on a grid of ``decompressed_bw`` bits with scale ``channel_scale``. Gradients are those of this
    composition, with ``rint`` straight through as everywhere: the gradient for ``scale`` (Esser 2020, eq. 3) goes to
    ``s`` of its block, and through ``channel_scale`` to the block that is the maximum (ties share it); where the clamp
    holds, to the maximum alone. In mode ``"dynamic"`` scales follow x without a gradient.

    Args:
        shape: Shape of the range, one size other than 1 or more; ``block_size``: elements per scale along each
            dimension, as for :class:`QuantizeDequantize`.
        bitwidth: 2 to ``decompressed_bw``; the grid is the signed one.
        symmetric: ``True``.
        decompressed_bw: ``bitwidth`` to 32.
        block_grouping: Blocks per group along each dimension of ``shape``, -1 for all of them; ``None``: each block is
            a group, and its scale then any float.
        options: ``observer``, ``mode``, ``parametrization`` and ``grad_scale`` of :class:`QuantizeDequantize`.
    Raises:
        ValueError: An argument is none of these. RuntimeError (from a call): there is no range yet.
    Example:
        >>> quantizer = GroupedBlockQuantizeDequantize((1, 2), 4, True, 8, block_size=(1, 2), block_grouping=(1, -1))
        >>> quantizer.set_range([-8.0, -3.1], [7.0, 2.7])
        >>> quantizer.get_channel_scale(), quantizer.get_block_scale()
        (tensor([[0.0625]]), tensor([[16.,  6.]]))
        >>> quantizer(torch.tensor([[3.2, -9.0, 0.4, 1.0]])).detach()
        tensor([[ 3.0000, -8.0000,  0.3750,  1.1250]])
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        bitwidth: int,
        symmetric: bool,
        decompressed_bw: int,
        *,
        block_size: Sequence[int] | None = None,
        block_grouping: Sequence[int] | None = None,
        **options: Any,
    ):
        super().__init__(shape, bitwidth=bitwidth, symmetric=symmetric, block_size=block_size, **options)
        owner = type(self).__name__
        self._block_grouping = self._groups(owner, self._layout, self._grid, decompressed_bw, block_grouping)
        self._decompressed_bw = decompressed_bw

    @classmethod
    def _groups(
        cls, owner: str, layout: Layout, grid: Grid, decompressed_bw: int, block_grouping: Sequence[int] | None
    ) -> tuple[int, ...]:
        """``block_grouping`` in numbers of blocks, once everything is checked."""
        cls._check_grouped_grid(owner, grid, integer(owner, "decompressed_bw", decompressed_bw))
        shape = layout.shape
        if layout.block_size is None:
            raise ValueError(
                f"{owner}: block_size is None for shape {shape}, expected the elements per scale along each dimension."
            )
        groups = (1,) * len(shape) if block_grouping is None else tuple(block_grouping)
        fits = len(groups) == len(shape) and all(
            isinstance(group, int) and (group == -1 or (group >= 1 and size % group == 0))
            for group, size in zip(groups, shape)
        )
        if not fits:
            raise ValueError(
                f"{owner}: block_grouping is {block_grouping} for shape {shape}, expected one entry per dimension, "
                "each a divisor of its size, or -1 for all blocks of the dimension."
            )
        return tuple(size if group == -1 else group for group, size in zip(groups, shape))

    @staticmethod
    def _check_grouped_grid(owner: str, grid, decompressed_bw: int) -> None:
        if not grid.symmetric or grid.qmin >= 0 or grid.centre != 0:
            raise ValueError(
                f"{owner}: the grid is {grid.qmin} .. {grid.qmax} with symmetric={grid.symmetric}, expected a signed "
                "symmetric one around 0: blocks share no zero point otherwise."
            )
        if not grid.bitwidth <= decompressed_bw <= 32:
            raise ValueError(
                f"{owner}: decompressed_bw is {decompressed_bw}, expected the bitwidth, {grid.bitwidth}, to 32."
            )

    def _change_grid(self, qmin: int, qmax: int, symmetric: bool, zero_point: int | None) -> None:
        owner = type(self).__name__
        self._check_grouped_grid(owner, Grid.of(owner, qmin, qmax, symmetric, zero_point), self._decompressed_bw)
        super()._change_grid(qmin, qmax, symmetric, zero_point)

    @property
    def decompressed_bw(self) -> int:
        """Bits of the grid that all blocks of a group lie on."""
        return self._decompressed_bw

    @property
    def block_grouping(self) -> tuple[int, ...]:
        """Blocks per group along each dimension of ``shape``."""
        return self._block_grouping

    # --- numbers ------------------------------------------------------------------------------------------------------

    @property
    def _levels(self) -> int:
        return 2 ** (self._decompressed_bw - self.bitwidth)

    @property
    def _group_counts(self) -> tuple[int, ...]:
        return tuple(size // group for size, group in zip(self.shape, self._block_grouping))

    def _grouped(self, scale: Tensor) -> tuple[Tensor, Tensor]:
        """``channel_scale``, one per group with ones between, and ``block_scale``, shaped like ``scale``."""
        split = [part for size, group in zip(self.shape, self._block_grouping) for part in (size // group, group)]
        within = tuple(range(1, len(split), 2))
        blocks = scale.reshape(split)
        channel = blocks.amax(within, keepdim=True) / self._levels
        ratio = blocks / channel
        whole = (ratio + (ratio.round() - ratio).detach()).clamp(1, self._levels)
        return channel, whole

    def _decompressed(self, scale: Tensor) -> Tensor:
        channel, whole = self._grouped(scale)
        return (channel * whole).reshape(self.shape)

    def _affine(self) -> tuple[Tensor, Tensor]:
        scale, zero_point = super()._affine()
        return self._decompressed(scale), zero_point

    def _raw_scale(self) -> Tensor:
        return super()._affine()[0].detach()

    def get_channel_scale(self) -> Tensor | None:
        """The float scale of every group, ``shape`` divided by ``block_grouping``; ``None`` without a range."""
        if not self.is_initialized():
            return None
        return self._grouped(self._raw_scale())[0].reshape(self._group_counts)

    def get_block_scale(self) -> Tensor | None:
        """The integer scale of every block, 1 to ``2**(decompressed_bw - bitwidth)``, held in a float type."""
        return self._grouped(self._raw_scale())[1].reshape(self.shape) if self.is_initialized() else None

    def _forward(self, x: Tensor) -> Tensor:
        op, arguments = self._call(x)
        return op(x, *arguments)

    def _call(self, x: Tensor) -> tuple[Operator, tuple]:
        if self._dynamic:
            return self._rounding_with(x, *self._range_of(x))
        if self._parametrization == "min_max":
            return self._rounding_with(x, self.min, self.max)
        return self._rounding(x, self._trained_affine()[0], self._grad_factor(x))

    def _with_range(self, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        op, arguments = self._rounding_with(x, low, high)
        return op(x, *arguments)

    def _rounding_with(self, x: Tensor, low: Tensor, high: Tensor) -> tuple[Operator, tuple]:
        if x.dtype == torch.float64:  # the arithmetic of float64 data is float64 throughout
            low, high = low.double(), high.double()
        return self._rounding(x, self._affine_of_range(low, high)[0], 1.0)

    def _rounding(self, x: Tensor, scale: Tensor, factor: float) -> tuple[Operator, tuple]:
        grid, layout = self._grid, self._layout
        scale = layout.on(x, self._decompressed(scale))
        blocks = layout.blocks_for(type(self).__name__, x)
        return _ops.fake_quantize, (scale, None, grid.qmin, grid.qmax, None, blocks, factor)

    def _plain_state(self) -> tuple:
        return *super()._plain_state(), self._decompressed_bw, self._block_grouping

    # --- encodings and state ------------------------------------------------------------------------------------------

    def get_encoding(self) -> GroupedBlockEncoding | None:
        """The encoding as it is now, on the CPU; ``None`` without a range. Errors as for other quantizers."""
        plain = super().get_encoding()
        if plain is None:
            return None
        with torch.no_grad():
            channel, whole = self.get_channel_scale().cpu(), self.get_block_scale().cpu()
        return GroupedBlockEncoding(
            plain.scale, plain.offset, plain.bitwidth, True, plain.granularity, plain.num_steps, plain.block_size,
            plain.axis, self._decompressed_bw, channel, whole,
        )  # fmt: skip

    def set_encoding(self, encoding: AffineEncoding, *, requires_grad: bool | None = None) -> None:
        """As for other quantizers; also ``decompressed_bw`` where the encoding has one.

        Raises:
            ValueError: The encoding does not fit. Nothing has changed.
        """
        owner, bits = self._title(), self._decompressed_bw
        self._check_encoding(encoding, AffineEncoding)
        if isinstance(encoding, GroupedBlockEncoding):
            encoding, bits = encoding.laid_on(owner, self.shape, self._group_counts), encoding.decompressed_bw
        if not encoding.is_symmetric or encoding.bitwidth > bits:
            raise ValueError(
                f"{owner}: the encoding has {encoding.bitwidth} bits and is_symmetric={encoding.is_symmetric}, "
                f"expected a symmetric one of at most {bits} bits."
            )
        if bool((encoding.zero_point(2 ** (encoding.bitwidth - 1) - 1 - encoding.num_steps) != 0).any()):
            raise ValueError(f"{owner}: the encoding is not centred at 0, expected a signed grid around 0.")
        super().set_encoding(encoding, requires_grad=requires_grad)
        self._decompressed_bw = bits

    def _state(self) -> dict[str, Any]:
        groups = {"decompressed_bw": self._decompressed_bw, "block_grouping": list(self._block_grouping)}
        return {**super()._state(), **groups}

    def _take_over(self, state: dict[str, Any], tensors: dict[str, Any], prefix: str) -> None:
        owner, bits = prefix[:-1], state["decompressed_bw"]
        layout = Layout.of(owner, state["shape"], state["block_size"])
        grid = Grid.of(owner, state["qmin"], state["qmax"], state["symmetric"], state["zero_point"])
        groups = self._groups(owner, layout, grid, bits, state["block_grouping"])
        super()._take_over(state, tensors, prefix)
        self._decompressed_bw, self._block_grouping = bits, groups

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, decompressed_bw={self._decompressed_bw}, block_grouping={self._block_grouping}"
