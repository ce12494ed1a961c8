"""Observers and encodings: the statistics of a tensor, and the numbers they become."""

import pytest
import torch

import cases
import oracle
from checks import same_bits, within

ops = torch.ops.detent
pytestmark = pytest.mark.both_autograd_paths
INF = float("inf")


def fresh(groups, dtype=torch.float32):
    return (
        torch.full(groups, INF, dtype=dtype),
        torch.full(groups, -INF, dtype=dtype),
        torch.zeros(groups, dtype=torch.int64),
    )


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("length", cases.LENGTHS)
def test_observe_at_every_length_equals_the_oracle(length, dtype):
    x = cases.data((length,), dtype, scale=0.25)
    for got, expected in zip(ops.observe_min_max(x), oracle.observe(x)):
        within(got, expected, 0.0, length=length)
    assert ops.observe_min_max(x)[0].dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "transposed", "every other"])
@pytest.mark.parametrize("name", cases.FOUR_DIMENSIONAL)
def test_observe_in_every_granularity_and_layout_equals_the_oracle(name, layout, dtype):
    shape, axis, block_size = cases.GRANULARITIES[name]
    dense = cases.data(shape, dtype, scale=0.25)
    got = ops.observe_min_max(cases.LAYOUTS[layout](dense), axis, block_size)
    for part, expected in zip(got, oracle.observe(dense, axis, block_size)):
        within(part, expected, 0.0)
        assert part.is_contiguous()


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_attention_masks_and_non_finite_values_are_ignored_and_counted(dtype):
    info = torch.finfo(dtype)
    x = torch.tensor([info.min, info.max / 2, INF, -INF, float("nan"), -3.0, 5.0, info.max / 4], dtype=dtype)
    low, high, ignored = ops.observe_min_max(x)
    assert low.item() == -3.0 and high.item() == torch.tensor(info.max / 4, dtype=dtype).item() and ignored.item() == 5


def test_nothing_counted_is_marked_by_infinities():
    for x in (torch.empty(0), torch.full((5,), float("nan"))):
        low, high, ignored = ops.observe_min_max(x)
        assert low.item() == INF and high.item() == -INF and ignored.item() == x.numel()
    assert ops.observe_min_max(torch.empty(0, 3), 0)[0].shape == (0,)


def moments_of(x, axis, block_size):
    values = oracle.by_group(x.double(), axis, block_size)
    counted = torch.where(values.abs() < torch.finfo(x.dtype).max / 2, values, 0)
    number = values.shape[-1] - oracle.observe(x, axis, block_size)[2]
    return torch.stack([number.double(), counted.abs().sum(-1), counted.sum(-1), counted.square().sum(-1)])


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("name", cases.GRANULARITIES)
def test_moments_and_extremes_in_one_pass(name, dtype):
    shape, axis, block_size = cases.GRANULARITIES[name]
    batches = [cases.data(shape, dtype), cases.LAYOUTS["every other"](cases.data(shape, dtype, scale=0.25))]
    groups = oracle.group_shape(batches[0], axis, block_size)
    state = fresh(groups, torch.float64 if dtype == torch.float64 else torch.float32)
    extremes, moments = [t.clone() for t in state], torch.zeros(4, *groups, dtype=torch.float64)
    for x in batches:
        assert ops.observe_moments_update_(x, *state, moments, axis, block_size) is None
        ops.observe_min_max_update_(x, *extremes, None, axis, block_size)
    for got, expected in zip(state, extremes):
        same_bits(got, expected)
    expected = sum(moments_of(x, axis, block_size) for x in batches)
    size = expected[[0, 1, 1, 3]]  # of the terms
    within(moments, expected, 1e-13 * size)


def test_moments_are_summed_in_one_order_whatever_the_threads():
    for shape, axis in [((300_001,), None), ((40, 7, 911), 1), ((9001, 3), 1), ((2, 5000), 1)]:
        x, results = cases.data(shape), []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            moments = torch.zeros(4, *oracle.group_shape(x, axis), dtype=torch.float64)
            ops.observe_moments_update_(x, *fresh(moments.shape[1:]), moments, axis)
            results.append(moments)
        same_bits(results[1], results[0])
        same_bits(results[2], results[0])


def test_moments_of_another_size_say_so():
    for moments in (torch.zeros(4, 3), torch.zeros(3, 3, dtype=torch.float64)):
        with pytest.raises(ValueError, match=r"moments has shape .* expected 12 contiguous elements of float64, four"):
            ops.observe_moments_update_(torch.ones(2, 3), *fresh((3,)), moments, 1)


@pytest.mark.parametrize("name", ["tensor", "middle axis", "interleaved"])
@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_running_extremes_equal_those_of_all_batches_in_any_order(name, dtype):
    shape, axis, block_size = cases.GRANULARITIES[name]
    batches = [cases.data(shape, dtype, spread=s, scale=0.25) for s in (1.0, 5.0, 2.0)]
    real = torch.float64 if dtype == torch.float64 else torch.float32
    expected = [oracle.observe(b, axis, block_size) for b in batches]
    for order in ((0, 1, 2), (2, 0, 1)):
        state = fresh(oracle.group_shape(batches[0], axis, block_size), real)
        for index in order:
            assert ops.observe_min_max_update_(batches[index], *state, None, axis, block_size) is None
        within(state[0], torch.stack([e[0] for e in expected]).amin(0), 0.0)
        within(state[1], torch.stack([e[1] for e in expected]).amax(0), 0.0)
        within(state[2], sum(e[2] for e in expected), 0.0)


def test_a_moving_average_starts_with_the_first_batch_that_counts():
    state = fresh((1,))
    nothing = torch.full((4,), float("nan"))
    ops.observe_min_max_update_(nothing, *state, 0.25)
    assert state[0].item() == INF and state[2].item() == 4
    ops.observe_min_max_update_(torch.tensor([-2.0, 6.0]), *state, 0.25)
    assert (state[0].item(), state[1].item()) == (-2.0, 6.0)
    ops.observe_min_max_update_(torch.tensor([-4.0, 2.0]), *state, 0.25)
    assert (state[0].item(), state[1].item()) == (-2.5, 5.0)
    ops.observe_min_max_update_(nothing, *state, 0.25)
    assert (state[0].item(), state[1].item(), state[2].item()) == (-2.5, 5.0, 8)
    ops.observe_min_max_update_(torch.tensor([-1.0, 1.0]), *state, 1.0)
    assert (state[0].item(), state[1].item()) == (-1.0, 1.0)


ENCODE_GRIDS = [(0, 255), (-128, 127), (-127, 127), (0, 15), (-8, 7), (-2, 1), (-(2**15), 2**15 - 1), (0, 2**32 - 1)]


def observed(dtype):
    lo = torch.tensor([-1.0, 0.5, -3.0, 0.0, 0.0, -1e-9, -1e30, INF, 0.0, -2.0], dtype=dtype)
    hi = torch.tensor([2.0, 4.0, -1.0, 0.0, 7.0, 1e-9, 1e30, -INF, 1e-40, 0.0], dtype=dtype)
    return torch.cat([lo, -torch.rand(20, dtype=dtype)]), torch.cat([hi, torch.rand(20, dtype=dtype)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("grid", ENCODE_GRIDS)
def test_encodings_equal_the_oracle(grid, symmetric, dtype):
    lo, hi = observed(dtype)
    real = oracle.math_dtype(dtype, *grid)
    low, high = ops.encode_min_max(lo, hi, *grid, symmetric)
    expected = oracle.range_of_observed(lo, hi, *grid, symmetric, real=real)
    same_bits(low + 0.0, expected[0] + 0.0)  # the sign of a zero is not promised
    same_bits(high + 0.0, expected[1] + 0.0)
    scale, zero_point = ops.encode_affine(low, high, *grid, symmetric)
    expected = oracle.affine_of_range(low, high, *grid, symmetric, real=real)
    same_bits(scale, expected[0])
    same_bits(zero_point + 0.0, expected[1] + 0.0)
    assert bool((low <= 0).all()) and bool((high >= 0).all()), "zero must be representable"
    assert bool((zero_point >= grid[0]).all()) and bool((zero_point <= grid[1]).all())


def test_golden_encodings():
    scale, zero_point = ops.encode_affine(torch.tensor(-1.0), torch.tensor(1.5), 0, 15, False)
    within(scale, torch.tensor(1 / 6), 1e-8)
    assert zero_point.item() == 6
    scale, zero_point = ops.encode_affine(torch.tensor(-1.0), torch.tensor(0.875), -8, 7, True)
    assert (scale.item(), zero_point.item()) == (0.125, 0)


@pytest.mark.parametrize("grid, zero_point", [((0, 15), 0), ((-8, 7), -8), ((-8, 7), 7), ((-128, 127), None)])
def test_symmetric_ranges_fit_their_fixed_zero_point(grid, zero_point):
    lo, hi = observed(torch.float32)
    low, high = ops.encode_min_max(lo, hi, *grid, True, zero_point)
    expected = oracle.range_of_observed(lo, hi, *grid, True, zero_point, real=torch.float32)
    same_bits(low + 0.0, expected[0] + 0.0)
    same_bits(high + 0.0, expected[1] + 0.0)
    fixed = oracle.centre(*grid) if zero_point is None else zero_point
    assert bool((ops.encode_affine(low, high, *grid, True, zero_point)[1] == fixed).all())


def test_encode_affine_gives_the_numbers_of_fake_quantize_range():
    x = cases.data((5, 700), scale=0.25)
    low, high = -torch.rand(5) * 3, torch.rand(5) * 3
    for grid in [(0, 255), (-8, 7), (-(2**31), 2**31 - 1)]:
        scale, zero_point = ops.encode_affine(low, high, *grid, False)
        same_bits(
            ops.fake_quantize_range(x, low, high, *grid, False, None, 0),
            ops.fake_quantize(x, scale, zero_point, *grid, 0),
        )


def test_statistics_carry_no_gradient():
    x = torch.randn(10, requires_grad=True)
    low = torch.tensor(-1.0, requires_grad=True)
    with pytest.raises(RuntimeError, match="observe_min_max is not differentiable"):
        ops.observe_min_max(x)[0].sum().backward()
    with pytest.raises(RuntimeError, match="encode_affine is not differentiable"):
        ops.encode_affine(low, torch.tensor(1.0), 0, 15, False)[0].backward()
    with pytest.raises(RuntimeError, match="encode_min_max is not differentiable"):
        ops.encode_min_max(low, torch.tensor(1.0), 0, 15, False)[0].backward()
