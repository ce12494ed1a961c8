"""fake_quantize backward, all parametrizations and modes, against the float64 oracle."""

import pytest
import torch

import cases
import oracle
from checks import like_empty_like, same_bits, within

ops = torch.ops.detent
pytestmark = pytest.mark.both_autograd_paths

GOLDEN_X = [-2, -1.1, -0.6, -0.26, 0, 0.2, 0.49, 0.9, 1.4, 3]
GOLDEN_G = [1, -1, 0.5, 2, 1, -2, 1, 0.25, -1, 1.5]
GOLDEN_DX = [0, 0, 0.5, 2, 1, -2, 1, 0.25]
SUM = 2.0**-20  # of the sum of the terms' magnitudes (detent/fake_quantize.h)


def leaf(t, requires_grad=True):
    return t.detach().clone(memory_format=torch.preserve_format).requires_grad_(requires_grad)


def sums_close(got, terms, axis=None, block_size=None, **context):
    expected = oracle.reduced(terms, got, axis, block_size)
    tolerance = oracle.reduced(terms.abs(), got, axis, block_size) * SUM
    within(got, expected, tolerance, **context)


@pytest.mark.parametrize("symmetric", [False, True])
def test_golden_gradients_of_min_and_max(symmetric):
    low, high, qmin, qmax = (-1.0, 0.875, -8, 7) if symmetric else (-1.0, 1.5, 0, 15)
    x, low, high = leaf(torch.tensor(GOLDEN_X)), leaf(torch.tensor(low)), leaf(torch.tensor(high))
    ops.fake_quantize_range(x, low, high, qmin, qmax, symmetric).backward(torch.tensor(GOLDEN_G))
    within(x.grad, torch.tensor(GOLDEN_DX + ([0.0, 0.0] if symmetric else [-1.0, 0.0])), 0.0)
    within(low.grad, torch.tensor(-0.186 if symmetric else 0.0213333), 1e-6)
    within(high.grad, torch.tensor(0.186 if symmetric else 1.4786667), 1e-6)


@pytest.mark.parametrize("symmetric", [False, True])
def test_golden_gradients_of_scale_and_zero_point(symmetric):
    scale, zero_point, qmin, qmax = (0.125, 0.0, -8, 7) if symmetric else (1 / 6, 6.0, 0, 15)
    x, scale, zero_point = leaf(torch.tensor(GOLDEN_X)), leaf(torch.tensor(scale)), leaf(torch.tensor(zero_point))
    ops.fake_quantize(x, scale, zero_point, qmin, qmax).backward(torch.tensor(GOLDEN_G))
    within(scale.grad, torch.tensor(2.79 if symmetric else 13.18), 2e-5)
    if not symmetric:
        within(zero_point.grad, torch.tensor(-0.25), 1e-6)  # offset = -zero_point has 0.25


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("name", cases.GRANULARITIES)
def test_scale_and_zero_point_learn_as_the_oracle_says(name, dtype):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x, g = cases.data(shape, dtype), cases.data(shape, dtype, spread=1.0)
    real = oracle.math_dtype(dtype, -8, 7)
    for power_of_two in (True, False):
        scale, zero_point = cases.encodings(x, axis, block_size, power_of_two)
        for zero in (zero_point, None):
            leaves = [leaf(x), leaf(scale)] + ([] if zero is None else [leaf(zero)])
            ops.fake_quantize(
                leaves[0], leaves[1], None if zero is None else leaves[2], -8, 7, axis, block_size
            ).backward(g)
            grad_x, scale_terms, zero_terms = oracle.fake_quantize_gradients(
                g, x, scale, zero, -8, 7, axis, block_size, real
            )
            same_bits(leaves[0].grad, grad_x.to(dtype))
            sums_close(leaves[1].grad, scale_terms, axis, block_size, power_of_two=power_of_two)
            if zero is not None:
                sums_close(leaves[2].grad, zero_terms, axis, block_size, power_of_two=power_of_two)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("name", cases.GRANULARITIES)
def test_min_and_max_learn_as_the_oracle_says(name, dtype, symmetric):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x, g = cases.data(shape, dtype), cases.data(shape, dtype, spread=1.0)
    groups = oracle.group_shape(x, axis, block_size)
    low, high = -torch.rand(groups) * 8 - 0.1, torch.rand(groups) * 8 + 0.1
    low.view(-1)[0], high.view(-1)[0] = 3.0, 5.0  # 0 lies outside: the zero_point is clamped
    low.view(-1)[-1] = high.view(-1)[-1] = 0.0  # collapsed
    real = oracle.math_dtype(dtype, -8, 7)
    scale, zero_point = oracle.affine_of_range(low, high, -8, 7, symmetric, real=real)
    grad_x, *terms = oracle.fake_quantize_gradients(g, x, scale, zero_point, -8, 7, axis, block_size, real)
    sums = [oracle.reduced(t, low, axis, block_size) for t in terms]
    sizes = [oracle.reduced(t.abs(), low, axis, block_size) for t in terms]
    expected = oracle.range_gradients(*sums, low, high, -8, 7, symmetric, real)
    # The chain rule over the magnitudes bounds what rounding of the terms can do.
    steep = oracle.affine_of_range(low, high, -8, 7, symmetric, real=real)[0].double()
    moves = 0.0 if symmetric else sizes[1] * (1 / steep + low.double().abs() / steep**2 / 15)
    tolerance = (sizes[0] / 15 + moves) * SUM
    leaves = leaf(x), leaf(low), leaf(high)
    ops.fake_quantize_range(*leaves, -8, 7, symmetric, None, axis, block_size).backward(g)
    same_bits(leaves[0].grad, grad_x.to(dtype))
    within(leaves[1].grad, expected[0], tolerance + expected[0].abs() * 2**-23)
    within(leaves[2].grad, expected[1], tolerance + expected[1].abs() * 2**-23)


def test_sums_are_as_good_as_plain_torch_in_float32():
    """At most twice the error of the same formula summed by torch, both against float64."""
    x, g = cases.data((60013,)), cases.data((60013,), spread=1.0)
    scale, zero_point = torch.tensor(0.0625), torch.tensor(3.0)
    leaves = leaf(scale), leaf(zero_point)
    ops.fake_quantize(x, *leaves, -8, 7).backward(g)
    _, *truth = oracle.fake_quantize_gradients(g, x, scale, zero_point, -8, 7)
    _, *plain = oracle.fake_quantize_gradients(g, x, scale, zero_point, -8, 7, real=torch.float32)
    for got, exact, single in zip(leaves, truth, plain):
        error = (got.grad.double() - exact.sum()).abs()
        allowed = 2 * (single.sum().double() - exact.sum()).abs() + exact.sum().abs() * 2**-23
        assert error <= allowed, f"error {error}, torch's {allowed}"


@pytest.mark.parametrize("length", cases.LENGTHS)
@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_fixed_and_learned_give_the_same_grad_x_at_every_length(length, dtype):
    x, g = cases.data((length,), dtype, scale=0.25), cases.data((length,), dtype)
    scale, zero_point = torch.tensor(0.25), torch.tensor(2.0)
    fixed, learned = leaf(x), leaf(x)
    y = ops.fake_quantize(fixed, scale, zero_point, -8, 7)
    y.backward(g)
    z = ops.fake_quantize(learned, leaf(scale), zero_point, -8, 7)
    z.backward(g)
    same_bits(y, z)
    same_bits(fixed.grad, learned.grad)
    expected = torch.where(oracle.parts(x, scale, zero_point, -8, 7).mask, g, torch.zeros_like(g))
    same_bits(fixed.grad, expected)


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("name", cases.FOUR_DIMENSIONAL)
def test_layouts_of_x_and_of_the_upstream_gradient_change_no_bit_of_grad_x(name, layout):
    shape, axis, block_size = cases.GRANULARITIES[name]
    dense, g = cases.data(shape), cases.data(shape)
    scale, zero_point = cases.encodings(dense, axis, block_size, False)
    upstream = {"dense": g, "like x": cases.LAYOUTS[layout](g), "transposed": cases.LAYOUTS["transposed"](g)}
    expected = torch.where(oracle.parts(dense, scale, zero_point, -8, 7, axis, block_size, torch.float32).mask, g, 0.0)
    for mode in ("fixed", "learned", "range"):
        sums = []
        for how, gradient in upstream.items():
            x, first = leaf(cases.LAYOUTS[layout](dense)), leaf(scale, mode != "fixed")
            if mode == "range":
                second = leaf(scale * 3)
                y = ops.fake_quantize_range(x, first, second, -8, 7, True, None, axis, block_size)
            else:
                y = ops.fake_quantize(x, first, zero_point, -8, 7, axis, block_size)
            (grad,) = torch.autograd.grad(y, x, gradient, retain_graph=True)
            if mode != "range":
                same_bits(grad, expected, mode=mode, upstream=how)
            if mode != "fixed":
                sums.append(torch.autograd.grad(y, first, gradient)[0])
        for other in sums[1:]:
            same_bits(other, sums[0], mode=mode)


@pytest.mark.parametrize("mode", ["fixed", "learned", "range", "dynamic"])
@pytest.mark.parametrize("name", cases.GRANULARITIES)
def test_expanded_upstream_gradients(name, mode):
    """y.sum().backward() hands down one element with strides of zero."""
    shape, axis, block_size = cases.GRANULARITIES[name]
    scale, zero_point = cases.encodings(torch.empty(shape), axis, block_size, False)
    values = cases.data(shape)

    def run(backward):
        x, first = leaf(values), leaf(scale, mode in ("learned", "range"))
        if mode == "dynamic":
            y = ops.fake_quantize_dynamic(x, None, -8, 7, True, axis, block_size)[0]
        elif mode == "range":
            y = ops.fake_quantize_range(x, -first, first, -8, 7, False, None, axis, block_size)
        else:
            y = ops.fake_quantize(x, first, zero_point, -8, 7, axis, block_size)
        backward(y)
        return [t.grad for t in (x, first) if t.requires_grad]

    for got, expected in zip(run(lambda y: y.sum().backward()), run(lambda y: y.backward(torch.ones(shape)))):
        same_bits(got, expected)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("name", cases.GRANULARITIES)
def test_dynamic_passes_gradient_inside_its_range_and_none_through_it(name, dtype, symmetric):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x, g = leaf(cases.data(shape, dtype)), cases.data(shape, dtype)
    y, low, high = ops.fake_quantize_dynamic(x, torch.tensor(0.5), -8, 7, symmetric, axis, block_size)
    assert y.requires_grad and not low.requires_grad and not high.requires_grad
    y.backward(g)
    real = oracle.math_dtype(dtype, -8, 7)
    scale, zero_point = oracle.affine_of_range(low, high, -8, 7, symmetric, real=real)
    mask = oracle.parts(x, scale, zero_point, -8, 7, axis, block_size, real).mask
    same_bits(x.grad, torch.where(mask, g, torch.zeros_like(g)))


def test_only_what_asks_gets_a_gradient():
    x, scale, zero_point, g = cases.data((64,)), torch.tensor(0.3), torch.tensor(1.0), cases.data((64,))
    everything = leaf(x), leaf(scale), leaf(zero_point)
    ops.fake_quantize(*everything, -8, 7).backward(g)
    for asked in range(3):
        tensors = [leaf(t, index == asked) for index, t in enumerate((x, scale, zero_point))]
        ops.fake_quantize(*tensors, -8, 7).backward(g)
        for index, tensor in enumerate(tensors):
            if index == asked:
                same_bits(tensor.grad, everything[index].grad, asked=asked)
            else:
                assert tensor.grad is None
    low, high = -scale, scale
    everything = leaf(x), leaf(low), leaf(high)
    ops.fake_quantize_range(*everything, -8, 7, False).backward(g)
    for asked in range(3):
        tensors = [leaf(t, index == asked) for index, t in enumerate((x, low, high))]
        ops.fake_quantize_range(*tensors, -8, 7, False).backward(g)
        same_bits(tensors[asked].grad, everything[asked].grad, asked=asked)


def test_no_gradient_asked_no_graph_kept():
    x, scale = torch.randn(9), torch.tensor(0.5)
    assert not ops.fake_quantize(x, scale, None, -8, 7).requires_grad
    with torch.no_grad():
        assert not ops.fake_quantize(leaf(x), leaf(scale), None, -8, 7).requires_grad


def test_encoding_gradients_have_the_shape_and_dtype_of_the_encoding():
    x = cases.data((4, 6, 3))
    for shape in [(6,), (1, 6, 1)]:
        for dtype in (torch.float32, torch.float64):
            scale, zero_point = leaf(torch.rand(shape).to(dtype) + 0.1), leaf(torch.ones(shape, dtype=dtype))
            ops.fake_quantize(x, scale, zero_point, -8, 7, 1).sum().backward()
            assert (
                scale.grad.shape == zero_point.grad.shape == shape
                and scale.grad.dtype == zero_point.grad.dtype == dtype
            )
    for shape in [(), (1,), (1, 1, 1)]:
        scale = leaf(torch.full(shape, 0.3))
        ops.fake_quantize(x, scale, None, -8, 7).sum().backward()
        assert scale.grad.shape == shape


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("encoding_dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("grid", [(-8, 7)] + cases.WIDE_GRIDS)
def test_encodings_of_another_width_and_wide_grids_learn(dtype, encoding_dtype, grid):
    x, g = cases.data((700,), dtype), cases.data((700,), dtype)
    scale, zero_point = torch.tensor(0.3, dtype=encoding_dtype), torch.tensor(2.0, dtype=encoding_dtype)
    leaves = leaf(x), leaf(scale), leaf(zero_point)
    ops.fake_quantize(*leaves, *grid).backward(g)
    grad_x, *terms = oracle.fake_quantize_gradients(
        g, x, scale, zero_point, *grid, real=oracle.math_dtype(dtype, *grid)
    )
    same_bits(leaves[0].grad, grad_x.to(dtype))
    for tensor, term in zip(leaves[1:], terms):
        assert tensor.grad.dtype == encoding_dtype
        sums_close(tensor.grad, term, grid=grid)


def test_grad_scale_multiplies_both_gradients_of_the_encoding_only():
    x, g = cases.data((300,)), cases.data((300,))
    plain = leaf(x), leaf(torch.tensor(0.25)), leaf(torch.tensor(2.0))
    scaled = [leaf(t) for t in plain]
    ops.fake_quantize(*plain, -8, 7).backward(g)
    ops.fake_quantize(*scaled, -8, 7, grad_scale=0.125).backward(g)
    same_bits(scaled[0].grad, plain[0].grad)
    for got, expected in zip(scaled[1:], plain[1:]):
        same_bits(got.grad, expected.grad * 0.125)


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_the_mask_selects_and_never_multiplies(dtype):
    """An infinite or NaN upstream gradient does not leak from clipped elements."""
    x = torch.tensor([100.0, -100.0, 0.1, 0.1], dtype=dtype)
    g = torch.tensor([float("inf"), float("nan"), float("inf"), 1.0], dtype=dtype)
    for scale in (torch.tensor(0.25), leaf(torch.tensor(0.25))):
        tensor = leaf(x)
        ops.fake_quantize(tensor, scale, None, -8, 7).backward(g)
        same_bits(tensor.grad, torch.tensor([0.0, 0.0, float("inf"), 1.0], dtype=dtype))


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_nan_in_x_stops_its_gradient_and_shows_in_the_sums(dtype):
    x = torch.tensor([float("nan"), 0.3, 9.0, float("inf"), -float("inf")], dtype=dtype)
    g = torch.ones(5, dtype=dtype)
    tensor, scale, zero_point = leaf(x), leaf(torch.tensor(0.25)), leaf(torch.tensor(0.0))
    ops.fake_quantize(tensor, scale, zero_point, -8, 7).backward(g)
    same_bits(tensor.grad, torch.tensor([0.0, 1, 0, 0, 0], dtype=dtype))
    assert scale.grad.isnan() and zero_point.grad.isnan()
    tensor, scale, zero_point = leaf(x[1:]), leaf(torch.tensor(0.25)), leaf(torch.tensor(0.0))
    ops.fake_quantize(tensor, scale, zero_point, -8, 7).backward(g[1:])
    assert scale.grad.isfinite() and zero_point.grad.item() == -3 * 0.25
    low, high = leaf(torch.tensor(-1.0)), leaf(torch.tensor(1.0))
    ops.fake_quantize_range(leaf(x), low, high, -8, 7, False).backward(g)
    assert low.grad.isnan() and high.grad.isnan()


def test_gradients_of_empty_tensors_are_zero():
    for shape, axis in [((0,), None), ((0, 3), 1), ((3, 0), 0), ((0, 3), 0)]:
        groups = oracle.group_shape(torch.empty(shape), axis)
        x, scale, zero_point = leaf(torch.empty(shape)), leaf(torch.ones(groups)), leaf(torch.zeros(groups))
        ops.fake_quantize(x, scale, zero_point, -8, 7, axis).sum().backward()
        assert x.grad.shape == shape
        same_bits(scale.grad, torch.zeros(groups))
        same_bits(zero_point.grad, torch.zeros(groups))


@pytest.mark.parametrize("name", ["tensor", "middle axis", "interleaved"])
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "every other"])
def test_grad_x_has_the_strides_of_empty_like(name, layout):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x = cases.LAYOUTS[layout](cases.data(shape))
    scale, zero_point = cases.encodings(x, axis, block_size, False)
    got = ops.fake_quantize_backward(cases.data(shape), x, scale, zero_point, -8, 7, axis, block_size)[0]
    like_empty_like(got, x)
