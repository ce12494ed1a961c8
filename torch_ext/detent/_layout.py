"""How the shape of an encoding lies on a tensor: which axis, which blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from .defs import Granularity


def _sizes(owner: str, name: str, given: int | Sequence[int]) -> tuple[int, ...]:
    sizes = (given,) if isinstance(given, int) else tuple(given)
    if not all(isinstance(size, int) and not isinstance(size, bool) for size in sizes):
        raise ValueError(f"{owner}: {name} is {given!r}, expected a sequence of integers.")
    return sizes


def memory_order(x: Tensor) -> list[int] | None:
    """The dimensions of a dense tensor from the slowest to the fastest in memory; ``None`` for a contiguous one."""
    return None if x.is_contiguous() else sorted(range(x.dim()), key=x.stride().__getitem__, reverse=True)


@dataclass(frozen=True)
class Layout:
    """The shape of an encoding, read from the right against the shape of a tensor, as broadcasting does.

    ``()`` and all ones are per tensor, one size other than 1 is per channel on that axis, anything else, and whatever
    comes with ``block_size``, is per block.
    """

    shape: tuple[int, ...]
    block_size: tuple[int, ...] | None
    axis: int | None  # from the right, so that leading dimensions of the tensor do not move it

    @staticmethod
    def of(owner: str, shape: int | Sequence[int], block_size: Sequence[int] | None = None) -> Layout:
        sizes = _sizes(owner, "shape", shape) or (1,)
        if min(sizes) < 1:
            raise ValueError(
                f"{owner}: shape is {sizes}, expected sizes of 1 and more; () or (1,) is one scale per tensor."
            )
        if block_size is not None:
            blocks = _sizes(owner, "block_size", block_size)
            if len(blocks) != len(sizes) or not all(block == -1 or block >= 1 for block in blocks):
                raise ValueError(
                    f"{owner}: block_size is {blocks} for shape {sizes}, expected one entry per dimension, each 1 or "
                    "more, or -1 for the whole dimension divided evenly among its scales."
                )
            return Layout(sizes, blocks, None)
        wide = [i for i, size in enumerate(sizes) if size != 1]
        if len(wide) > 1:
            return Layout(sizes, tuple(-1 if size == 1 else 1 for size in sizes), None)
        return Layout(sizes, None, wide[0] - len(sizes) if wide else None)

    @property
    def granularity(self) -> Granularity:
        if self.block_size is not None:
            return Granularity.per_block
        return Granularity.per_tensor if self.axis is None else Granularity.per_channel

    def blocks_for(self, owner: str, x: Tensor) -> list[int] | None:
        """The operators' ``block_size``: one entry per dimension of ``x``."""
        if self.block_size is None:
            return None
        extra = x.dim() - len(self.shape)
        if extra < 0:
            raise ValueError(
                f"{owner}: x has shape {tuple(x.shape)}, expected at least {len(self.shape)} dimensions for scales of "
                f"shape {self.shape}. Build the quantizer with a shape that broadcasts to x."
            )
        blocks = [-1] * extra
        for size, block, of in zip(self.shape, self.block_size, x.shape[extra:]):
            blocks.append(of // size if block == -1 and size > 1 and of % size == 0 else block)
        return blocks

    def on(self, x: Tensor, value: Tensor) -> Tensor:
        """An encoding tensor in the shape the operators take for ``x``."""
        if self.block_size is not None:
            return value.reshape((1,) * (x.dim() - value.dim()) + self.shape) if x.dim() != value.dim() else value
        if self.axis is not None and value.dim() not in (1, x.dim()):
            return value.reshape(-1)
        return value
