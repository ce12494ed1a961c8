"""The formulas of kernels/include/detent, element by element, in plain torch and float64: what every result is held to.

``real`` is the arithmetic. float64 gives the truth; the kernels' own (``math_dtype``) gives their numbers bit for bit,
since each step is one correctly rounded operation. Gradients are written out, never taken by autograd, whose ``clamp``
has another one. The sums of gradients are returned as terms, one per element; ``reduced`` adds them in float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

FLOOR = 2.0**-23  # the 1.1920929e-7 of detent/base.h


def math_dtype(data: torch.dtype, qmin: int, qmax: int) -> torch.dtype:
    wide = data == torch.float64 or qmin < -(2**23) or qmax > 2**23
    return torch.float64 if wide else torch.float32


def centre(qmin: int, qmax: int) -> int:
    return round((qmin + qmax) / 2)  # Python rounds halves to even


# --- groups -----------------------------------------------------------------------------------------------------------


def block_sizes(x: Tensor, block_size) -> list[int]:
    return [max(size, 1) if block == -1 else block for size, block in zip(x.shape, block_size)]


def group_shape(x: Tensor, axis=None, block_size=None) -> tuple[int, ...]:
    if block_size is not None:
        return tuple(size // block for size, block in zip(x.shape, block_sizes(x, block_size)))
    return (1,) if axis is None else (x.shape[axis],)


def spread(encoding: Tensor, x: Tensor, axis=None, block_size=None) -> Tensor:
    """One value per group, brought to a shape that broadcasts against x."""
    if block_size is not None:
        for dim, block in enumerate(block_sizes(x, block_size)):
            encoding = encoding.repeat_interleave(block, dim)
        return encoding
    if axis is None:
        return encoding.reshape(())
    return encoding.reshape([-1 if dim == axis % x.dim() else 1 for dim in range(x.dim())])


def by_group(terms: Tensor, axis=None, block_size=None) -> Tensor:
    """terms as [groups..., elements of a group]."""
    if block_size is not None:
        blocks = block_sizes(terms, block_size)
        split = [n for size, block in zip(terms.shape, blocks) for n in (size // block, block)]
        order = [*range(0, len(split), 2), *range(1, len(split), 2)]
        return terms.reshape(split).permute(order).reshape(*split[::2], math.prod(blocks))
    if axis is None:
        return terms.reshape(1, -1)
    return terms.movedim(axis, 0).reshape(terms.shape[axis], terms.numel() // max(terms.shape[axis], 1))


def reduced(terms: Tensor, like: Tensor, axis=None, block_size=None) -> Tensor:
    return by_group(terms.double(), axis, block_size).sum(-1).reshape(like.shape)


# --- fake_quantize.h --------------------------------------------------------------------------------------------------


class Parts(NamedTuple):
    ratio: Tensor  # x / scale
    rounded: Tensor
    q: Tensor
    mask: Tensor
    scale: Tensor
    zero_point: Tensor


def clamp(q: Tensor, qmin, qmax) -> Tensor:
    low, high = torch.as_tensor(qmin, dtype=q.dtype), torch.as_tensor(qmax, dtype=q.dtype)
    q = torch.where(q < low, low, q)
    return torch.where(q > high, high, q)


def parts(x, scale, zero_point, qmin, qmax, axis=None, block_size=None, real=torch.float64) -> Parts:
    x = x.detach().to(real)
    scale = spread(scale.detach().to(real), x, axis, block_size)
    zero_point = torch.zeros((), dtype=real) if zero_point is None else zero_point.detach().to(real)
    zero_point = torch.round(zero_point if zero_point.dim() == 0 else spread(zero_point, x, axis, block_size))
    ratio = x / scale
    rounded = torch.round(ratio)  # halves to even
    code = rounded + zero_point
    mask = (code >= qmin) & (code <= qmax)
    return Parts(ratio, rounded, clamp(code, qmin, qmax), mask, scale, zero_point)


def fake_quantize(x, scale, zero_point, qmin, qmax, axis=None, block_size=None, real=torch.float64) -> Tensor:
    p = parts(x, scale, zero_point, qmin, qmax, axis, block_size, real)
    return (p.q - p.zero_point) * p.scale


def fake_quantize_gradients(g, x, scale, zero_point, qmin, qmax, axis=None, block_size=None, real=torch.float64):
    """(grad_x, terms of grad_scale, terms of grad_zero_point)."""
    p = parts(x, scale, zero_point, qmin, qmax, axis, block_size, real)
    g = g.detach().to(real).broadcast_to(x.shape)
    zero = torch.zeros((), dtype=real)
    ends = clamp(p.rounded, qmin - p.zero_point, qmax - p.zero_point)
    nan = torch.isnan(p.rounded)
    grad_x = torch.where(p.mask, g, zero)
    scale_terms = g * torch.where(p.mask, p.rounded - p.ratio, ends)
    zero_point_terms = torch.where(p.mask, zero, torch.where(nan, p.rounded, -g * p.scale))
    return grad_x, scale_terms, zero_point_terms


# --- stochastic.h -----------------------------------------------------------------------------------------------------


def philox(key: list[int], counter: Tensor) -> Tensor:
    """Philox 4x32-10 (Salmon 2011): four words for each of the counters [4, n], in int64; multiplication by halves."""
    c0, c1, c2, c3 = counter.long()
    k0, k1 = key
    word = 0xFFFFFFFF

    def product(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
        low = a * (b & 0xFFFF)
        high = a * (b >> 16) + (low >> 16)
        return high >> 16, (high << 16 | low & 0xFFFF) & word

    for _ in range(10):
        (high0, low0), (high2, low2) = product(0xD2511F53, c0), product(0xCD9E8D57, c2)
        c0, c1, c2, c3 = high2 ^ c1 ^ k0, low2, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + 0x9E3779B9) & word, (k1 + 0xBB67AE85) & word
    return torch.stack([c0, c1, c2, c3])


def uniforms(shape, random: Tensor) -> Tensor:
    """The u of every element: multiples of 2**-24."""
    seed, offset = (number % 2**64 for number in random.tolist())
    n = math.prod(shape)
    block = torch.arange((n + 3) // 4)
    low, high = torch.full_like(block, offset % 2**32), torch.full_like(block, offset >> 32)
    words = philox([seed % 2**32, seed >> 32], torch.stack([block, torch.zeros_like(block), low, high]))
    return ((words.T.reshape(-1)[:n] >> 8).double() / 2**24).reshape(shape)


def fake_quantize_stochastic(x, scale, zero_point, random, qmin, qmax, axis=None, block_size=None, real=torch.float64):
    p = parts(x, scale, zero_point, qmin, qmax, axis, block_size, real)
    rounded = torch.floor(p.ratio.double() + uniforms(x.shape, random)).to(real)
    return (clamp(rounded + p.zero_point, qmin, qmax) - p.zero_point) * p.scale


# --- encode.h and the range parametrization ---------------------------------------------------------------------------


def affine_of_range(min, max, qmin, qmax, symmetric, zero_point=None, real=torch.float64):
    min, max = min.detach().to(real), max.detach().to(real)
    steps = torch.tensor(float(qmax - qmin), dtype=real)
    floor = torch.minimum(torch.tensor(FLOOR, dtype=real), torch.tensor(0.01, dtype=real) / steps)
    scale = (max - min).abs() / steps
    scale = torch.where(scale < floor, floor, scale)
    if symmetric:
        fixed = centre(qmin, qmax) if zero_point is None else zero_point
        return scale, torch.full_like(scale, fixed)
    return scale, clamp(qmin - torch.round(min / scale), qmin, qmax)


def range_of_observed(lo, hi, qmin, qmax, symmetric, zero_point=None, real=torch.float64):
    lo, hi = lo.to(real), hi.to(real)
    fixed = centre(qmin, qmax) if zero_point is None else zero_point
    steps, above, below = (torch.tensor(float(n), dtype=real) for n in (qmax - qmin, qmax - fixed, fixed - qmin))
    floor = torch.minimum(torch.tensor(FLOOR, dtype=real), torch.tensor(0.01, dtype=real) / steps)
    zero = torch.zeros((), dtype=real)
    low, high = torch.where(lo < 0, lo, zero), torch.where(hi > 0, hi, zero)
    small = (high - low) / steps < floor
    high = torch.where(small, high + (above if symmetric else steps) * floor, high)
    low = torch.where(small, low - (below * floor if symmetric else zero), low)
    if symmetric:
        top = torch.tensor(2.0, dtype=real) if (above, below) == (1, 2) else above
        step = torch.maximum(high / top if above > 0 else zero, -low / below if below > 0 else zero)
        low, high = -below * step, above * step
    return low, high


def range_gradients(grad_scale, grad_zero_point, min, max, qmin, qmax, symmetric, real=torch.float64):
    """(grad_min, grad_max) from the reduced gradients of scale and zero_point, in float64."""
    min, max = min.detach().to(real), max.detach().to(real)
    scale, _ = affine_of_range(min, max, qmin, qmax, symmetric, real=real)
    free = qmin - torch.round(min / scale)
    moves = (free >= qmin) & (free <= qmax) & (not symmetric)
    slope = torch.where(max - min >= 0, 1.0, -1.0).double() / (qmax - qmin)
    scale, min, zero = scale.double(), min.double(), torch.zeros((), dtype=torch.float64)
    through = grad_scale + torch.where(moves, grad_zero_point * min / (scale * scale), zero)
    return -through * slope - torch.where(moves, grad_zero_point / scale, zero), through * slope


# --- quantize.h -------------------------------------------------------------------------------------------------------


def quantize(x, scale, zero_point, qmin, qmax, axis=None, block_size=None, real=torch.float64, integer=False) -> Tensor:
    p = parts(x, scale, zero_point, qmin, qmax, axis, block_size, real)
    return torch.where(torch.isnan(p.q), clamp(p.zero_point, qmin, qmax), p.q) if integer else p.q


def quantize_gradients(g, x, scale, zero_point, qmin, qmax, axis=None, block_size=None, real=torch.float64):
    p = parts(x, scale, zero_point, qmin, qmax, axis, block_size, real)
    g = g.detach().to(real).broadcast_to(x.shape)
    outside = torch.where(torch.isnan(p.rounded), p.rounded, torch.zeros((), dtype=real))
    grad_x = torch.where(p.mask, g / p.scale, torch.zeros((), dtype=real))
    return grad_x, torch.where(p.mask, -g * p.ratio / p.scale, outside), torch.where(p.mask, g, outside)


def dequantize(q, scale, zero_point, axis=None, block_size=None, real=torch.float64) -> Tensor:
    q = q.detach().to(real)
    zero_point = torch.zeros((), dtype=real) if zero_point is None else torch.round(zero_point.detach().to(real))
    zero_point = zero_point if zero_point.dim() == 0 else spread(zero_point, q, axis, block_size)
    return (q - zero_point) * spread(scale.detach().to(real), q, axis, block_size)


def dequantize_gradients(g, q, scale, zero_point, axis=None, block_size=None, real=torch.float64):
    g = g.detach().to(real).broadcast_to(q.shape)
    one = torch.ones_like(scale)
    through = g * spread(scale.detach().to(real), q, axis, block_size)
    return through, g * dequantize(q, one, zero_point, axis, block_size, real), -through


# --- observe.h --------------------------------------------------------------------------------------------------------


def observe(x, axis=None, block_size=None):
    """(min, max, ignored) of one batch."""
    values = by_group(x.detach().double(), axis, block_size)
    counts = values.abs() < torch.finfo(x.dtype).max / 2
    infinite = torch.full((*values.shape[:-1], 1), math.inf, dtype=torch.float64)
    low = torch.cat([torch.where(counts, values, math.inf), infinite], -1).amin(-1)
    high = torch.cat([torch.where(counts, values, -math.inf), -infinite], -1).amax(-1)
    return low, high, (~counts).sum(-1)


def histogram(x, bins, axis=None, block_size=None):
    """(counts, exponent of the bin width) of the values that count, one row per group, by the definition."""
    values = by_group(x.detach().double(), axis, block_size)
    rows = values.reshape(math.prod(values.shape[:-1]), values.shape[-1])
    counts, exponents = torch.zeros(rows.shape[0], bins, dtype=torch.int64), []
    for row, into in zip(rows, counts):
        row = row[row.abs() < torch.finfo(x.dtype).max / 2]
        most = float(row.abs().max()) if row.numel() else 0.0
        exponent = max(-126, math.frexp(most)[1] - round(math.log2(bins / 2))) if most > 0 else -126
        assert most < bins / 2 * 2.0**exponent and (exponent == -126 or most >= bins / 4 * 2.0**exponent)
        step = torch.floor(row.abs() / 2.0**exponent).long()
        into += torch.bincount(torch.where(row < 0, bins // 2 - 1 - step, bins // 2 + step), minlength=bins)
        exponents.append(exponent)
    return counts.reshape(*values.shape[:-1], bins), torch.tensor(exponents).reshape(values.shape[:-1])


# --- searches of encode.h, one group: candidates and what each costs --------------------------------------------------


def bin_centres(bins, exponent):
    return (torch.arange(bins, dtype=torch.float64) - bins // 2 + 0.5) * 2.0**exponent


def coded(centres, scale, zero_point, qmin, qmax):
    """(fake-quantized centres, which of them are clipped) for each candidate: [candidates, bins]."""
    code = torch.round(centres / scale[:, None]) + zero_point[:, None]
    return (clamp(code, qmin, qmax) - zero_point[:, None]) * scale[:, None], (code < qmin) | (code > qmax)


def squared_error(counts, centres, scale, zero_point, qmin, qmax, gamma):
    back, clipped = coded(centres, scale, zero_point, qmin, qmax)
    return (counts * (back - centres) ** 2 * torch.where(clipped, gamma, 1.0)).sum(1)


def divergence(counts, centres, scale, zero_point, qmin, qmax):
    """Kullback-Leibler divergence of one candidate: P the clipped histogram, Q what its steps make of it."""
    code = torch.round(centres / scale) + zero_point
    inside = (code >= qmin) & (code <= qmax) & (counts > 0)
    if not inside.any():
        return math.inf
    kept = torch.where(inside, counts, 0.0)
    at = torch.nonzero(inside).flatten()
    p = kept.clone()
    p[at[0]] += counts[code < qmin].sum()
    p[at[-1]] += counts[code > qmax].sum()
    q = torch.zeros_like(kept)
    for step in code[inside].unique():
        here = inside & (code == step)
        q[here] = kept[here].sum() / here.sum()
    p, q = p[inside] / p.sum(), q[inside] / q.sum()
    return float((p * torch.log(p / q)).sum())


def sqnr_candidates(lo, hi, qmin, qmax, symmetric, deltas=17, offsets=21, symmetric_deltas=101):
    """(scale, zero_point) of every candidate: reference 2.6 of AIMET's, on any grid."""
    n, fixed = qmax - qmin, centre(qmin, qmax)
    floor = min(FLOOR, 0.01 / n)
    low, high = min(lo, 0.0), max(hi, 0.0)
    if symmetric:
        scale = widest_step(lo, hi, qmin, qmax) * torch.arange(1, symmetric_deltas + 1).double() / (symmetric_deltas - 1)
        return scale.clamp(min=floor), torch.full_like(scale, fixed)
    full = (high - low) / n
    first = round(low / full)
    count = min(n + 2, offsets)
    positions = [round(n * (i / (count - 2) - 1)) for i in range(count - 1)] + [first]
    found = []
    for k in range(1, deltas + 1):
        for position in positions:
            scale = full * k / (deltas - 1)
            cut_low, cut_high = max(full * first, scale * position), min(full * (first + n), scale * (position + n))
            scale = max((cut_high - cut_low) / n, floor)
            found.append((scale, min(max(qmin - round(cut_low / scale), qmin), qmax)))
    return tuple(torch.tensor(found, dtype=torch.float64).T)


def widest_step(lo, hi, qmin, qmax):
    above, below = qmax - centre(qmin, qmax), centre(qmin, qmax) - qmin
    if abs(above - below) == 1:
        above = below = (qmax - qmin) / 2
    return max(max(hi, 0.0) / above, -min(lo, 0.0) / below)


def percentile_ends(counts, centres, percent, lo, hi):
    """(low, high): `percent` percent of the count lie above and below, evenly spread inside a bin."""
    width, total = float(centres[1] - centres[0]), float(counts.sum())

    def top(counts, centres, sign):
        below = counts.cumsum(0)
        i = int(torch.nonzero(below >= total * percent / 100)[0])
        inside = (total * percent / 100 - float(below[i] - counts[i])) / float(counts[i])
        return float(centres[i]) + sign * width * (inside - 0.5)

    return max(top(counts.flip(0), centres.flip(0), -1), lo), min(top(counts, centres, 1), hi)
