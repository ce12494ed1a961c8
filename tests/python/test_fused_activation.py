"""ReLU, ReLU6 and Hardtanh inside fake_quantize: the bits of the two passes, and what is kept for backward."""

import math

import pytest
import torch
import torch.nn.functional as F

import cases
import detent
import oracle
from checks import like_empty_like, same_bits, within

ops = torch.ops.detent
pytestmark = pytest.mark.both_autograd_paths

ACTIVATIONS = {
    "relu": (torch.relu, (0.0, None)),
    "relu6": (F.relu6, (0.0, 6.0)),
    "hardtanh": (lambda x: F.hardtanh(x, -1.25, 2.5), (-1.25, 2.5)),
    "no bound that acts": (lambda x: x.clone(), (None, math.inf)),
}
MODES = ("fixed", "fixed range", "learned", "learned, no zero point", "learned range", "learned symmetric range")


def leaf(t, requires_grad=True):
    return t.detach().clone(memory_format=torch.preserve_format).requires_grad_(requires_grad)


def run(x, g, activation, fused, mode, first, second, grid=(-8, 7), axis=None, block_size=None):
    """y and all gradients, in one pass or in two."""
    apply, bounds = ACTIVATIONS[activation]
    x = leaf(x)
    into, bounds = (x, bounds) if fused else (apply(x), (None, None))
    if "range" in mode:
        first, second = first * -8, first * 7 + second.abs()
    first, second = (leaf(t, mode.startswith("learned")) for t in (first, second))
    if "range" in mode:
        y = ops.fake_quantize_range(into, first, second, *grid, "symmetric" in mode, None, axis, block_size, *bounds)
    else:
        zero_point = None if "no zero" in mode else second
        y = ops.fake_quantize(into, first, zero_point, *grid, axis, block_size, 0.25, *bounds)
    y.backward(g)
    return [t for t in (y, x.grad, first.grad, second.grad) if t is not None]


def expect_the_bits_of_two_passes(x, g, activation, mode, *encoding, **context):
    one = run(x, g, activation, True, mode, *encoding)
    two = run(x, g, activation, False, mode, *encoding)
    assert len(one) == len(two) == (2 if mode.startswith("fixed") else 3 if "no zero" in mode else 4)
    for what, got, expected in zip(("y", "grad_x", "first", "second"), one, two):
        same_bits(got, expected, what=what, activation=activation, mode=mode, **context)
    return one


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("name", cases.GRANULARITIES)
def test_one_pass_has_the_bits_of_two(name, dtype):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x, g = cases.data(shape, dtype, scale=0.25), cases.data(shape, dtype)
    first, second = cases.encodings(x, axis, block_size, False)
    for activation in ACTIVATIONS if name in ("tensor", "middle axis", "interleaved") else ("relu6",):
        for mode in MODES:
            for values in (x, x.nan_to_num(1.0)):  # with NaN in it a sum is NaN
                encoding = first, second, (-8, 7), axis, block_size
                expect_the_bits_of_two_passes(values, g, activation, mode, *encoding)


@pytest.mark.parametrize("length", cases.LENGTHS)
@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_every_length(length, dtype):
    x, g = cases.data((length,), dtype), cases.data((length,), dtype)
    for mode in ("fixed", "learned range"):
        expect_the_bits_of_two_passes(x, g, "relu6", mode, torch.tensor(0.3), torch.tensor(2.0))


@pytest.mark.parametrize("grid", [*cases.GRIDS, *cases.WIDE_GRIDS])
def test_every_grid(grid):
    for dtype in cases.FLOATS:
        x, g = cases.data((1031,), dtype), cases.data((1031,), dtype)
        for mode in ("fixed", "learned"):
            expect_the_bits_of_two_passes(x, g, "relu6", mode, torch.tensor(0.3), torch.tensor(3.0), grid)


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_layouts(layout):
    x, g = cases.LAYOUTS[layout](cases.data((6, 4, 8, 10))), cases.data((6, 4, 8, 10))
    for axis in (None, 1):
        first, second = cases.encodings(x, axis, None, False)
        for mode in ("fixed", "learned"):
            y, grad_x, *_ = expect_the_bits_of_two_passes(x, g, "relu", mode, first, second, (-8, 7), axis)
            like_empty_like(y, x)
            like_empty_like(grad_x, x)


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_the_oracle_says_the_same(dtype):
    x, g = cases.data((613,), dtype, scale=0.25), cases.data((613,), dtype, spread=1.0)
    x = x.where(x.isfinite(), torch.ones_like(x))  # a sum with NaN in it is NaN: test_one_pass_has_the_bits_of_two
    scale, zero_point, low, high = torch.tensor(0.25), torch.tensor(3.0), -1.0, 2.5
    held = torch.where(x.double() < low, low, torch.where(x.double() > high, high, x.double()))
    leaves = leaf(x), leaf(scale), leaf(zero_point)
    y = ops.fake_quantize(*leaves, -8, 7, activation_min=low, activation_max=high)
    y.backward(g)
    grad_x, *terms = oracle.fake_quantize_gradients(g.double(), held, scale, zero_point, -8, 7)
    inside = (x.double() > low) & (x.double() < high)
    same_bits(y, oracle.fake_quantize(held, scale, zero_point, -8, 7).to(dtype))
    same_bits(leaves[0].grad, torch.where(inside, grad_x, 0.0).to(dtype))
    for got, term in zip(leaves[1:], terms):
        within(got.grad, term.sum(), term.abs().sum() * 2**-20)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_bounds_are_rounded_to_the_type_of_x(dtype):
    bound = 0.7  # in none of them
    for grid, scale in (((-8, 7), 0.1), ((0, 2**32 - 1), 1e-9)):  # the second has float64 arithmetic
        x = torch.tensor([0.5, 0.69, 0.71, 5.0, math.nan], dtype=dtype)
        y = ops.fake_quantize(x, torch.tensor(scale), None, *grid, activation_max=bound)
        held = torch.where(x > torch.tensor(bound).to(dtype), torch.tensor(bound).to(dtype), x)
        same_bits(y, ops.fake_quantize(held, torch.tensor(scale), None, *grid))


def test_autocast_changes_nothing():
    x, weight = torch.randn(4, 16), torch.randn(8, 16)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = F.linear(x, weight)
        one = ops.fake_quantize(hidden, torch.tensor(0.3), None, 0, 15, activation_min=0.0)
        two = ops.fake_quantize(torch.relu(hidden), torch.tensor(0.3), None, 0, 15)
    assert one.dtype == torch.bfloat16
    same_bits(one, two)


def test_a_fixed_range_keeps_one_bit_per_element_and_a_learned_one_keeps_x():
    if detent.build_info()["autograd"] != "C++":
        pytest.skip("gradients from Python keep x")
    x, low, high = torch.randn(64, 100, requires_grad=True), torch.tensor([0.0]), torch.tensor([4.0])

    def kept(learned):
        saved = []
        hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t)
        with hooks:
            range_ = low.clone().requires_grad_(learned), high.clone().requires_grad_(learned)
            ops.fake_quantize_range(x + 0, *range_, 0, 255, False, activation_min=0.0)
        return sum(t.nbytes for t in saved if t.numel() > 1)

    assert kept(learned=False) == x.numel() // 8
    assert kept(learned=True) == x.nbytes


@pytest.mark.parametrize("bounds", [(6.0, 0.0), (1.0, 1.0), (math.nan, 1.0), (0.0, math.nan), (math.inf, None)])
def test_bounds_in_the_wrong_order_are_refused(bounds):
    x, scale = torch.randn(8), torch.tensor(0.1)
    calls = (
        lambda: ops.fake_quantize(x, scale, None, 0, 15, None, None, 1.0, *bounds),
        lambda: ops.fake_quantize_range(x, -scale, scale, 0, 15, False, None, None, None, *bounds),
        lambda: ops.fake_quantize_backward(x, x, scale, None, 0, 15, None, None, 1.0, *bounds),
        lambda: ops.fake_quantize_range_backward(x, x, -scale, scale, 0, 15, False, None, None, None, *bounds),
    )
    for call in calls:
        with pytest.raises(ValueError, match="activation_min is .* expected the first below the second"):
            call()
