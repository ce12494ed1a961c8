"""Shapes, dtypes and strides of the operators' results without computing them: for torch.compile and torch.export."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

_WIDE = 2**23  # beyond it the kernels compute in float64 (detent_math_dtype)


def _math_dtype(dtype: torch.dtype, qmin: int, qmax: int) -> torch.dtype:
    wide = dtype == torch.float64 or qmin < -_WIDE or qmax > _WIDE
    return torch.float64 if wide else torch.float32


def _group_sizes(x: Tensor, axis: int | None, block_size: list[int] | None) -> list[int]:
    if block_size is not None:
        return [1 if block == -1 else size // block for size, block in zip(x.shape, block_size)]
    return [1] if axis is None else [x.shape[axis]]


def _mask(x: Tensor) -> Tensor:
    return x.new_empty(((x.numel() + 7) // 8,), dtype=torch.uint8)


def _encoding_grads(first: Tensor, second: Tensor | None, x: Tensor, qmin: int, qmax: int) -> tuple[Tensor, Tensor]:
    none = x.new_empty((0,), dtype=_math_dtype(x.dtype, qmin, qmax))
    return torch.empty_like(first, memory_format=torch.contiguous_format), (
        none if second is None else torch.empty_like(second, memory_format=torch.contiguous_format)
    )


def _fake_quantize(x, scale, zero_point, qmin, qmax, axis=None, block_size=None, grad_scale=1.0, *rest):
    return torch.empty_like(x)


def _fake_quantize_stochastic(x, scale, zero_point, random, qmin, qmax, axis=None, block_size=None):
    return torch.empty_like(x)


def _fake_quantize_mask(x, scale, zero_point, qmin, qmax, axis=None, block_size=None, *rest):
    return torch.empty_like(x), _mask(x)


def _fake_quantize_sum(x, residual, *encoding):
    return torch.empty_like(x), torch.empty_like(x)


def _fake_quantize_backward(
    grad_y, x, scale, zero_point, qmin, qmax, axis=None, block_size=None, grad_scale=1.0, *rest
):
    return torch.empty_like(x), *_encoding_grads(scale, zero_point, x, qmin, qmax)


def _fake_quantize_range(
    x, min, max, qmin, qmax, symmetric, zero_point=None, axis=None, block_size=None, *before
):
    return torch.empty_like(x)


def _fake_quantize_range_mask(
    x, min, max, qmin, qmax, symmetric, zero_point=None, axis=None, block_size=None, *before
):
    return torch.empty_like(x), _mask(x)


def _fake_quantize_range_backward(
    grad_y, x, min, max, qmin, qmax, symmetric, zero_point=None, axis=None, block_size=None, *activation
):
    return torch.empty_like(x), *_encoding_grads(min, max, x, qmin, qmax)


def _fake_quantize_dynamic(x, clip, qmin, qmax, symmetric, axis=None, block_size=None, zero_point=None):
    groups = x.new_empty(_group_sizes(x, axis, block_size), dtype=_math_dtype(x.dtype, qmin, qmax))
    return torch.empty_like(x), groups, torch.empty_like(groups)


def _fake_quantize_dynamic_mask(x, clip, qmin, qmax, symmetric, axis=None, block_size=None, zero_point=None):
    return *_fake_quantize_dynamic(x, clip, qmin, qmax, symmetric, axis, block_size), _mask(x)


def _fake_quantize_mask_backward(grad_y, mask, order=None, block_size=None):
    if order is None:
        return torch.empty_like(grad_y, memory_format=torch.contiguous_format)
    inverse = [order.index(dim) for dim in range(len(order))]
    return grad_y.new_empty([grad_y.shape[dim] for dim in order]).permute(inverse)


def _likes(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.empty_like(tensor) for tensor in tensors]


def _plain_likes(tensors: list[Tensor]) -> list[Tensor]:
    return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]


def _per_tensor(flat: list[int] | None, tensors: list[Tensor]) -> list[list[int] | None]:
    """A list of one entry per dimension of each tensor, taken apart."""
    if flat is None:
        return [None] * len(tensors)
    entries = iter(flat)
    return [[next(entries) for _ in tensor.shape] for tensor in tensors]


def _fake_quantize_many(x, first, second, qmin, qmax, *options):
    return _likes(x)


def _fake_quantize_many_mask(x, first, second, qmin, qmax, *options):
    return _likes(x), [_mask(tensor) for tensor in x]


def _fake_quantize_many_backward(grad_y, x, first, second, qmin, qmax, *options):
    return _likes(x), _plain_likes(first), _plain_likes(second)


def _fake_quantize_dynamic_many(
    x, clip, qmin, qmax, symmetric, axis=None, block_size=None, zero_point=None
):
    axes = [None] * len(x) if axis is None else axis
    made = [
        _fake_quantize_dynamic(tensor, None, qmin, qmax, symmetric, at, blocks)
        for tensor, at, blocks in zip(x, axes, _per_tensor(block_size, x))
    ]
    return tuple(map(list, zip(*made)))


def _fake_quantize_dynamic_many_mask(x, *options):
    return *_fake_quantize_dynamic_many(x, *options), [_mask(tensor) for tensor in x]


def _fake_quantize_mask_many_backward(grad_y, mask, order=None, block_size=None):
    orders = _per_tensor(order, grad_y)
    return [_fake_quantize_mask_backward(grad, bits, its) for grad, bits, its in zip(grad_y, mask, orders)]


def _float_cast(x, scale, mantissa_bits, min_exponent, max, axis=None, block_size=None):
    return torch.empty_like(x)


def _float_cast_mask(x, scale, mantissa_bits, min_exponent, max, axis=None, block_size=None):
    return torch.empty_like(x), _mask(x)


def _block_cast(x, mantissa_bits, min_exponent, max, axis=-1, block_size=32, tensor_scale=None):
    return torch.empty_like(x)


def _block_cast_mask(x, mantissa_bits, min_exponent, max, axis=-1, block_size=32, tensor_scale=None):
    return torch.empty_like(x), _mask(x)


def _unpack_mask(mask, size):
    return mask.new_empty(size, dtype=torch.bool)


def _quantize(x, scale, zero_point, qmin, qmax, dtype=None, axis=None, block_size=None, packed=False):
    if packed:
        return x.new_empty([*x.shape[:-1], x.shape[-1] // 2], dtype=dtype)
    return torch.empty_like(x, dtype=dtype or x.dtype)


def _quantize_backward(grad_q, x, scale, zero_point, qmin, qmax, axis=None, block_size=None):
    return torch.empty_like(x), *_encoding_grads(scale, zero_point, x, qmin, qmax)


def _dequantize(q, scale, zero_point, dtype=None, axis=None, block_size=None, packed=False):
    dtype = dtype or (q.dtype if q.is_floating_point() else torch.float32)
    return _unpacked(q, dtype) if packed else torch.empty_like(q, dtype=dtype)


def _unpacked(q: Tensor, dtype: torch.dtype) -> Tensor:
    return q.new_empty([*q.shape[:-1], q.shape[-1] * 2], dtype=dtype)


def _dequantize_backward(grad_x, q, scale, zero_point, axis=None, block_size=None, packed=False):
    wide = grad_x.dtype == torch.float64 or q.dtype == torch.int32
    none = q.new_empty((0,), dtype=torch.float64 if wide else torch.float32)
    grad_zero_point = none if zero_point is None else torch.empty_like(zero_point, memory_format=torch.contiguous_format)
    grad_scale = torch.empty_like(scale, memory_format=torch.contiguous_format)
    grad_q = _unpacked(q, grad_x.dtype) if packed else torch.empty_like(q, dtype=grad_x.dtype)
    return grad_q, grad_scale, grad_zero_point


def _observe_min_max(x, axis=None, block_size=None):
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    min = x.new_empty(_group_sizes(x, axis, block_size), dtype=dtype)
    return min, torch.empty_like(min), torch.empty_like(min, dtype=torch.int64)


def _observe_min_max_update_(x, min, max, ignored, momentum=None, axis=None, block_size=None):
    return None


def _encode(first, second, qmin, qmax, *rules):
    dtype = _math_dtype(first.dtype, qmin, qmax)
    out = torch.empty_like(first, dtype=dtype, memory_format=torch.contiguous_format)
    return out, torch.empty_like(out)


def _observe_moments_update_(x, min, max, ignored, moments, axis=None, block_size=None):
    return None


def _observe_histogram_update_(x, min, max, ignored, counts, axis=None, block_size=None):
    return None


def _observe_histogram_merge_(min, max, ignored, counts, other_min, other_max, other_ignored, other_counts):
    return None


def _encode_percentile(lo, hi, counts, percentile, qmin, qmax, symmetric, zero_point=None):
    return _encode(lo, hi, qmin, qmax, symmetric)


def _encode_histogram(lo, hi, counts, qmin, qmax, symmetric, zero_point=None, *search):
    return _encode(lo, hi, qmin, qmax, symmetric)


def _on_one_device(name: str, fake):
    """Torch picks this kernel as soon as one tensor is on the meta device, even where the others hold data."""

    @functools.wraps(fake)
    def checked(*args, **kwargs):
        devices = {t.device for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        if len(devices) > 1:
            raise ValueError(
                f"{name}: tensors are on devices {', '.join(sorted(map(str, devices)))}, expected one device.\n"
                "  Move them, for example scale.to(x.device)."
            )
        return fake(*args, **kwargs)

    return checked


def register() -> None:
    for name, fake in {
        "fake_quantize": _fake_quantize,
        "fake_quantize_stochastic": _fake_quantize_stochastic,
        "fake_quantize_mask": _fake_quantize_mask,
        "fake_quantize_sum": _fake_quantize_sum,
        "fake_quantize_backward": _fake_quantize_backward,
        "fake_quantize_range": _fake_quantize_range,
        "fake_quantize_range_mask": _fake_quantize_range_mask,
        "fake_quantize_range_sum": _fake_quantize_sum,
        "fake_quantize_range_backward": _fake_quantize_range_backward,
        "fake_quantize_dynamic": _fake_quantize_dynamic,
        "fake_quantize_dynamic_mask": _fake_quantize_dynamic_mask,
        "fake_quantize_mask_backward": _fake_quantize_mask_backward,
        "fake_quantize_many": _fake_quantize_many,
        "fake_quantize_many_mask": _fake_quantize_many_mask,
        "fake_quantize_many_backward": _fake_quantize_many_backward,
        "fake_quantize_range_many": _fake_quantize_many,
        "fake_quantize_range_many_mask": _fake_quantize_many_mask,
        "fake_quantize_range_many_backward": _fake_quantize_many_backward,
        "fake_quantize_dynamic_many": _fake_quantize_dynamic_many,
        "fake_quantize_dynamic_many_mask": _fake_quantize_dynamic_many_mask,
        "fake_quantize_mask_many_backward": _fake_quantize_mask_many_backward,
        "float_cast": _float_cast,
        "float_cast_mask": _float_cast_mask,
        "block_cast": _block_cast,
        "block_cast_mask": _block_cast_mask,
        "pack_mask": _mask,
        "unpack_mask": _unpack_mask,
        "quantize": _quantize,
        "quantize_backward": _quantize_backward,
        "dequantize": _dequantize,
        "dequantize_backward": _dequantize_backward,
        "observe_min_max": _observe_min_max,
        "observe_min_max_update_": _observe_min_max_update_,
        "encode_min_max": _encode,
        "encode_affine": _encode,
        "encode_trained": _encode,
        "observe_moments_update_": _observe_moments_update_,
        "observe_histogram_update_": _observe_histogram_update_,
        "observe_histogram_merge_": _observe_histogram_merge_,
        "encode_percentile": _encode_percentile,
        "encode_sqnr": _encode_histogram,
        "encode_mse": _encode_histogram,
        "encode_entropy": _encode_histogram,
    }.items():
        torch.library.register_fake(f"detent::{name}", _on_one_device(name, fake))
