"""Packed masks: one bit per element, in the order of the elements."""

import pytest
import torch

import cases
from checks import same_bits
from detent.functional import pack_mask, unpack_mask

ops = torch.ops.detent


def packed(inside):
    """The definition, bit by bit."""
    bits = inside.flatten().tolist()
    return torch.tensor(
        [sum(bit << k for k, bit in enumerate(bits[i : i + 8])) for i in range(0, len(bits), 8)], dtype=torch.uint8
    )


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (7,), (8,), (9,), (5, 13), (2, 3, 4, 5), (1031,)], ids=str)
def test_bits_lie_in_the_order_of_the_elements(shape):
    inside = torch.rand(shape) < 0.4
    mask = pack_mask(inside)
    same_bits(mask, packed(inside))
    same_bits(unpack_mask(mask, shape), inside)


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_any_layout_counts_as_contiguous(layout):
    inside = cases.LAYOUTS[layout](torch.rand(4, 3, 5, 7)) < 0.5
    mask = pack_mask(inside)
    same_bits(mask, packed(inside))
    back = unpack_mask(mask, inside.shape)
    assert back.is_contiguous() and torch.equal(back, inside)


@pytest.mark.parametrize("n", [2**16 - 1, 2**16, 2**16 + 1, 300_007])
def test_thread_count_changes_no_bit(n):
    inside, results = torch.rand(n) < 0.5, []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(pack_mask(inside))
        assert torch.equal(unpack_mask(results[-1], (n,)), inside)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_it_is_the_mask_that_operators_keep():
    x, scale = cases.data((6, 77)), torch.tensor(0.25)
    _, mask = ops.fake_quantize_mask(x, scale, None, -8, 7)
    inside = (torch.round(x / scale) >= -8) & (torch.round(x / scale) <= 7)
    same_bits(unpack_mask(mask, x.shape), inside)
    same_bits(pack_mask(inside), mask)
    g = cases.data(x.shape)
    same_bits(ops.fake_quantize_mask_backward(g, pack_mask(inside)), torch.where(inside, g, 0))


def test_a_mask_at_any_address():
    inside = torch.rand(100) < 0.5
    for start in range(9):
        same_bits(pack_mask(inside[start:]), packed(inside[start:]))


@pytest.mark.parametrize("call, message", [
    (lambda: pack_mask(torch.ones(3)), "pack_mask: inside has dtype float32, expected bool"),
    (lambda: unpack_mask(torch.zeros(2, dtype=torch.uint8), (17,)), "mask has 2 elements of uint8, expected 3 of"),
    (lambda: unpack_mask(torch.zeros(2), (16,)), "mask has 2 elements of float32, expected 2 of uint8"),
    (lambda: unpack_mask(torch.zeros(2, dtype=torch.uint8), (-1, 3)), "size is (-1, 3), expected sizes of 0 and more"),
    (lambda: unpack_mask(torch.zeros(0, dtype=torch.uint8), (2**40, 2**40)), "whose product fits 63 bits"),
])  # fmt: skip
def test_bad_input_says_what_came_and_what_was_expected(call, message):
    with pytest.raises(ValueError) as caught:
        call()
    assert message in str(caught.value)
