"""Rounding to float formats, against torch's own types and against the formula in float64."""

import itertools
import math

import pytest
import torch

from detent.float_format import FloatFormat
from detent.functional import float_cast

pytestmark = pytest.mark.both_autograd_paths

TYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float8_e5m2,
    torch.float8_e4m3fn,
    torch.float8_e5m2fnuz,
    torch.float8_e4m3fnuz,
]
OTHERS = [
    FloatFormat(2, 1, finite=True, nan=False),
    FloatFormat(3, 2, finite=True, nan=False),
    FloatFormat(2, 3, finite=True, nan=False),
    FloatFormat(8, 10),
    FloatFormat(8, 0),
    FloatFormat(6, 9),
    FloatFormat(8, 23),
]


def every_half() -> torch.Tensor:
    """Every float16, and each bfloat16 of a wider range."""
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    return torch.cat([bits.view(torch.float16).float(), bits.view(torch.bfloat16).float()])


def oracle(x: torch.Tensor, format: FloatFormat, scale: torch.Tensor | float = 1.0) -> torch.Tensor:
    value = (x / scale).clamp(-format.max, format.max).double()
    exponent = torch.frexp(value).exponent.sub(1).clamp(min=format.min_exponent).double()
    step = torch.exp2(exponent - format.mantissa_bits)
    return torch.round(value / step) * step


def equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.nan_to_num(nan=12345.0), b.nan_to_num(nan=12345.0)) and torch.equal(a.isnan(), b.isnan())


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_format_is_that_of_the_torch_type(dtype):
    info, format = torch.finfo(dtype), FloatFormat.of(dtype)
    assert (format.max, 2.0**format.min_exponent, format.bits) == (info.max, info.smallest_normal, info.bits)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_rounds_as_torch_casts(dtype):
    x = every_half()
    clamped = x.clamp(-torch.finfo(dtype).max, torch.finfo(dtype).max)
    assert equal(float_cast(x, dtype), clamped.to(dtype).float())


@pytest.mark.parametrize("format", OTHERS, ids=str)
def test_rounds_as_the_formula(format):
    x = every_half()
    assert equal(float_cast(x, format).double(), oracle(x, format))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("axis, block_size", [(None, None), (0, None), (2, None), (None, [1, 2, 4])])
def test_scales_per_tensor_channel_and_block(dtype, axis, block_size):
    torch.manual_seed(0)
    x = (torch.randn(3, 4, 8) * 3).to(dtype)
    shape = () if axis is None and block_size is None else (x.shape[axis],) if block_size is None else (3, 2, 2)
    scale = torch.exp2(torch.randint(-3, 3, shape).float())  # powers of two: every product is exact
    beside = scale
    if axis is not None:
        beside = scale.view([-1 if dim == axis else 1 for dim in range(3)])
    elif block_size is not None:
        beside = scale.repeat_interleave(2, 1).repeat_interleave(4, 2)
    got = float_cast(x, torch.float8_e5m2, scale, axis=axis, block_size=block_size)
    expected = oracle(x.double(), FloatFormat(5, 2), beside.double()) * beside
    assert got.dtype == dtype and torch.equal(got.double(), expected)


def test_ends_and_strange_values():
    x = torch.tensor([math.inf, -math.inf, math.nan, -0.0, 449.0, 1e38, 2.0**-10, -(2.0**-10), 3 * 2.0**-11])
    got = float_cast(x, torch.float8_e4m3fn)
    assert got[:2].tolist() == [448.0, -448.0] and got[2].isnan()
    assert math.copysign(1, got[3].item()) == -1
    assert got[4:].tolist() == [448.0, 448.0, 0.0, -0.0, 2.0**-9]  # a half of the smallest goes to even


@pytest.mark.parametrize("layout", ["contiguous", "channels_last", "strided"])
def test_gradient_is_straight_through_within_the_range(layout):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 5) * 400
    x = {"contiguous": x, "channels_last": x.to(memory_format=torch.channels_last), "strided": x.transpose(1, 3)}[layout]
    x = x.detach().requires_grad_()
    grad = torch.randn_like(x.detach())
    float_cast(x, torch.float8_e4m3fn).backward(grad)
    assert torch.equal(x.grad, torch.where(x.detach().abs() <= 448, grad, 0.0))


def test_a_nan_has_no_gradient():
    x = torch.tensor([math.nan, math.inf, 448.0, 1.0], requires_grad=True)
    float_cast(x, torch.float8_e4m3fn).backward(torch.full((4,), math.inf))
    assert x.grad.tolist() == [0.0, 0.0, math.inf, math.inf]


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (513,), (31, 17)])
def test_shapes(shape):
    x = torch.randn(shape)
    assert equal(float_cast(x, torch.bfloat16), x.bfloat16().float())


def test_thread_count_changes_no_bit():
    x = torch.randn(200_000)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(float_cast(x, torch.float8_e5m2))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: float_cast(x, torch.int8), "FloatFormat.of: got torch.int8, expected one of float32, float16"),
        (lambda x: float_cast(x.int(), torch.float16), "float_cast: x has dtype int32"),
        (lambda x: float_cast(x, torch.float16, torch.ones(3)), "float_cast: scale has shape (3,)"),
        (lambda x: float_cast(x, torch.float16, torch.ones(2), axis=5), "float_cast: axis is 5"),
        (lambda x: torch.ops.detent.float_cast(x, x.new_ones(()), 24, 0, 1.0), "mantissa_bits is 24, expected 0 .. 23"),
        (lambda x: torch.ops.detent.float_cast(x, x.new_ones(()), 3, 128, 1.0), "min_exponent is 128, expected -146"),
        (lambda x: torch.ops.detent.float_cast(x, x.new_ones(()), 3, -6, 0.0), "max is 0, expected a positive number"),
        (lambda x: FloatFormat(9, 3), "exponent_bits is 9, expected an integer from 2 to 8"),
        (lambda x: FloatFormat(4, 3, unsigned_zero=True), "expected unsigned_zero=False and nan=True"),
    ],
)
def test_bad_input_says_what_came_and_what_was_expected(call, message):
    with pytest.raises(ValueError) as caught:
        call(torch.ones(2))
    assert message in str(caught.value)


def test_every_number_of_a_small_format_is_kept():
    format = FloatFormat(3, 2, finite=True, nan=False)
    numbers = {
        sign * (mantissa / 4 + (exponent > 0)) * 2.0 ** max(exponent - 3, -2)
        for sign, exponent, mantissa in itertools.product((1, -1), range(8), range(4))
    }
    x = torch.tensor(sorted(numbers))
    assert torch.equal(float_cast(x, format), x) and x.max() == format.max == 28
