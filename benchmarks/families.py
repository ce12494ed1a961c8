"""The roofline: every kernel family on one tensor, in bytes needed, bytes moved and share of a copy's speed.

Needed are the bytes of what a call reads and of what it returns. Moved are those that it reads and writes in the passes
it makes: a range must be known before the first value is rounded, so what finds one reads x twice. Both count loads and
stores of the program; what the caches save or add, a line read before it is written for one, is in the copy too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from contenders import QMAX, QMIN, Data, dataset
from detent import functional
from harness import Group
from torch import Tensor

_ours = torch.ops.detent
_BINS = 512


def _bytes(tensors: object) -> int:
    if isinstance(tensors, Tensor):
        return tensors.nbytes
    return sum(map(_bytes, tensors)) if isinstance(tensors, (list, tuple)) else 0


def _family(
    data: Data, kind: str, call: Callable[[], object], reads: tuple[Tensor, ...], again: tuple[Tensor, ...] = (),
    others: dict[str, Callable[[], object]] | None = None,
) -> Group:  # fmt: skip
    """``again``: what is read a second time; ``others``: contenders that do the same."""
    needed = _bytes(reads) + _bytes(call())
    group = data.group(f"family: {kind}", "x.clone()", needed)
    group.moved = needed + _bytes(again)
    group.contenders.update({"detent": call, **(others or {})})
    return group


def _fake_quantize(data: Data, relu: bool) -> Iterator[Group]:
    x, affine, ends = data.x, data.learned, (data.min, data.max)
    grad, title = torch.randn_like(x), "ReLU + " if relu else ""
    grid, activation = (QMIN, QMAX), (0.0, None) if relu else ()
    range_grid = (*grid, False, None, None, None)

    def masked() -> tuple[Tensor, Tensor]:
        return _ours.fake_quantize_mask(x, *affine, *grid, None, None, *activation)

    mask = masked()[1]
    two_passes = {"detent, two passes": lambda: data.ours(torch.relu(x), *affine)} if relu else {}
    if relu:
        passes = {"detent, three passes": lambda: data.ours(torch.relu(x + grad), *affine)}
        yield _family(
            data, "residual + ReLU + fake_quantize",
            lambda: data.ours(x, *affine, activation_min=0.0, residual=grad), (x, grad), others=passes,
        )  # fmt: skip
    yield _family(
        data, f"{title}fake_quantize",
        lambda: _ours.fake_quantize(x, *affine, *grid, None, None, 1.0, *activation), (x,), others=two_passes,
    )  # fmt: skip
    yield _family(data, f"{title}fake_quantize_mask", masked, (x,))
    if not relu:  # the mask holds the activation's slope too: the same call
        yield _family(data, "fixed backward", lambda: _ours.fake_quantize_mask_backward(grad, mask), (grad, mask))
    yield _family(
        data, f"{title}learned backward, scale and zero_point",
        lambda: _ours.fake_quantize_backward(grad, x, *affine, *grid, None, None, 1.0, *activation), (grad, x),
    )  # fmt: skip
    yield _family(
        data, f"{title}learned backward, min and max",
        lambda: _ours.fake_quantize_range_backward(grad, x, *ends, *range_grid, *activation), (grad, x),
    )  # fmt: skip


def _integers(data: Data) -> Iterator[Group]:
    x, affine, scale = data.x, data.learned, data.scale.item()
    for name, (qmin, qmax), packed in (("int8", (QMIN, QMAX), False), ("packed int4", (-8, 7), True)):

        def quantize(qmin=qmin, qmax=qmax, packed=packed) -> Tensor:
            return functional.quantize(x, *affine, qmin=qmin, qmax=qmax, dtype=torch.int8, packed=packed)

        codes = quantize()

        def dequantize(codes=codes, packed=packed) -> Tensor:
            return functional.dequantize(codes, *affine, dtype=x.dtype, packed=packed)

        there, back = {}, {}
        if not packed and x.dtype == torch.float32:
            there["aten"] = lambda: torch.quantize_per_tensor(x, scale, 3, torch.qint8)
            back["aten"] = there["aten"]().dequantize
        yield _family(data, f"quantize to {name}", quantize, (x,), others=there)
        yield _family(data, f"dequantize from {name}", dequantize, (codes,), others=back)


def _others(data: Data) -> Iterator[Group]:
    x, grid = data.x, (QMIN, QMAX)
    yield _family(
        data, "fake_quantize_dynamic", lambda: _ours.fake_quantize_dynamic(x, None, *grid, False), (x,), again=(x,)
    )
    random = torch.tensor([2026, 0], device=x.device)
    yield _family(
        data, "fake_quantize_stochastic", lambda: _ours.fake_quantize_stochastic(x, *data.learned, random, *grid), (x,)
    )
    inside = x.abs() < 2
    mask = functional.pack_mask(inside)
    yield _family(data, "pack_mask", lambda: functional.pack_mask(inside), (inside,))
    yield _family(data, "unpack_mask", lambda: functional.unpack_mask(mask, x.shape), (mask,))
    for name in ("mxfp4", "mxfp8_e4m3", "nvfp4"):
        twice = (x,) if name == "nvfp4" else ()  # whose scales have a scale, of the whole tensor
        yield _family(
            data, f"block_cast to {name}", lambda name=name: functional.block_cast(x, name), (x,), again=twice
        )
    for name in ("float8_e4m3fn", "float8_e5m2"):
        yield _family(data, f"float_cast to {name}", lambda name=name: functional.float_cast(x, name, data.scale), (x,))
    aten = {"aten aminmax": lambda: torch.aminmax(x)}
    yield _family(data, "observe_min_max", lambda: _ours.observe_min_max(x), (x,), others=aten)
    ends = [torch.full((1,), value, device=x.device) for value in (torch.inf, -torch.inf)]
    counts = [torch.zeros(shape, dtype=torch.int64, device=x.device) for shape in ((1,), (1, _BINS))]
    yield _family(
        data, "observe_histogram", lambda: _ours.observe_histogram_update_(x, *ends, *counts), (x,), again=(x,),
        others={"aten histc": lambda: torch.histc(x, _BINS)},
    )  # fmt: skip


def groups(device: str, quick: bool) -> Iterator[Group]:
    """Every family on 16 MiB of float32, and of bfloat16."""
    for dtype in (torch.float32,) if quick else (torch.float32, torch.bfloat16):
        data = dataset("per_tensor", device, dtype, ((1 << 18 if quick else 16 << 20) // dtype.itemsize,))
        yield from _fake_quantize(data, relu=False)
        yield from _fake_quantize(data, relu=True)
        yield from _integers(data)
        yield from _others(data)


def table(results: list[dict]) -> list[str]:
    """Lines of Markdown, of results of ``groups``."""
    lines = ["| family | dtype | bytes needed | bytes moved | time / copy_ | needed, share of copy | moved |"]
    lines.append("| --- " * 7 + "|")
    for result in results:
        row, size = result["contenders"]["detent"], result["mib"] * 2**20
        moved = row["copy_fraction"] * result["bytes_moved"] / result["bytes_needed"]
        lines.append(
            f"| {result['kind'].removeprefix('family: ')} | {result['dtype']} | {result['bytes_needed'] / size:.3g} x "
            f"| {result['bytes_moved'] / size:.3g} x "
            f"| {row['median_us'] / result['contenders']['copy']['median_us']:.2f} "
            f"| {row['copy_fraction']:.0%} | {moved:.0%} |"
        )
    return lines
