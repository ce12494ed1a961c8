"""A residual inside fake_quantize, with a ReLU or without: the bits of x + residual first, and what is kept."""

import math

import pytest
import torch

import cases
import detent
from checks import like_empty_like, same_bits

ops = torch.ops.detent
pytestmark = pytest.mark.both_autograd_paths

ACTIVATIONS = {
    "none": (lambda x: x, (None, None)),
    "relu": (torch.relu, (0.0, None)),
    "relu6": (torch.nn.functional.relu6, (0.0, 6.0)),
}
MODES = ("fixed", "fixed range", "learned", "learned, no zero point", "learned range", "learned symmetric range")


def leaf(t, requires_grad=True):
    return t.detach().clone(memory_format=torch.preserve_format).requires_grad_(requires_grad)


def run(x, residual, g, activation, fused, mode, first, second, grid=(-8, 7), axis=None, block_size=None):
    """y and all gradients, in one pass or in three."""
    apply, bounds = ACTIVATIONS[activation]
    x, residual = leaf(x), leaf(residual)
    into, before = (x, (*bounds, residual)) if fused else (apply(x + residual), (None, None, None))
    if "range" in mode:
        first, second = first * -8, first * 7 + second.abs()
    first, second = (leaf(t, mode.startswith("learned")) for t in (first, second))
    if "range" in mode:
        y = ops.fake_quantize_range(into, first, second, *grid, "symmetric" in mode, None, axis, block_size, *before)
    else:
        zero_point, (low, high, added) = None if "no zero" in mode else second, before
        y = ops.fake_quantize(into, first, zero_point, *grid, axis, block_size, 0.25, low, high, False, added)
    y.backward(g)
    return [t for t in (y, x.grad, residual.grad, first.grad, second.grad) if t is not None]


def expect_the_bits_of_three_passes(x, residual, g, activation, mode, *encoding, **context):
    one = run(x, residual, g, activation, True, mode, *encoding)
    three = run(x, residual, g, activation, False, mode, *encoding)
    assert len(one) == len(three) == (3 if mode.startswith("fixed") else 4 if "no zero" in mode else 5)
    for what, got, expected in zip(("y", "grad_x", "grad_residual", "first", "second"), one, three):
        same_bits(got, expected, what=what, activation=activation, mode=mode, **context)
    return one


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("name", ["tensor", "middle axis", "blocks of the last", "interleaved"])
def test_one_pass_has_the_bits_of_three(name, dtype):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x, residual, g = cases.data(shape, dtype, scale=0.25), cases.data(shape, dtype), cases.data(shape, dtype)
    residual = residual.flip(0).contiguous()
    first, second = cases.encodings(x, axis, block_size, False)
    for activation in ACTIVATIONS:
        for mode in MODES:
            for values in (x, x.nan_to_num(1.0)):  # with NaN in it a sum of gradients is NaN
                encoding = first, second, (-8, 7), axis, block_size
                expect_the_bits_of_three_passes(values, residual, g, activation, mode, *encoding)


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_every_length(dtype):
    for length in (0, 1, 7, 9, 511, 513, 16385):
        x, residual, g = (cases.data((length,), dtype) for _ in range(3))
        for mode in ("fixed", "learned range"):
            expect_the_bits_of_three_passes(x, residual, g, "relu", mode, torch.tensor(0.3), torch.tensor(2.0))


@pytest.mark.parametrize("grid", [(0, 255), *cases.WIDE_GRIDS])
def test_the_sum_is_rounded_to_the_type_of_x_whatever_the_arithmetic(grid):
    for dtype in cases.FLOATS:
        x, residual, g = cases.data((1031,), dtype), cases.data((1031,), dtype, spread=1e-3), cases.data((1031,), dtype)
        for mode in ("fixed", "learned"):
            expect_the_bits_of_three_passes(x, residual, g, "none", mode, torch.tensor(1e-4), torch.tensor(3.0), grid)


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_layouts_of_either(layout):
    for arranged in ((layout, layout), (layout, "contiguous"), ("channels_last", layout)):
        x, residual = (cases.LAYOUTS[name](cases.data((6, 4, 8, 10))) for name in arranged)
        first, second = cases.encodings(x, None, None, False)
        for mode in ("fixed", "learned"):
            y, grad_x, grad_residual, *_ = expect_the_bits_of_three_passes(
                x, residual, cases.data((6, 4, 8, 10)), "relu", mode, first, second
            )
            like_empty_like(y, x)
            like_empty_like(grad_x, x)


def test_a_tensor_added_to_itself_has_twice_the_gradient():
    x = torch.randn(100, requires_grad=True)
    ops.fake_quantize(x, torch.tensor(0.5), None, -100, 100, residual=x).sum().backward()
    same_bits(x.grad, torch.full((100,), 2.0))


def test_one_of_the_two_may_want_no_gradient():
    for wanted in ((True, False), (False, True)):
        x, residual = (torch.randn(100, requires_grad=grad) for grad in wanted)
        for learned in (False, True):
            scale = torch.tensor(0.5, requires_grad=learned)
            ops.fake_quantize(x, scale, None, -100, 100, residual=residual).sum().backward()
            assert [t.grad is not None for t in (x, residual)] == list(wanted)
            x.grad = residual.grad = None


def test_a_fixed_range_keeps_one_bit_per_element_and_a_learned_one_the_sum():
    if detent.build_info()["autograd"] != "C++":
        pytest.skip("gradients from Python keep the sum")
    x, residual = (torch.randn(64, 100, requires_grad=True) for _ in range(2))

    def kept(learned):
        saved = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)
        with hooks:
            low, high = (torch.tensor([end]).requires_grad_(learned) for end in (0.0, 4.0))
            ops.fake_quantize_range(x + 0, low, high, 0, 255, False, activation_min=0.0, residual=residual + 0)
        return [t for t in saved if t.numel() > 1]

    (mask,) = kept(learned=False)
    assert mask.nbytes == x.numel() // 8
    (sum_,) = kept(learned=True)
    same_bits(sum_, x + residual)


def test_what_is_no_like_of_x_is_refused():
    x, scale = torch.randn(4, 6), torch.tensor(0.1)
    for residual in (torch.randn(6), torch.randn(4, 6).double(), torch.ones(4, 6, dtype=torch.int64)):
        for call in (
            lambda r: ops.fake_quantize(x, scale, None, 0, 15, residual=r),
            lambda r: ops.fake_quantize_mask(x, scale, None, 0, 15, residual=r),
            lambda r: ops.fake_quantize_sum(x, r, scale, None, 0, 15),
            lambda r: ops.fake_quantize_range(x, -scale, scale, 0, 15, False, residual=r),
            lambda r: ops.fake_quantize_range_sum(x, r, -scale, scale, 0, 15, False),
        ):
            with pytest.raises(ValueError, match=r"residual has shape .* expected shape \(4, 6\) and dtype float32"):
                call(residual)
    with pytest.raises(ValueError, match="expected the first below the second"):
        ops.fake_quantize(x, scale, None, 0, 15, activation_min=math.inf, residual=x)


def test_threads_change_no_bit():
    x, residual, g = (torch.randn(3, 70, 1031) for _ in range(3))
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(run(x, residual, g, "relu", True, "learned range", torch.tensor(0.1), torch.tensor(1.0)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        for got, expected in zip(result, results[0]):
            same_bits(got, expected)
