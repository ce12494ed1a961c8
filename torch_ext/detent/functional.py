"""Quantization as functions of tensors. Each is one registered operator: differentiable, compilable, scriptable.

Everywhere: ``x`` may have any shape, strides and memory format, on the CPU or CUDA; results have the strides of
``torch.empty_like(x)``. Encodings (``scale``, ``zero_point``, ``min``, ``max``) are float32 or float64 tensors on the
device of ``x``: shape ``()`` or ``(1,)``; with ``axis`` shape ``(x.shape[axis],)``, or that many values along ``axis``
and ones elsewhere; with ``block_size`` one value per block, ``x.shape[i] // block_size[i]`` along each dimension.

Arithmetic is float32, float64 for float64 data and for grids that reach beyond +-2**23. Halves round to even, the
division by ``scale`` is a true one, NaN stays NaN, +-inf lands on the end of the grid. Sums of gradients are taken in a
fixed order. The formulas stand in ``kernels/math``, their sources (Jacob 2018, Bengio 2013, Esser 2020, Bhalgat 2020) in
the README.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .block_format import BlockFormat
from .float_format import FloatFormat

__all__ = [
    "fake_quantize",
    "fake_quantize_range",
    "fake_quantize_dynamic",
    "fake_quantize_stochastic",
    "float_cast",
    "block_cast",
    "quantize",
    "dequantize",
    "pack_mask",
    "unpack_mask",
]

_ops = torch.ops.detent


def _zero_point(zero_point: Tensor | None, scale: Tensor) -> Tensor | None:
    """An integer zero point, as the kernels want it."""
    if zero_point is None or zero_point.is_floating_point():
        return zero_point
    return zero_point.to(scale.dtype)


def fake_quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    block_size: Sequence[int] | None = None,
    activation_min: float | None = None,
    activation_max: float | None = None,
    trained: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """Round ``x`` to the grid ``[qmin, qmax]`` and back, with a straight-through gradient.

    ``y = (clamp(rint(x / scale) + zero_point, qmin, qmax) - zero_point) * scale`` (Jacob 2018, eqs. 1 and 12). Gradients
    for ``x`` (Bengio 2013), ``scale`` (Esser 2020, eq. 3) and a float ``zero_point`` (Bhalgat 2020, eq. 6).

    Args:
        x: Any shape; float16, bfloat16, float32 or float64.
        scale: Real units per step, > 0. Shape as the module says.
        zero_point: Integer value standing for 0.0, float or an integer dtype, shaped like ``scale``; floats are rounded
            half-even. ``None``: 0.
        qmin, qmax: Inclusive grid ends, ``-2**31 <= qmin < qmax <= 2**32 - 1``.
        axis: Channel dimension, may be negative; ``None`` for one scale per tensor.
        block_size: Elements along each dimension that share a scale, -1 for the whole dimension; one entry per dimension.
        activation_min, activation_max: A ReLU before the quantizer in the same pass, ``activation_min=0``, or a ReLU6, 0
            and 6: ``x`` is held to these first, and has no gradient unless it lies strictly between them. Results are
            those of the two passes bit for bit. ``None``: no such bound.
        trained: ``scale`` and ``zero_point`` are whatever an optimizer made of them: ``|scale|`` counts, at least the
            floor of :func:`fake_quantize_range`, and ``zero_point`` held to the grid. Gradients pass straight through
            both, with slope 1 where ``scale`` is 0; NaN stays NaN.
        residual: Added to ``x`` before all of this, in the same pass and again with the bits of ``x + residual``, whose
            gradient both have. Shape and dtype of ``x``.
    Returns:
        Tensor like ``x``, each value ``(q - zero_point) * scale`` for an integer ``q``.
    Raises:
        ValueError: ``qmin >= qmax``; ``scale`` or ``zero_point`` does not fit ``axis`` or ``block_size``; a dtype is not
            a float one; tensors on different devices; ``activation_min >= activation_max``; ``residual`` is not like
            ``x``.
    Example:
        >>> fake_quantize(torch.tensor([-1.0, 0.25, 0.75, 9.0]), torch.tensor(0.5), qmin=-2, qmax=3)
        tensor([-1.0000,  0.0000,  1.0000,  1.5000])
        >>> x, shortcut = torch.tensor([-1.0, 0.25]), torch.tensor([0.5, 1.0])
        >>> fake_quantize(x, torch.tensor(0.5), qmin=-2, qmax=3, activation_min=0.0, residual=shortcut)
        tensor([0., 1.])
    """
    point = _zero_point(zero_point, scale)
    return _ops.fake_quantize(
        x, scale, point, qmin, qmax, axis, block_size, 1.0, activation_min, activation_max, trained, residual
    )


def _grid(bitwidth: int | None, qmin: int | None, qmax: int | None, symmetric: bool) -> tuple[int, int]:
    if bitwidth is None:
        if qmin is None or qmax is None:
            raise ValueError(f"got bitwidth=None, qmin={qmin}, qmax={qmax}, expected bitwidth or both of qmin and qmax.")
        return qmin, qmax
    if qmin is not None or qmax is not None:
        raise ValueError(f"got bitwidth={bitwidth}, qmin={qmin} and qmax={qmax}, expected bitwidth or qmin and qmax.")
    if not 2 <= bitwidth <= 32:
        raise ValueError(f"bitwidth is {bitwidth}, expected 2 .. 32.")
    return (-(2 ** (bitwidth - 1)), 2 ** (bitwidth - 1) - 1) if symmetric else (0, 2**bitwidth - 1)


def fake_quantize_range(
    x: Tensor,
    min: Tensor,
    max: Tensor,
    *,
    bitwidth: int | None = None,
    qmin: int | None = None,
    qmax: int | None = None,
    symmetric: bool = False,
    zero_point: int | None = None,
    axis: int | None = None,
    block_size: Sequence[int] | None = None,
    activation_min: float | None = None,
    activation_max: float | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """Fake-quantize ``x`` with the grid that ``min`` and ``max`` span; both learn.

    With ``N = qmax - qmin``: ``scale = max(|max - min| / N, min(1.1920929e-7, 0.01 / N))``, and
    ``zero_point = clamp(qmin - rint(min / scale), qmin, qmax)`` unless ``symmetric`` fixes it. Both are derived inside
    the operator, in the arithmetic of the module's head.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64.
        min, max: Ends of the range in real units. Shape as the module says.
        bitwidth: 2 .. 32, instead of ``qmin`` and ``qmax``: signed if ``symmetric``, else ``0 .. 2**bitwidth - 1``.
        qmin, qmax: Inclusive grid ends.
        symmetric: The zero point is fixed by the grid: ``zero_point``, else ``round((qmin + qmax) / 2)``.
        zero_point: That fixed zero point, on the grid; 0 with ``qmin=0`` is the unsigned symmetric grid.
        axis, block_size, activation_min, activation_max, residual: As in :func:`fake_quantize`.
    Returns:
        Tensor like ``x``.
    Raises:
        ValueError: As :func:`fake_quantize`; ``zero_point`` without ``symmetric`` or off the grid.
    Example:
        >>> fake_quantize_range(torch.tensor([-2.0, 0.1, 0.4, 3.0]), torch.tensor(-1.0), torch.tensor(2.0), bitwidth=2)
        tensor([-1.,  0.,  0.,  2.])
    """
    qmin, qmax = _grid(bitwidth, qmin, qmax, symmetric)
    return _ops.fake_quantize_range(
        x, min, max, qmin, qmax, symmetric, zero_point, axis, block_size, activation_min, activation_max, residual
    )


def fake_quantize_dynamic(
    x: Tensor,
    clip: Tensor | None = None,
    *,
    qmin: int,
    qmax: int,
    symmetric: bool,
    zero_point: int | None = None,
    axis: int | None = None,
    block_size: Sequence[int] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fake-quantize ``x`` with the range of ``x`` itself, times ``clip``; no gradient goes through the range.

    Values that are not finite, or at least half their type's largest number, do not widen the range.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64.
        clip: Factor on the observed minimum and maximum, one value or one per group; ``None`` for 1.
        qmin, qmax, symmetric, zero_point, axis, block_size: As in :func:`fake_quantize_range`.
    Returns:
        ``(y, min, max)``: a tensor like ``x`` and the range that was used, ``(1,)``, ``(x.shape[axis],)`` or one value
        per block.
    Raises:
        ValueError: As :func:`fake_quantize_range`.
    Example:
        >>> y, lo, hi = fake_quantize_dynamic(torch.tensor([-1.0, 0.2, 0.5]), qmin=-128, qmax=127, symmetric=True)
        >>> hi
        tensor([0.9922])
    """
    return _ops.fake_quantize_dynamic(x, clip, qmin, qmax, symmetric, axis, block_size, zero_point)


def fake_quantize_stochastic(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    random: Tensor,
    qmin: int,
    qmax: int,
    axis: int | None = None,
    block_size: Sequence[int] | None = None,
) -> Tensor:
    """Fake-quantize ``x``, rounding up or down at random: inside the grid the expectation is ``x``.

    ``y = (clamp(floor(x / scale + u) + zero_point, qmin, qmax) - zero_point) * scale`` (Gupta 2015), ``u`` in ``[0, 1)``
    a function of ``random`` and the element's place in a contiguous ``x`` (Philox 4x32-10, Salmon 2011): the same bits
    for any number of threads, any layout and device. The gradients are those of :func:`fake_quantize`. Codes are
    ``quantize`` of the result.

    Args:
        x, scale, zero_point, qmin, qmax, axis, block_size: As in :func:`fake_quantize`.
        random: int64 tensor ``[seed, offset]`` on the device of ``x``. Another offset draws other numbers; advance it in
            place after each call, ``random[1] += 1``, which ``torch.compile`` and CUDA graphs capture.
    Returns:
        Tensor like ``x``.
    Raises:
        ValueError: As :func:`fake_quantize`; ``random`` is not two int64 numbers.
    Example:
        >>> random = torch.tensor([2026, 0])
        >>> x = torch.full((10000,), 0.3)
        >>> y = fake_quantize_stochastic(x, torch.tensor(1.0), random=random, qmin=-8, qmax=7)
        >>> y.unique(), bool((y.mean() - 0.3).abs() < 0.03)
        (tensor([0., 1.]), True)
    """
    return _ops.fake_quantize_stochastic(
        x, scale, _zero_point(zero_point, scale), random, qmin, qmax, axis, block_size
    )


def float_cast(
    x: Tensor,
    format: FloatFormat | torch.dtype | str,
    scale: Tensor | None = None,
    *,
    axis: int | None = None,
    block_size: Sequence[int] | None = None,
) -> Tensor:
    """Round ``x`` to a float format of fewer bits and back, with a straight-through gradient.

    ``v = clamp(x / scale, -format.max, format.max)``, rounded half-even to the format's nearest number, times ``scale``
    (Kuzmin 2022, eqs. 2 and 3). Numbers beyond the largest one become it, infinities too; NaN stays NaN. The gradient
    for ``x`` is 1 where ``|x / scale| <= format.max`` and 0 elsewhere (Bengio 2013); ``scale`` has none.

    Args:
        x: Any shape; float16, bfloat16, float32 or float64.
        format: A :class:`FloatFormat`, or what :meth:`FloatFormat.of` takes: ``torch.float8_e5m2``, ``"float16"``.
        scale: > 0; shape as the module says. ``None``: 1.
        axis, block_size: As in :func:`fake_quantize`.
    Returns:
        Tensor like ``x``.
    Raises:
        ValueError: As :func:`fake_quantize`; a type without a format.
    Example:
        >>> float_cast(torch.tensor([0.3, 17.0, 1e6]), torch.float8_e4m3fn).tolist()
        [0.3125, 16.0, 448.0]
    """
    format = FloatFormat.of(format)
    if scale is None:
        scale = torch.ones((), dtype=torch.float64 if x.dtype == torch.float64 else torch.float32, device=x.device)
    return _ops.float_cast(x, scale, format.mantissa_bits, format.min_exponent, format.max, axis, block_size)


def block_cast(
    x: Tensor,
    format: BlockFormat | str,
    *,
    axis: int = -1,
    block_size: int | None = None,
    tensor_scale: Tensor | None = None,
) -> Tensor:
    """Round ``x`` to a block format (MX, NVFP4) and back, with a straight-through gradient.

    Runs of ``block_size`` elements along ``axis`` share a scale, which follows from the largest magnitude among them.
    For the MX formats it is ``2**(floor(log2(largest)) - emax)`` within 2**-127 .. 2**127, emax the exponent of the
    elements' largest number (OCP Microscaling v1.0, section 6.3; Rouhani 2023). For NVFP4 it is
    ``largest / 6 / tensor_scale``, rounded to a float8 e4m3 number from 2**-9 to 448, times ``tensor_scale``. Elements
    are rounded as by :func:`float_cast`.

    NaN stays NaN and infinities become the end of their block's range; neither counts for the scale. A block of zeros
    stays one. The gradient is 1 but for NaN, infinities and what lies beyond NVFP4's largest scale; scales follow
    ``x`` without one.

    Args:
        x: At least one dimension; float16, bfloat16, float32 or float64.
        format: A :class:`detent.BlockFormat`, or a name that :meth:`detent.BlockFormat.of` takes.
        axis: The dimension that is cut into blocks, may be negative; the last block may be shorter than the others.
        block_size: Elements per scale; ``None``: the format's.
        tensor_scale: One number > 0, float32 or float64, of formats of two levels; ``None``: what lets the largest
            finite magnitude of ``x`` fall on the largest number.
    Returns:
        Tensor like ``x``.
    Raises:
        ValueError: A type, name or size that is none; ``tensor_scale`` of a format of one level; ``axis`` that ``x`` has
            not.
    Example:
        >>> x = torch.tensor([0.1, -1.0, 0.4, 3.9])
        >>> block_cast(x, "mxfp4"), block_cast(x, "mxfp4", block_size=2)
        (tensor([ 0.0000, -1.0000,  0.5000,  3.0000]), tensor([ 0.1250, -1.0000,  0.5000,  3.0000]))
    """
    format = BlockFormat.of(format)
    block_size = format.block_size if block_size is None else block_size
    if tensor_scale is not None and not format.two_level:
        raise ValueError(
            f"block_cast: tensor_scale was given for {format}, expected None: its scales are powers of two."
        )
    if tensor_scale is None and format.two_level:
        low, high, _ = _ops.observe_min_max(x.detach())
        tensor_scale = (torch.maximum(high, -low) / (format.max * 448)).clamp_min(torch.finfo(torch.float32).tiny)
    return _ops.block_cast(x, format.mantissa_bits, format.min_exponent, format.max, axis, block_size, tensor_scale)


def quantize(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    qmin: int,
    qmax: int,
    dtype: torch.dtype | None = None,
    axis: int | None = None,
    block_size: Sequence[int] | None = None,
    packed: bool = False,
) -> Tensor:
    """The integer codes ``q = clamp(rint(x / scale) + zero_point, qmin, qmax)``.

    Codes held as floats carry a gradient, straight through: on the grid ``1 / scale`` for ``x``, ``-x / scale**2`` for
    ``scale`` and 1 for ``zero_point``, beyond it 0. Integers carry none in torch: train through :func:`fake_quantize`,
    or through float codes and :func:`dequantize`.

    Args:
        x, scale, zero_point, qmin, qmax, axis, block_size: As in :func:`fake_quantize`.
        dtype: Type of the codes: int8, uint8, int16 or int32; ``None``: the type of ``x``, the only form that carries a
            gradient. It must hold every integer of the grid.
        packed: Two 4-bit codes in each byte of an int8 (grid within -8 .. 7) or uint8 (0 .. 15): the last dimension,
            which must be even, is half as long and contiguous. The first code is in the low half, as in ONNX's INT4
            and UINT4.
    Returns:
        Codes shaped like ``x``. NaN becomes the code of 0.0 in an integer type and stays NaN in a float one.
    Raises:
        ValueError: As :func:`fake_quantize`; the grid does not fit ``dtype``; the last dimension is odd, where packed.
    Example:
        >>> quantize(torch.tensor([-1.0, 0.25, 0.75, 9.0]), torch.tensor(0.5), qmin=-2, qmax=3, dtype=torch.int8)
        tensor([-2,  0,  2,  3], dtype=torch.int8)
        >>> weight = torch.tensor([[1.0, 2.0], [7.5, 0.5]])
        >>> q = quantize(weight, torch.tensor(0.5), qmin=0, qmax=15, dtype=torch.uint8, packed=True)
        >>> [hex(byte) for byte in q.flatten()]
        ['0x42', '0x1f']
    """
    return _ops.quantize(x, scale, _zero_point(zero_point, scale), qmin, qmax, dtype, axis, block_size, packed)


def dequantize(
    q: Tensor,
    scale: Tensor,
    zero_point: Tensor | None = None,
    *,
    dtype: torch.dtype | None = None,
    axis: int | None = None,
    block_size: Sequence[int] | None = None,
    packed: bool = False,
) -> Tensor:
    """The values ``(q - zero_point) * scale`` that codes stand for.

    Gradients: ``scale`` for ``q`` where it is held as floats; ``q - zero_point`` for ``scale`` and ``-scale`` for
    ``zero_point``, summed per group, whatever holds the codes.

    Args:
        q: Codes: int8, uint8, int16, int32, or a float type.
        scale, zero_point, axis, block_size: As in :func:`fake_quantize` for the values.
        dtype: Type of the values; ``None``: float32 for integer codes, else the type of ``q``.
        packed: ``q`` is int8 or uint8 and holds two codes in a byte, as :func:`quantize` packs them; the last dimension
            of the values is twice that of ``q``.
    Returns:
        Values shaped like ``q``; equal to :func:`fake_quantize` of what was quantized.
    Raises:
        ValueError: As :func:`fake_quantize`.
    Example:
        >>> dequantize(torch.tensor([-2, 0, 2, 3], dtype=torch.int8), torch.tensor(0.5))
        tensor([-1.0000,  0.0000,  1.0000,  1.5000])
        >>> dequantize(torch.tensor([0x42, 0x1F], dtype=torch.uint8), torch.tensor(0.5), packed=True)
        tensor([1.0000, 2.0000, 7.5000, 0.5000])
    """
    return _ops.dequantize(q, scale, _zero_point(zero_point, scale), dtype, axis, block_size, packed)


def pack_mask(inside: Tensor) -> Tensor:
    """One bit per element: bit ``i % 8`` of byte ``i // 8`` is element ``i`` of ``inside.flatten()``.

    The masks that the operators keep for backward are such, over the elements in the order of ``x`` in memory.

    Args:
        inside: bool, any shape.
    Returns:
        uint8, ``((inside.numel() + 7) // 8,)``; bits beyond the last element are 0.
    Raises:
        ValueError: Another dtype.
    Example:
        >>> pack_mask(torch.tensor([True, False, True, True])).tolist()
        [13]
    """
    return _ops.pack_mask(inside)


def unpack_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    """What :func:`pack_mask` packed.

    Args:
        mask: uint8, as many bytes as ``size`` needs.
        size: Of the result.
    Returns:
        bool, contiguous, of ``size``.
    Raises:
        ValueError: ``mask`` is of another dtype or has another number of elements.
    Example:
        >>> unpack_mask(torch.tensor([13], dtype=torch.uint8), (2, 2))
        tensor([[ True, False],
                [ True,  True]])
        >>> x = torch.tensor([-9.0, 0.2, 9.0])
        >>> y, mask = torch.ops.detent.fake_quantize_mask(x, torch.tensor(0.5), None, -8, 7)
        >>> unpack_mask(mask, x.shape)
        tensor([False,  True, False])
    """
    return _ops.unpack_mask(mask, size)
