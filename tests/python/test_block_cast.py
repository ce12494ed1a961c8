"""Rounding to block formats, against the formulas of OCP Microscaling v1.0 and of NVFP4 written out in float64."""

import math

import pytest
import torch

import cases
from checks import like_empty_like, same_bits
from detent import BlockFormat, FloatFormat
from detent.block_format import NAMED
from detent.functional import block_cast, unpack_mask

ops = torch.ops.detent
pytestmark = pytest.mark.both_autograd_paths

MX = [name for name, format in NAMED.items() if not format.two_level]
EMAX = {"mxfp8_e4m3": 8, "mxfp8_e5m2": 15, "mxfp6_e3m2": 4, "mxfp6_e2m3": 2, "mxfp4": 2, "mxint8": 0}  # OCP, table 1
E4M3 = FloatFormat.of("e4m3fn")


def rounded(value, format):
    exponent = torch.frexp(value).exponent.sub(1).clamp(min=format.min_exponent).double()
    step = torch.exp2(exponent - format.mantissa_bits).to(value.dtype)
    return torch.round(value.clamp(-format.max, format.max) / step) * step


def oracle(x, name, axis=-1, block_size=None, tensor_scale=None, real=torch.float64):
    """(y, whether the gradient passes) of any x, both in the shape of x; y in ``real``."""
    format = BlockFormat.of(name)
    size = format.block_size if block_size is None else block_size
    length = x.shape[axis]
    values = x.detach().to(real).movedim(axis, -1)
    values = torch.nn.functional.pad(values, (0, -length % size)).unflatten(-1, (-1, size))
    largest = torch.where(values.isfinite(), values.abs(), 0).amax(-1, keepdim=True)
    if tensor_scale is None:
        exponent = torch.frexp(largest.double()).exponent - 1 - EMAX[name]
        exponent = torch.where(largest > 0, exponent, -127).clamp(-127, 127)
        scale = torch.ldexp(torch.ones_like(largest), exponent)
    else:
        tensor_scale = tensor_scale.to(real)
        scale = rounded((largest / format.max / tensor_scale).clamp(max=448), E4M3).clamp_min(2.0**-9) * tensor_scale
    reach = 2.0 ** (math.frexp(format.max)[1])
    passes = (values / scale).abs() < reach
    y = rounded((values / scale).clamp(-format.max, format.max), format) * scale
    back = [t.flatten(-2)[..., :length].movedim(-1, axis) for t in (y, passes)]
    return torch.where(x.isnan(), math.nan, back[0]), back[1]


def spread(shape, dtype, seed=0):
    """Blocks of all sizes, the largest and smallest of the type among them."""
    x = torch.randn(shape, dtype=torch.float64) * torch.exp2(torch.randint(-20, 20, shape).double())
    return cases.spiced(x.to(dtype), 1.0)


@pytest.mark.parametrize("dtype", cases.FLOATS, ids=str)
@pytest.mark.parametrize("name", MX)
def test_mx_rounds_as_the_standard_says(name, dtype):
    for shape in [(32,), (3, 96), (5, 33), (2, 3, 70), (1,), (7, 1), (2, 1500)]:
        x = spread(shape, dtype)
        expected, passes = oracle(x, name)
        same_bits(block_cast(x, name), expected.to(dtype), shape=shape)
        y, mask = ops.block_cast_mask(x, *numbers(name), -1, 32)
        same_bits(y, expected.to(dtype), shape=shape)
        same_bits(unpack_mask(mask, shape), passes, shape=shape)


def numbers(name):
    format = BlockFormat.of(name)
    return format.mantissa_bits, format.min_exponent, format.max


@pytest.mark.parametrize("dtype", cases.FLOATS, ids=str)
def test_nvfp4_rounds_with_two_levels(dtype):
    real = torch.float64 if dtype == torch.float64 else torch.float32
    for shape, scale in [((4, 64), 0.01), ((3, 37), 1e-4), ((2, 5, 16), 30.0), ((1, 1000), 1e-30)]:
        x, tensor_scale = cases.data(shape, dtype, scale=0.5), torch.tensor(scale, dtype=real)
        expected, passes = oracle(x, "nvfp4", tensor_scale=tensor_scale, real=real)
        same_bits(block_cast(x, "nvfp4", tensor_scale=tensor_scale), expected.to(dtype), shape=shape)
        _, mask = ops.block_cast_mask(x, *numbers("nvfp4"), -1, 16, tensor_scale)
        same_bits(unpack_mask(mask, shape), passes, shape=shape)


def test_nvfp4_finds_the_scale_of_the_tensor():
    x = cases.data((8, 64))
    x[0, 0], x[3, 3] = math.inf, math.nan
    largest = torch.where(x.isfinite(), x.abs(), 0).max()
    same_bits(block_cast(x, "nvfp4"), block_cast(x, "nvfp4", tensor_scale=largest / (6 * 448)))
    for x in (torch.zeros(2, 16), torch.zeros(0, 16)):
        same_bits(block_cast(x, "nvfp4"), x)


@pytest.mark.parametrize("layout", cases.LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1, 2, 3, -3])
def test_every_axis_block_size_and_layout(axis, layout):
    for block_size in (1, 2, 3, 7, 16, 10**12):
        x = cases.LAYOUTS[layout](cases.data((6, 5, 9, 10), scale=0.5))
        expected, passes = oracle(x, "mxfp6_e3m2", axis, min(block_size, 10))
        got = x.clone(memory_format=torch.preserve_format) if layout == "channels_last" else x
        got = got.detach().requires_grad_()
        y = block_cast(got, "mxfp6_e3m2", axis=axis, block_size=block_size)
        same_bits(y, expected.float(), block_size=block_size)
        like_empty_like(y, x)
        g = cases.data(x.shape)
        y.backward(g)
        same_bits(got.grad, torch.where(passes, g, 0), block_size=block_size)


@pytest.mark.parametrize("shape, axis, block_size", [
    ((2, 40, 700), 1, 32), ((3, 33, 9), 1, 32), ((1, 100, 513), 1, 64), ((2, 2000), 1, 600), ((3, 600, 3), 1, 512),
    ((2, 3, 5000), -1, 32), ((1, 64, 1025), 1, 1), ((1, 1, 3000), 0, 32),
])  # fmt: skip
def test_blocks_larger_and_wider_than_what_is_read_at_once(shape, axis, block_size):
    for dtype in (torch.float32, torch.bfloat16):
        x = cases.data(shape, dtype)
        expected, passes = oracle(x, "mxfp8_e4m3", axis, block_size)
        y, mask = ops.block_cast_mask(x, *numbers("mxfp8_e4m3"), axis, block_size)
        same_bits(y, expected.to(dtype))
        same_bits(unpack_mask(mask, shape), passes)


def test_what_is_not_finite_stays_alone():
    x = torch.tensor([math.nan, math.inf, -math.inf, 1.0, -0.0, 0.3, 1e-30, 3.4e38])
    got = block_cast(x[:-1], "mxfp8_e4m3")
    assert got[0].isnan() and got[1:4].tolist() == [1.75, -1.75, 1.0]  # 448 steps of 2**-8
    assert got[5].item() == 0.3125 and math.copysign(1, got[4].item()) == -1 and got[6] == 0
    strange = torch.tensor([math.inf, math.nan, 0.0])
    same_bits(block_cast(strange, "mxfp4"), torch.tensor([6 * 2.0**-127, math.nan, 0.0]))
    largest = block_cast(x[-1:], "mxfp8_e4m3")
    assert largest.item() == 1.75 * 2.0**127
    tiny = torch.tensor([1e-40, 2.0**-127, -(2.0**-149)])
    same_bits(block_cast(tiny, "mxint8"), oracle(tiny, "mxint8")[0].float())


def test_the_top_that_a_power_of_two_leaves_still_moves():
    """1.99 saturates at 1.75; its gradient passes, for the scale would follow it."""
    x = torch.tensor([1.99, 0.5, math.inf, math.nan], requires_grad=True)
    y = block_cast(x, "mxfp8_e4m3")
    assert y[:2].tolist() == [1.75, 0.5]
    y.backward(torch.full((4,), math.inf))
    assert x.grad.tolist() == [math.inf, math.inf, 0.0, 0.0]
    assert block_cast(x.detach(), "mxfp8_e4m3", axis=0).grad_fn is None


def test_numbers_of_a_block_format_are_kept():
    for name in NAMED:
        x = block_cast(cases.data((40, 64)), name)
        scale = None
        if name == "nvfp4":
            scale = torch.tensor(2.0**-10)
            x = block_cast(cases.data((40, 64)), name, tensor_scale=scale)
        same_bits(block_cast(x, name, tensor_scale=scale), x, name=name)


@pytest.mark.parametrize("name", ["mxfp4", "nvfp4"])
def test_thread_count_changes_no_bit(name):
    for shape, axis in [((37, 5003), -1), ((3, 50, 1501), 1), ((50_001, 3), 0)]:
        x, results = cases.data(shape), []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            scale = torch.tensor(0.01) if name == "nvfp4" else None
            results.append(ops.block_cast_mask(x, *numbers(name), axis, 16, scale))
        for y, mask in results[1:]:
            assert torch.equal(y, results[0][0]) and torch.equal(mask, results[0][1])


def test_compiles_in_one_graph():
    torch._dynamo.reset()
    x = cases.data((4, 64)).requires_grad_()

    def step(x):
        return block_cast(x, "nvfp4") + block_cast(x, "mxfp6_e2m3", axis=0)

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    same_bits(compiled(x), step(x))
    (grad,) = torch.autograd.grad(compiled(x).sum(), x)
    same_bits(grad, torch.full_like(x, 2.0))


def test_formats_by_name():
    for name, format in NAMED.items():
        assert str(format) == name and BlockFormat.of(name.upper()) == format == BlockFormat.of(format)
        if name in EMAX:
            assert math.floor(math.log2(format.max)) == EMAX[name]
    own = BlockFormat(FloatFormat(3, 4), 16)
    assert str(own) == "e3m4 in blocks of 16" and own.bits == 8
    same_bits(block_cast(torch.ones(3), own), torch.ones(3))


@pytest.mark.parametrize("call, message", [
    (lambda x: block_cast(x, "mxfp5"), "BlockFormat.of: got 'mxfp5', expected one of mxfp8_e4m3, mxfp8_e5m2"),
    (lambda x: block_cast(x, "mxfp4", axis=2), "block_cast: axis is 2, expected -2 .. 1"),
    (lambda x: block_cast(x, "mxfp4", block_size=0), "block_cast: block_size is 0, expected 1 and more"),
    (lambda x: block_cast(x.int(), "mxfp4"), "block_cast: x has dtype int32"),
    (lambda x: block_cast(x[0, 0], "mxfp4"), "block_cast: axis is -1"),
    (lambda x: block_cast(x, "mxfp4", tensor_scale=torch.ones(())), "tensor_scale was given for mxfp4"),
    (lambda x: block_cast(x, "nvfp4", tensor_scale=torch.ones(2)), "tensor_scale has shape (2,), expected () or (1,)"),
    (lambda x: block_cast(x, "nvfp4", tensor_scale=torch.ones(1).half()), "tensor_scale has dtype float16"),
    (lambda x: BlockFormat("int4"), "element is int4, expected a FloatFormat of at most 8 bits or 'int8'"),
    (lambda x: BlockFormat(FloatFormat.of(torch.bfloat16)), "element is bfloat16"),
    (lambda x: BlockFormat("int8", 0), "block_size is 0"),
])  # fmt: skip
def test_bad_input_says_what_came_and_what_was_expected(call, message):
    with pytest.raises(ValueError) as caught:
        call(torch.ones(2, 3))
    assert message in str(caught.value)
