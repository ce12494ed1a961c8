"""fake_quantize forward, all three parametrizations, against the float64 oracle and in the kernels' own arithmetic."""

import pytest
import torch

import cases
import oracle
from checks import like_empty_like, same_bits, ulp, within
from detent import functional

ops = torch.ops.detent
pytestmark = pytest.mark.both_autograd_paths

GOLDEN_X = [-2, -1.1, -0.6, -0.26, 0, 0.2, 0.49, 0.9, 1.4, 3]
GOLDEN = {  # symmetric: (min, max, scale, zero_point, qmin, qmax, y)
    False: (-1.0, 1.5, 1 / 6, 6, 0, 15, [-1, -1, -0.666667, -0.333333, 0, 0.166667, 0.5, 0.833333, 1.333333, 1.5]),
    True: (-1.0, 0.875, 0.125, 0, -8, 7, [-1, -1, -0.625, -0.25, 0, 0.25, 0.5, 0.875, 0.875, 0.875]),
}


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("through", ["operator", "functional"])
def test_golden_vectors(symmetric, through):
    low, high, scale, zero_point, qmin, qmax, expected = GOLDEN[symmetric]
    x, low, high, scale, zero_point, expected = (
        torch.tensor(v, dtype=torch.float32) for v in (GOLDEN_X, low, high, scale, zero_point, expected)
    )
    if through == "operator":
        by_scale = ops.fake_quantize(x, scale, zero_point, qmin, qmax)
        by_range = ops.fake_quantize_range(x, low, high, qmin, qmax, symmetric)
    else:
        by_scale = functional.fake_quantize(x, scale, zero_point, qmin=qmin, qmax=qmax)
        by_range = functional.fake_quantize_range(x, low, high, bitwidth=4, symmetric=symmetric)
    within(by_scale, expected, 1e-6)
    within(by_range, expected, 1e-6)


def test_aimet_vectors():
    """s = 0.5, zero_point 5 on 0 .. 15 and 133 on 0 .. 255."""
    x = torch.tensor([-1005.8, -1000.1, -15.4, -11.24, -3.3, 0.2, 500.4, -1.3, -0.76, -0.11, 0, 1.01, 3, 10.4])
    four = [-2.5] * 5 + [0, 5, -1.5, -1, 0, 0, 1, 3, 5]
    eight = [-66.5, -66.5, -15.5, -11, -3.5, 0, 61, -1.5, -1, 0, 0, 1, 3, 10.5]
    for zero_point, qmax, expected in [(5, 15, four), (133, 255, eight)]:
        for zero in (torch.tensor(float(zero_point)), torch.tensor(zero_point)):
            got = functional.fake_quantize(x, torch.tensor(0.5), zero, qmin=0, qmax=qmax)
            within(got, torch.tensor(expected), 0.0, zero_point=zero_point)


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("length", cases.LENGTHS)
def test_every_length_equals_the_oracle(length, dtype):
    x = cases.data((length,), dtype, scale=0.25)
    for scale, zero_point in [(0.25, None), (0.25, 3.0), (0.3, -2.0)]:
        scale = torch.tensor(scale)
        zero_point = None if zero_point is None else torch.tensor(zero_point)
        got = ops.fake_quantize(x, scale, zero_point, -8, 7)
        real = oracle.math_dtype(dtype, -8, 7)
        same_bits(got, oracle.fake_quantize(x, scale, zero_point, -8, 7, real=real).to(dtype), length=length)


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("name", cases.GRANULARITIES)
def test_every_granularity_equals_the_oracle(name, dtype):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x = cases.data(shape, dtype, scale=0.25)
    for power_of_two in (True, False):
        scale, zero_point = cases.encodings(x, axis, block_size, power_of_two)
        got = ops.fake_quantize(x, scale, zero_point, -8, 7, axis, block_size)
        real = oracle.math_dtype(dtype, -8, 7)
        same_bits(
            got,
            oracle.fake_quantize(x, scale, zero_point, -8, 7, axis, block_size, real).to(dtype),
            power_of_two=power_of_two,
        )
        like_empty_like(got, x)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("name", cases.GRANULARITIES)
def test_range_equals_the_oracle(name, dtype, symmetric):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x = cases.data(shape, dtype, scale=0.25)
    groups = oracle.group_shape(x, axis, block_size)
    low, high = -torch.rand(groups) * 8, torch.rand(groups) * 8
    low.view(-1)[-1] = high.view(-1)[-1]  # a collapsed range
    for qmin, qmax in [(0, 15), (-8, 7)]:
        real = oracle.math_dtype(dtype, qmin, qmax)
        scale, zero_point = oracle.affine_of_range(low, high, qmin, qmax, symmetric, real=real)
        got = ops.fake_quantize_range(x, low, high, qmin, qmax, symmetric, None, axis, block_size)
        same_bits(
            got,
            oracle.fake_quantize(x, scale, zero_point, qmin, qmax, axis, block_size, real).to(dtype),
            grid=(qmin, qmax),
        )
        like_empty_like(got, x)


@pytest.mark.parametrize("grid", cases.GRIDS + cases.WIDE_GRIDS)
@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_power_of_two_scales_are_exact_on_every_grid(grid, dtype):
    """Each step is exact there (up to float32's 24 bits of x), so the float64 truth comes out, halves included."""
    qmin, qmax = grid
    x = cases.data((701,), dtype, spread=2.0**10, scale=0.5)
    zero_point = torch.tensor(float(max(qmin, min(qmax, 5))))
    got = ops.fake_quantize(x, torch.tensor(0.5), zero_point, qmin, qmax)
    expected = oracle.fake_quantize(x, torch.tensor(0.5), zero_point, qmin, qmax)
    if dtype in (torch.float32, torch.float64):
        tolerance = 0.0 if dtype == torch.float64 else ulp(expected, dtype) / 2
    else:
        tolerance = ulp(expected, dtype)
    within(got, expected.to(dtype), tolerance, grid=grid)


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_other_scales_are_off_by_a_step_only_near_halves(dtype):
    x = cases.data((40009,), dtype, spread=12.0)
    scale, zero_point = torch.tensor(0.1), torch.tensor(11.0)
    truth = oracle.parts(x, scale, zero_point, 0, 255)
    expected = oracle.fake_quantize(x, scale, zero_point, 0, 255)
    got = ops.fake_quantize(x, scale, zero_point, 0, 255).double()
    steps = torch.round(got / truth.scale) - (truth.q - truth.zero_point)
    near_half = ((truth.ratio - torch.floor(truth.ratio)) - 0.5).abs() <= truth.ratio.abs() * 2**-24
    assert steps.abs().max() <= 1
    assert bool((near_half | (steps == 0)).all()), "a step off away from a half"
    within(got[steps == 0], expected[steps == 0], ulp(expected[steps == 0], dtype))


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_halves_round_to_even_whatever_the_zero_point(dtype):
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5], dtype=dtype)
    for zero_point in (None, torch.tensor(1.0), torch.tensor(2.0)):
        got = ops.fake_quantize(x, torch.tensor(1.0), zero_point, -8, 7)
        within(got, torch.tensor([-2.0, -2, 0, 0, 2, 2]), 0.0, zero_point=zero_point)


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_nan_stays_and_infinities_land_on_the_ends(dtype):
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), torch.finfo(dtype).max, 0.0, -0.0], dtype=dtype)
    expected = torch.tensor([float("nan"), 12.0, -3.0, 12.0, 0.0, 0.0], dtype=dtype)
    same_bits(ops.fake_quantize(x, torch.tensor(1.0), torch.tensor(3.0), 0, 15), expected)


def test_fractional_zero_points_round_half_even():
    x = torch.linspace(-5, 5, 41)
    for fractional, whole in [(2.5, 2.0), (3.5, 4.0), (2.75, 3.0), (-0.5, 0.0)]:
        got = ops.fake_quantize(x, torch.tensor(0.5), torch.tensor(fractional), -8, 7)
        same_bits(got, ops.fake_quantize(x, torch.tensor(0.5), torch.tensor(whole), -8, 7), zero_point=fractional)


def test_subnormal_data_and_scales_are_not_flushed():
    x = torch.tensor([1e-40, 3e-40, -7e-40, 2e-45])
    scale = torch.tensor(1e-40)
    same_bits(ops.fake_quantize(x, scale, None, -8, 7), oracle.fake_quantize(x, scale, None, -8, 7, real=torch.float32))


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("name", cases.FOUR_DIMENSIONAL)
def test_layouts_change_no_value_and_keep_their_strides(name, layout):
    shape, axis, block_size = cases.GRANULARITIES[name]
    dense = cases.data(shape, scale=0.25)
    x = cases.LAYOUTS[layout](dense)
    scale, zero_point = cases.encodings(x, axis, block_size, False)
    expected = ops.fake_quantize(dense, scale, zero_point, -8, 7, axis, block_size)
    got = ops.fake_quantize(x, scale, zero_point, -8, 7, axis, block_size)
    same_bits(got, expected)
    like_empty_like(got, x)
    by_range = ops.fake_quantize_range(x, -scale, scale, -8, 7, False, None, axis, block_size)
    same_bits(by_range, ops.fake_quantize_range(dense, -scale, scale, -8, 7, False, None, axis, block_size))
    like_empty_like(by_range, x)
    dynamic = ops.fake_quantize_dynamic(x, None, -8, 7, True, axis, block_size)
    for part, whole in zip(dynamic, ops.fake_quantize_dynamic(dense, None, -8, 7, True, axis, block_size)):
        same_bits(part, whole)
    like_empty_like(dynamic[0], x)


@pytest.mark.parametrize("axis", [None, 1, -1])
def test_expanded_and_channels_last_3d(axis):
    volume = cases.data((2, 3, 4, 5, 6)).contiguous(memory_format=torch.channels_last_3d)
    expanded = cases.data((3, 1, 5)).expand(3, 4, 5)
    for x in (volume, expanded, expanded[:, 1:3]):
        scale, zero_point = cases.encodings(x, axis, None, False)
        got = ops.fake_quantize(x, scale, zero_point, -8, 7, axis)
        same_bits(got, oracle.fake_quantize(x, scale, zero_point, -8, 7, axis, real=torch.float32))
        like_empty_like(got, x)


def test_zero_dimensional_and_empty_tensors():
    one = torch.tensor(0.62)
    for scale in (torch.tensor(0.25), torch.tensor([0.25])):
        got = ops.fake_quantize(one, scale, None, -8, 7)
        assert got.shape == () and got.item() == 0.5
    for shape, axis, block_size in [
        ((0,), None, None),
        ((0, 3), 1, None),
        ((3, 0), 0, None),
        ((0, 3), 0, None),
        ((4, 0), None, [2, -1]),
    ]:
        x = torch.empty(shape)
        scale = torch.ones(oracle.group_shape(x, axis, block_size))
        assert ops.fake_quantize(x, scale, scale, -8, 7, axis, block_size).shape == shape
        y, low, high = ops.fake_quantize_dynamic(x, None, -8, 7, True, axis, block_size)
        assert y.shape == shape and low.shape == high.shape == scale.shape


def test_encodings_come_in_every_shape_that_fits():
    x = cases.data((4, 6, 3))
    per_channel = torch.rand(6) + 0.1
    expected = ops.fake_quantize(x, per_channel, None, -8, 7, 1)
    same_bits(ops.fake_quantize(x, per_channel.view(1, 6, 1), None, -8, 7, 1), expected)
    same_bits(ops.fake_quantize(x, torch.stack([per_channel, per_channel], 1)[:, 0], None, -8, 7, 1), expected)
    same_bits(
        ops.fake_quantize(x, torch.tensor([[[0.3]]]), None, -8, 7), ops.fake_quantize(x, torch.tensor(0.3), None, -8, 7)
    )


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("encoding_dtype", [torch.float32, torch.float64])
def test_encodings_may_be_wider_or_narrower_than_the_data(dtype, encoding_dtype):
    x = cases.data((300,), dtype)
    scale, zero_point = torch.tensor(0.3, dtype=encoding_dtype), torch.tensor(2.0, dtype=encoding_dtype)
    for qmin, qmax in [(-8, 7), (-(2**31), 2**31 - 1)]:
        real = oracle.math_dtype(dtype, qmin, qmax)
        got = ops.fake_quantize(x, scale, zero_point, qmin, qmax)
        expected = oracle.fake_quantize(x, scale, zero_point, qmin, qmax, real=real)
        within(got, expected, ulp(expected, dtype) if dtype != real else 0.0, grid=(qmin, qmax))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("name", cases.GRANULARITIES)
def test_dynamic_is_observe_clip_encode_and_fake_quantize(name, dtype, symmetric):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x = cases.data(shape, dtype, scale=0.25)
    groups = oracle.group_shape(x, axis, block_size)
    for clip in (None, torch.tensor(0.75), torch.rand(groups)):
        real = oracle.math_dtype(dtype, -8, 7)
        low, high, _ = oracle.observe(x, axis, block_size)
        nothing = torch.isinf(low)
        factor = torch.ones((), dtype=real) if clip is None else clip.to(real)
        low, high = (torch.where(nothing, 0.0, t).to(real) * factor for t in (low, high))
        low, high = oracle.range_of_observed(low, high, -8, 7, symmetric, real=real)
        scale, zero_point = oracle.affine_of_range(low, high, -8, 7, symmetric, real=real)
        y, got_low, got_high = ops.fake_quantize_dynamic(x, clip, -8, 7, symmetric, axis, block_size)
        same_bits(got_low + 0.0, low + 0.0, clip=clip)
        same_bits(got_high, high, clip=clip)
        same_bits(y, oracle.fake_quantize(x, scale, zero_point, -8, 7, axis, block_size, real).to(dtype), clip=clip)
        like_empty_like(y, x)


def test_strict_and_unsigned_symmetric_zero_points():
    x = torch.tensor([-3.0, 0.4, 2.6, 9.0])
    unsigned = ops.fake_quantize_range(x, torch.tensor(0.0), torch.tensor(7.5), 0, 15, True, 0)
    same_bits(unsigned, torch.tensor([0.0, 0.5, 2.5, 7.5]))
    strict = functional.fake_quantize_range(x, torch.tensor(-3.5), torch.tensor(3.5), qmin=-7, qmax=7, symmetric=True)
    same_bits(strict, torch.tensor([-3.0, 0.5, 2.5, 3.5]))


def test_the_range_floor_keeps_a_collapsed_range_finite():
    x = torch.tensor([-1.0, 0.0, 1.0])
    for qmin, qmax in [(0, 255), (0, 2**32 - 1)]:
        zero = torch.tensor(0.0)
        got = ops.fake_quantize_range(x, zero, zero, qmin, qmax, False)
        real = oracle.math_dtype(torch.float32, qmin, qmax)
        scale, zero_point = oracle.affine_of_range(zero, zero, qmin, qmax, False, real=real)
        assert torch.isfinite(got).all()
        same_bits(got, oracle.fake_quantize(x, scale, zero_point, qmin, qmax, real=real).float())


@pytest.mark.parametrize("name", ["tensor", "middle axis", "interleaved"])
def test_inputs_are_left_alone(name):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x = cases.data(shape)
    scale, zero_point = cases.encodings(x, axis, block_size, False)
    kept = [t.clone() for t in (x, scale, zero_point)]
    ops.fake_quantize(x, scale, zero_point, -8, 7, axis, block_size)
    for now, before in zip((x, scale, zero_point), kept):
        same_bits(now, before)
