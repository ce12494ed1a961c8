"""Fake quantization with learned scale and zero point as one writes it in Triton, forward and backward.

x is seen as rows of one group each; a program takes a tile of whole rows, or a piece of one. Sums of a tile are written
out and added by torch, so that they come in a fixed order.
"""

from __future__ import annotations

import os

import torch
from harness import Contender
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:
    triton = None

_TILE = 1024

if triton is not None:

    @triton.jit
    def _tile(columns, groups, rows, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
        """Where the elements of this program are, which of them exist, and the group of each row."""
        pieces = tl.cdiv(columns, COLUMNS)
        row = tl.program_id(0) // pieces * ROWS + tl.arange(0, ROWS)
        column = tl.program_id(0) % pieces * COLUMNS + tl.arange(0, COLUMNS)
        there = (row < rows)[:, None] & (column < columns)[None, :]
        return row.to(tl.int64)[:, None] * columns + column[None, :], there, row, row % groups

    @triton.jit
    def _round(x):
        return (x + 12582912.0) - 12582912.0  # 1.5 * 2**23 leaves no bits behind the point; what is larger is clamped

    @triton.jit
    def _forward(x, y, scale, zero_point, columns, groups, rows, qmin, qmax,
                 ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
        at, there, row, group = _tile(columns, groups, rows, ROWS, COLUMNS)
        s = tl.load(scale + group, mask=row < rows, other=1.0)[:, None]
        z = _round(tl.load(zero_point + group, mask=row < rows, other=0.0))[:, None]
        q = _round(tl.load(x + at, mask=there, other=0.0).to(tl.float32) / s) + z
        tl.store(y + at, (tl.minimum(tl.maximum(q, qmin), qmax) - z) * s, mask=there)

    @triton.jit
    def _backward(grad, x, grad_x, scale_sums, zero_point_sums, scale, zero_point, columns, groups, rows, qmin, qmax,
                  ROWS: tl.constexpr, COLUMNS: tl.constexpr):  # fmt: skip
        at, there, row, group = _tile(columns, groups, rows, ROWS, COLUMNS)
        s = tl.load(scale + group, mask=row < rows, other=1.0)[:, None]
        z = _round(tl.load(zero_point + group, mask=row < rows, other=0.0))[:, None]
        g = tl.load(grad + at, mask=there, other=0.0).to(tl.float32)
        steps = tl.load(x + at, mask=there, other=0.0).to(tl.float32) / s
        q = _round(steps) + z
        inside = (q >= qmin) & (q <= qmax)
        clamped = tl.minimum(tl.maximum(q, qmin), qmax) - z
        tl.store(grad_x + at, tl.where(inside, g, 0.0), mask=there)
        sums = tl.program_id(0) % tl.cdiv(columns, COLUMNS) * rows + row
        tl.store(scale_sums + sums, tl.sum(tl.where(inside, clamped - steps, clamped) * g, 1), mask=row < rows)
        tl.store(zero_point_sums + sums, tl.sum(tl.where(inside, 0.0, -g * s), 1), mask=row < rows)


def missing(x: Tensor) -> str:
    """Why Triton does not take part; empty where it does."""
    if not (x.is_cuda or os.environ.get("TRITON_INTERPRET")):
        return "Triton compiles for GPUs, this is the CPU"
    if triton is None:
        return "there is no module triton"
    return "" if x.is_contiguous() else "written for contiguous tensors"


def _geometry(x: Tensor, axis: int | None) -> tuple[int, int, int, dict[str, int]]:
    """Columns, groups, rows, and the shape of a tile."""
    columns = x.numel() if axis is None else x.stride(axis)
    wide = min(_TILE, triton.next_power_of_2(columns))
    groups = 1 if axis is None else x.shape[axis]
    return columns, groups, x.numel() // columns, {"ROWS": _TILE // wide, "COLUMNS": wide}


def forward(x: Tensor, learned: tuple[Tensor, Tensor], axis: int | None, qmin: int, qmax: int) -> Contender:
    """A call that gives y. ``axis``: the channels' or ``None``; ``learned``: scale and zero point per channel."""
    if why := missing(x):
        return why
    columns, groups, rows, tile = _geometry(x, axis)
    programs = triton.cdiv(rows, tile["ROWS"]) * triton.cdiv(columns, tile["COLUMNS"])

    def call() -> Tensor:
        y = torch.empty_like(x)
        _forward[(programs,)](x, y, *learned, columns, groups, rows, qmin, qmax, **tile)
        return y

    return call


def learned_backward(
    grad: Tensor, x: Tensor, learned: tuple[Tensor, Tensor], axis: int | None, qmin: int, qmax: int
) -> Contender:
    """A call that gives the gradients of x, scale and zero point."""
    if why := missing(x):
        return why
    columns, groups, rows, tile = _geometry(x, axis)
    pieces = triton.cdiv(columns, tile["COLUMNS"])

    def call() -> tuple[Tensor, Tensor, Tensor]:
        grad_x = torch.empty_like(x)
        sums = torch.empty((2, pieces * rows), device=x.device)
        _backward[(triton.cdiv(rows, tile["ROWS"]) * pieces,)](
            grad, x, grad_x, *sums, *learned, columns, groups, rows, qmin, qmax, **tile
        )
        scale, zero_point = sums.view(2, -1, groups).sum(1)
        return grad_x, scale, zero_point

    return call
