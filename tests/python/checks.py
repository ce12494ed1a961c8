"""Comparisons that say on failure where two tensors differ, and by how much."""

from __future__ import annotations

import torch
from torch import Tensor

BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def first_difference(differs: Tensor, got: Tensor, expected: Tensor, **context) -> str:
    at = tuple(torch.nonzero(differs)[0].tolist())
    said = ", ".join(f"{name} {value}" for name, value in context.items())
    return (
        f"{int(differs.sum())} of {differs.numel()} differ, first at {at}: got {got[at].item()!r}, "
        f"expected {expected[at].item()!r} (seed {torch.initial_seed()}{', ' if said else ''}{said})"
    )


def same_bits(got: Tensor, expected: Tensor, **context) -> None:
    """Equal in shape, dtype and every bit; any NaN equals any NaN."""
    got, expected = got.detach().cpu(), expected.detach().cpu()
    assert got.shape == expected.shape, f"got shape {tuple(got.shape)}, expected {tuple(expected.shape)} ({context})"
    assert got.dtype == expected.dtype, f"got {got.dtype}, expected {expected.dtype} ({context})"
    bits = BITS[got.element_size()]
    differs = got.contiguous().view(bits) != expected.contiguous().view(bits)
    if got.is_floating_point():
        differs &= ~(got.isnan() & expected.isnan())
    assert not differs.any(), first_difference(differs, got, expected, **context)


def within(got: Tensor, expected: Tensor, tolerance: Tensor | float, **context) -> None:
    """|got - expected| <= tolerance everywhere; NaN and infinities must be the same."""
    got, expected = got.detach().cpu().double(), expected.detach().cpu().double()
    assert got.shape == expected.shape, f"got shape {tuple(got.shape)}, expected {tuple(expected.shape)} ({context})"
    tolerance = torch.as_tensor(tolerance, dtype=torch.float64).expand(got.shape)
    equal = (got == expected) | (got.isnan() & expected.isnan())
    close = equal | ((got - expected).abs() <= tolerance)
    assert close.all(), first_difference(~close, got, expected, **context)


def ulp(values: Tensor, dtype: torch.dtype) -> Tensor:
    """The spacing of dtype's numbers around each value."""
    magnitude = values.double().abs().clamp(min=torch.finfo(dtype).tiny)
    return torch.exp2(torch.floor(torch.log2(magnitude))) * torch.finfo(dtype).eps


def like_empty_like(got: Tensor, x: Tensor, **context) -> None:
    expected = torch.empty_like(x).stride()
    assert got.stride() == expected, f"got strides {got.stride()}, expected {expected} ({context})"
