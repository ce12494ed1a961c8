"""quantize and dequantize, forward and backward, against the float64 oracle."""

import pytest
import torch

import cases
import oracle
from checks import like_empty_like, same_bits, ulp, within
from detent import functional

ops = torch.ops.detent
pytestmark = pytest.mark.both_autograd_paths

CODES = {
    torch.int8: (-128, 127),
    torch.uint8: (0, 255),
    torch.int16: (-(2**15), 2**15 - 1),
    torch.int32: (-(2**31), 2**31 - 1),
}
SUM = 2.0**-20


def leaf(t, requires_grad=True):
    return t.detach().clone().requires_grad_(requires_grad)


def sums_close(got, terms, axis=None, block_size=None, **context):
    tolerance = oracle.reduced(terms.abs(), got, axis, block_size) * SUM
    within(got, oracle.reduced(terms, got, axis, block_size), tolerance, **context)


@pytest.mark.parametrize("through", ["operator", "functional"])
def test_golden_codes(through):
    """s = 0.5, zero_point 5 on 0 .. 15 and 133 on 0 .. 255."""
    x = torch.tensor([-1005.8, -1000.1, -15.4, -11.24, -3.3, 0.2, 500.4, -1.3, -0.76, -0.11, 0, 1.01, 3, 10.4])
    four = [0, 0, 0, 0, 0, 5, 15, 2, 3, 5, 5, 7, 11, 15]
    eight = [0, 0, 102, 111, 126, 133, 255, 130, 131, 133, 133, 135, 139, 154]
    for zero_point, qmax, expected in [(5, 15, four), (133, 255, eight)]:
        scale, expected = torch.tensor(0.5), torch.tensor(expected)
        for dtype in (None, torch.uint8, torch.int16, torch.int32):
            if through == "operator":
                got = ops.quantize(x, scale, torch.tensor(float(zero_point)), 0, qmax, dtype)
            else:
                got = functional.quantize(x, scale, torch.tensor(zero_point), qmin=0, qmax=qmax, dtype=dtype)
            same_bits(got, expected.to(dtype or torch.float32))


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("name", cases.GRANULARITIES)
def test_integer_codes_equal_the_oracle(name, dtype, codes):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x = cases.data(shape, dtype, scale=0.25)
    scale, zero_point = cases.encodings(x, axis, block_size, False)
    zero_point = zero_point.abs()
    for grid in {CODES[codes], (0, 7)}:
        real = oracle.math_dtype(dtype, *grid)
        got = ops.quantize(x, scale, zero_point, *grid, codes, axis, block_size)
        same_bits(
            got, oracle.quantize(x, scale, zero_point, *grid, axis, block_size, real, integer=True).to(codes), grid=grid
        )
        like_empty_like(got, x)


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("length", cases.LENGTHS)
def test_float_codes_at_every_length_equal_the_oracle(length, dtype):
    x = cases.data((length,), dtype, scale=0.25)
    scale, zero_point = torch.tensor(0.3), torch.tensor(-2.0)
    expected = oracle.quantize(x, scale, zero_point, -8, 7, real=oracle.math_dtype(dtype, -8, 7)).to(dtype)
    same_bits(ops.quantize(x, scale, zero_point, -8, 7), expected)
    same_bits(ops.quantize(x, scale, zero_point, -8, 7, dtype), expected)


@pytest.mark.parametrize("codes", [None, *CODES])
@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("name", cases.GRANULARITIES)
def test_quantize_then_dequantize_is_fake_quantize(name, dtype, codes):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x = torch.nan_to_num(cases.data(shape, dtype, scale=0.25), nan=1.0, posinf=torch.inf, neginf=-torch.inf)
    scale, zero_point = cases.encodings(x, axis, block_size, False)
    q = ops.quantize(x, scale, zero_point.abs(), 0, 100, codes, axis, block_size)
    y = ops.dequantize(q, scale, zero_point.abs(), dtype, axis, block_size)
    if codes == torch.int32 and dtype != torch.float64:  # int32 codes are dequantized in float64: one rounding, not two
        expected = oracle.dequantize(q, scale, zero_point.abs(), axis, block_size)
        within(y, ops.fake_quantize(x, scale, zero_point.abs(), 0, 100, axis, block_size), ulp(expected, dtype))
    else:
        same_bits(y, ops.fake_quantize(x, scale, zero_point.abs(), 0, 100, axis, block_size))
    like_empty_like(y, x)


def test_wide_codes_come_back_exactly():
    x = (torch.randn(999) * 2**20).float()
    scale = torch.tensor(2.0**-6)
    q = ops.quantize(x, scale, None, -(2**31), 2**31 - 1, torch.int32)
    same_bits(ops.dequantize(q, scale, None), ops.fake_quantize(x, scale, None, -(2**31), 2**31 - 1))


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_nan_becomes_the_code_of_zero_in_integers_and_stays_in_floats(dtype):
    x = torch.tensor([float("nan"), float("inf"), -float("inf")], dtype=dtype)
    scale, zero_point = torch.tensor(0.5), torch.tensor(3.0)
    same_bits(ops.quantize(x, scale, zero_point, 0, 15, torch.uint8), torch.tensor([3, 15, 0], dtype=torch.uint8))
    same_bits(ops.quantize(x, scale, zero_point, 0, 15), torch.tensor([float("nan"), 15, 0], dtype=dtype))
    outside = torch.tensor(40.0)  # a zero_point off the grid is clamped to it
    same_bits(ops.quantize(x[:1], scale, outside, 0, 15, torch.uint8), torch.tensor([15], dtype=torch.uint8))


def test_default_dtypes():
    scale = torch.tensor(0.5)
    assert ops.quantize(torch.ones(2).half(), scale, None, -8, 7).dtype == torch.float16
    assert ops.dequantize(torch.ones(2, dtype=torch.int8), scale, None).dtype == torch.float32
    assert ops.dequantize(torch.ones(2).bfloat16(), scale, None).dtype == torch.bfloat16
    assert ops.dequantize(torch.ones(2, dtype=torch.int16), scale, None, torch.float16).dtype == torch.float16


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("name", cases.GRANULARITIES)
def test_quantize_gradients_equal_the_oracle(name, dtype):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x, g = cases.data(shape, dtype), cases.data(shape, dtype, spread=1.0)
    scale, zero_point = cases.encodings(x, axis, block_size, False)
    for zero in (zero_point, None):
        leaves = [leaf(x), leaf(scale)] + ([] if zero is None else [leaf(zero)])
        ops.quantize(leaves[0], leaves[1], None if zero is None else leaves[2], -8, 7, None, axis, block_size).backward(
            g
        )
        real = oracle.math_dtype(dtype, -8, 7)
        grad_x, *terms = oracle.quantize_gradients(g, x, scale, zero, -8, 7, axis, block_size, real)
        same_bits(leaves[0].grad, grad_x.to(dtype))
        for tensor, term in zip(leaves[1:], terms):
            sums_close(tensor.grad, term, axis, block_size)


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("name", cases.GRANULARITIES)
def test_dequantize_gradients_equal_the_oracle(name, dtype):
    shape, axis, block_size = cases.GRANULARITIES[name]
    q, g = torch.randint(-8, 8, shape).to(dtype), cases.data(shape, dtype, spread=1.0)
    scale, zero_point = cases.encodings(q, axis, block_size, False)
    for zero in (zero_point, None):
        leaves = [leaf(q), leaf(scale)] + ([] if zero is None else [leaf(zero)])
        ops.dequantize(leaves[0], leaves[1], None if zero is None else leaves[2], None, axis, block_size).backward(g)
        real = torch.float64 if dtype == torch.float64 else torch.float32
        grad_q, *terms = oracle.dequantize_gradients(g, q, scale, zero, axis, block_size, real)
        same_bits(leaves[0].grad, grad_q.to(dtype))
        for tensor, term in zip(leaves[1:], terms):
            sums_close(tensor.grad, term, axis, block_size)


@pytest.mark.parametrize("codes", CODES)
@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_integer_codes_carry_no_gradient_their_encoding_does(codes, dtype):
    x = leaf(cases.data((50,)).to(dtype))
    scale, zero_point = leaf(torch.tensor(0.25)), leaf(torch.tensor(1.0))
    q = ops.quantize(x, scale, zero_point, 0, 100, codes)
    assert not q.requires_grad
    g = cases.data((50,), dtype)
    y = ops.dequantize(q, scale, zero_point, dtype)
    y.backward(g)
    assert x.grad is None
    real = torch.float64 if dtype == torch.float64 or codes == torch.int32 else torch.float32
    _, *terms = oracle.dequantize_gradients(g, q, scale, zero_point, real=real)
    sums_close(scale.grad, terms[0])
    sums_close(zero_point.grad, terms[1])


@pytest.mark.parametrize("name", ["tensor", "middle axis", "interleaved", "last axis"])
@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_layouts_change_no_bit_of_what_is_per_element(name, layout):
    """Sums run in the order of memory, so those may differ in the last places."""
    shape, axis, block_size = cases.GRANULARITIES[name]
    dense, g = cases.data(shape), cases.data(shape)
    scale, zero_point = cases.encodings(dense, axis, block_size, False)
    results = []
    for make in (cases.LAYOUTS["contiguous"], cases.LAYOUTS[layout]):
        x, s = make(dense).requires_grad_(), leaf(scale)
        q = ops.quantize(x, s, zero_point, -8, 7, None, axis, block_size)
        y = ops.dequantize(q, s, zero_point, None, axis, block_size)
        like_empty_like(q, x)
        like_empty_like(y, q)
        grads = torch.autograd.grad(y, [x, s], make(g), retain_graph=True)
        expanded = torch.autograd.grad(y.sum(), [x, s])
        results.append(([q, y, grads[0], expanded[0]], [grads[1], expanded[1]]))
    for got, expected in zip(results[1][0], results[0][0]):
        same_bits(got, expected)
    magnitude = g.abs().sum() * 16  # every term is below 16 g
    for got, expected in zip(results[1][1], results[0][1]):
        within(got, expected, magnitude * SUM)


def test_empty_and_zero_dimensional_tensors():
    scale = leaf(torch.tensor(0.25))
    for shape in [(), (0,), (3, 0)]:
        x = leaf(torch.ones(shape))
        y = ops.dequantize(ops.quantize(x, scale, None, -8, 7), scale, None)
        assert y.shape == shape
        y.sum().backward()
        assert x.grad.shape == shape
    nothing = torch.empty(0, 3)
    assert ops.quantize(nothing, torch.empty(0), torch.empty(0), -8, 7, torch.int8, 0).shape == (0, 3)
    assert ops.dequantize(nothing, torch.empty(0), torch.empty(0), None, 0).shape == (0, 3)


def test_nan_in_x_shows_in_the_sums():
    x = leaf(torch.tensor([float("nan"), 0.3, float("inf")]))
    scale, zero_point = leaf(torch.tensor(0.25)), leaf(torch.tensor(1.0))
    ops.quantize(x, scale, zero_point, -8, 7).backward(torch.ones(3))
    same_bits(x.grad, torch.tensor([0.0, 4.0, 0.0]))
    assert scale.grad.isnan() and zero_point.grad.isnan()
