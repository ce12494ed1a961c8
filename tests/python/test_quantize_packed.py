"""Two 4-bit codes in a byte, against the codes of a byte each, which test_quantize.py holds to the oracle."""

import pytest
import torch

import cases
import oracle
from checks import same_bits
from detent import functional

ops = torch.ops.detent
pytestmark = pytest.mark.both_autograd_paths

GRIDS = {torch.int8: (-8, 7), torch.uint8: (0, 15)}
INTERLEAVED = {
    "interleaved, even": ((6, 4), None, [2, 2]),
    "interleaved, all of the last": ((6, 4, 4), None, [2, 2, -1]),
}


def packed_by_hand(codes: torch.Tensor) -> torch.Tensor:
    pairs = codes.int() & 15
    return (pairs[..., ::2] | pairs[..., 1::2] << 4).to(torch.uint8).view(codes.dtype)


def test_the_first_code_is_in_the_low_half():
    x = torch.tensor([[-8.0, 7.0], [-1.0, 2.0]])
    got = functional.quantize(x, torch.tensor(1.0), qmin=-8, qmax=7, dtype=torch.int8, packed=True)
    assert got.shape == (2, 1) and got.dtype == torch.int8
    assert got.view(torch.uint8).flatten().tolist() == [0x78, 0x2F]
    assert functional.dequantize(got, torch.tensor(1.0), packed=True).tolist() == x.tolist()


@pytest.mark.parametrize("codes", GRIDS, ids=str)
@pytest.mark.parametrize("dtype", cases.FLOATS, ids=str)
@pytest.mark.parametrize("name", [*cases.FOUR_DIMENSIONAL, *INTERLEAVED])
def test_packed_codes_are_the_codes_of_a_byte_each(name, dtype, codes):
    shape, axis, block_size = {**cases.GRANULARITIES, **INTERLEAVED}[name]
    x = cases.data(shape, dtype, scale=0.25)
    scale, zero_point = cases.encodings(x, axis, block_size, False)
    where = GRIDS[codes], axis, block_size
    bytes_ = ops.quantize(x, scale, zero_point, *GRIDS[codes], codes, axis, block_size)
    values = ops.dequantize(bytes_, scale, zero_point, dtype, axis, block_size)
    pairs = packed_by_hand(bytes_)
    same_bits(ops.dequantize(pairs, scale, zero_point, dtype, axis, block_size, True), values, where=where)
    if name not in ("interleaved", "interleaved, two of four"):  # their blocks have five elements in a row
        got = ops.quantize(x, scale, zero_point, *GRIDS[codes], codes, axis, block_size, True)
        same_bits(got, pairs, where=where)
        assert got.is_contiguous()


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_layouts_change_no_code(layout):
    dense = cases.data((6, 4, 8, 10), scale=0.25)
    scale, _ = cases.encodings(dense, 1, None, False)
    expected = ops.quantize(dense, scale, None, -8, 7, torch.int8, 1, None, True)
    same_bits(ops.quantize(cases.LAYOUTS[layout](dense), scale, None, -8, 7, torch.int8, 1, None, True), expected)
    strided = torch.stack([expected, torch.zeros_like(expected)], -1)[..., 0]
    values = ops.dequantize(expected, scale, None, None, 1, None, True)
    same_bits(ops.dequantize(strided, scale, None, None, 1, None, True), values)


@pytest.mark.parametrize("name", ["tensor", "middle axis", "last axis", "blocks of the last", "interleaved"])
def test_encodings_of_packed_codes_have_gradients(name):
    shape, axis, block_size = cases.GRANULARITIES[name]
    bytes_, g = torch.randint(-8, 8, shape, dtype=torch.int8), cases.data(shape, spread=1.0)
    scale, zero_point = cases.encodings(g, axis, block_size, False)
    grads = []
    for q, packed in [(bytes_, False), (packed_by_hand(bytes_), True)]:
        leaves = [scale.clone().requires_grad_(), zero_point.clone().requires_grad_()]
        ops.dequantize(q, *leaves, None, axis, block_size, packed).backward(g)
        grads.append([leaf.grad for leaf in leaves])
    for got, expected in zip(*reversed(grads)):
        same_bits(got, expected)
    _, *terms = oracle.dequantize_gradients(g, bytes_, scale, zero_point, axis, block_size)
    for got, term in zip(grads[1], terms):
        expected = oracle.reduced(term, got, axis, block_size)
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-3)


def test_packed_codes_carry_no_gradient():
    x = torch.randn(4, 6, requires_grad=True)
    q = ops.quantize(x, torch.tensor(0.5, requires_grad=True), None, -8, 7, torch.int8, None, None, True)
    assert not q.requires_grad


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 4)])
def test_empty_tensors(shape):
    q = ops.quantize(torch.empty(shape), torch.tensor(1.0), None, -8, 7, torch.int8, None, None, True)
    assert q.shape == (*shape[:-1], shape[-1] // 2)
    assert ops.dequantize(q, torch.tensor(1.0), None, None, None, None, True).shape == shape


def test_nan_is_the_code_of_zero():
    x = torch.tensor([float("nan"), float("inf"), -float("inf"), float("nan")])
    q = functional.quantize(x, torch.tensor(0.5), torch.tensor(3), qmin=0, qmax=15, dtype=torch.uint8, packed=True)
    assert q.tolist() == [0xF3, 0x30]


def refused(match: str, x=torch.ones(2, 4), *, qmin=-8, qmax=7, **options):
    with pytest.raises(ValueError, match=match):
        functional.quantize(x, torch.ones(options.pop("scales", ())), qmin=qmin, qmax=qmax, packed=True, **options)


def test_what_cannot_be_packed_is_refused():
    refused(r"shape \(4, 3\), expected an even last dimension.*\n.*flatten", torch.ones(4, 3), dtype=torch.int8)
    refused(r"shape \(\), expected an even", torch.tensor(1.0), dtype=torch.int8)
    refused(r"-9 .. 7 does not fit codes held as halves of int8.*-8 .. 7", qmin=-9, dtype=torch.int8)
    refused(r"-8 .. 7 does not fit codes held as halves of uint8.*0 .. 15", dtype=torch.uint8)
    refused("dtype has dtype int16, expected int8 or uint8", dtype=torch.int16)
    refused("dtype has dtype float32, expected int8 or uint8")
    odd = {"block_size": [2, 3], "scales": (2, 2), "dtype": torch.int8}
    refused(r"block_size is \(2, 3\), expected an even last entry", torch.ones(4, 6), **odd)
    with pytest.raises(ValueError, match="q has dtype int16, expected int8 or uint8"):
        functional.dequantize(torch.ones(2, dtype=torch.int16), torch.tensor(1.0), packed=True)
    with pytest.raises(ValueError, match=r"q has shape \(\)"):
        functional.dequantize(torch.ones((), dtype=torch.int8), torch.tensor(1.0), packed=True)
