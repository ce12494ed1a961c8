"""The encoding of blocks whose scales are integers times a scale per channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..defs import Granularity
from . import checking
from .affine import AffineEncoding

__all__ = ["GroupedBlockEncoding", "check_writable", "composed", "grouped"]


@dataclass(frozen=True, eq=False)
class GroupedBlockEncoding(AffineEncoding):
    """An :class:`AffineEncoding` in blocks with ``scale = per_block_int_scale * per_channel_scale``.

    Args:
        decompressed_bw: Bits of the grid with scale ``per_channel_scale`` that holds all values.
        per_channel_scale: Scale of every group of blocks.
        per_block_int_scale: Whole numbers from 1 to ``2**(decompressed_bw - bitwidth)``, one per block.
    """

    decompressed_bw: int = 8
    per_channel_scale: Tensor | None = None
    per_block_int_scale: Tensor | None = None

    def laid_on(self, owner: str, shape: Sequence[int], groups: Sequence[int]) -> GroupedBlockEncoding:
        """This encoding in the shape of a quantizer, with ``groups`` scales per dimension.

        Raises:
            ValueError: It has another number of blocks or of groups.
        """
        blocks, channels = self.per_block_int_scale, self.per_channel_scale
        if blocks.dim() > 1 and blocks.shape != torch.Size(shape):
            raise ValueError(
                f"{owner}: the encoding has blocks of shape {tuple(blocks.shape)}, expected {tuple(shape)}."
            )
        if blocks.numel() != math.prod(shape) or channels.numel() != math.prod(groups):
            raise ValueError(
                f"{owner}: the encoding has {blocks.numel()} blocks in {channels.numel()} groups, expected "
                f"{math.prod(shape)} in {math.prod(groups)} for shape {tuple(shape)}."
            )
        blocks, channels = blocks.reshape(tuple(shape)), channels.reshape(tuple(groups))
        return replace(
            self, scale=composed(blocks, channels), offset=self.offset.reshape(tuple(shape)),
            per_block_int_scale=blocks, per_channel_scale=channels,
        )  # fmt: skip


def composed(blocks: Tensor, channels: Tensor) -> Tensor:
    """The scale of every block, in the shape of ``blocks``; each size of ``channels`` divides that of ``blocks``."""
    split = [part for size, of in zip(blocks.shape, channels.shape) for part in (of, size // of)]
    spread = channels.reshape([part for of in channels.shape for part in (of, 1)])
    return torch.mul(spread, blocks.reshape(split)).reshape(blocks.shape)


def check_writable(version: str, name: str, encoding: GroupedBlockEncoding) -> tuple[int, int]:
    """The dimension along which there are blocks, and their size.

    Raises:
        ValueError: There is not exactly one group per channel, or the grid is not whole: no format can say that.
    """
    run, size = checking.block_of(version, name, encoding)
    shape, groups = list(encoding.scale.shape), list(encoding.per_channel_scale.shape)
    if groups != [1 if d == run else of for d, of in enumerate(shape)]:
        raise ValueError(
            f"{name}: blocks of shape {tuple(shape)} lie in groups of shape {tuple(groups)}, expected one group along "
            f"dimension {run}: a {version} file has one float scale per channel."
        )
    if encoding.num_steps != 2**encoding.bitwidth - 1:
        raise ValueError(
            f"{name}: the grid has {encoding.num_steps + 1} codes, expected the {2**encoding.bitwidth} of "
            f"{encoding.bitwidth} bits: a {version} file says the bitwidth only."
        )
    return run, size


def grouped(
    where: str,
    channels: list[float],
    blocks: list[object],
    bitwidth: int,
    decompressed_bw: int,
    *,
    block_size: int,
    channel_shape: tuple[int, ...] | None = None,
    block_shape: tuple[int, ...] | None = None,
    axis: int | None = None,
) -> GroupedBlockEncoding:
    """The encoding that the numbers of a file make; shapes are ``None`` where the file is flat, channel by channel.

    Raises:
        ValueError: A scale is no positive number, a block scale no integer of its bits, or they do not fit together.
    """
    whole = checking.integers(f"{where}: per_block_int_scale", blocks, 1, 2 ** (decompressed_bw - bitwidth))
    offset = [-(2 ** (decompressed_bw - 1))] * len(channels)
    checked = checking.affine(where, channels, offset, decompressed_bw, True, Granularity.per_channel).scale.float()
    flat = block_shape is None
    if flat:
        channel_shape, block_shape = (len(channels), 1), (len(channels), len(whole) // len(channels))
    along = 1 if flat else axis % len(block_shape) if -len(block_shape) <= axis < len(block_shape) else None
    one_each = tuple(1 if d == along else size for d, size in enumerate(block_shape))
    if channel_shape != one_each or math.prod(block_shape) != len(whole):
        raise ValueError(
            f"encodings: {where} has {len(whole)} block scales {'' if flat else f'of shape {block_shape} '}for channel "
            f"scales of shape {channel_shape}, expected as many blocks for each channel, all along one axis."
        )
    ints = torch.tensor(whole, dtype=torch.float32).reshape(block_shape)
    scale = composed(ints, checked.reshape(channel_shape))
    sizes = (scale.numel(),) if flat else block_shape
    return GroupedBlockEncoding(
        scale.reshape(sizes), torch.full(sizes, -(2.0 ** (bitwidth - 1))), bitwidth, True, Granularity.per_block,
        2**bitwidth - 1, (block_size,), axis, decompressed_bw, checked if flat else checked.reshape(channel_shape),
        ints.reshape(sizes),
    )  # fmt: skip
