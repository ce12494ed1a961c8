"""Every bad input is answered with what came, what was expected and what to do."""

import pytest
import torch

import cases
from detent import functional

ops = torch.ops.detent
pytestmark = pytest.mark.both_autograd_paths

X = torch.randn(4, 6)
SCALE, ZERO = torch.tensor(0.5), torch.tensor(1.0)
LOW, HIGH = torch.tensor(-1.0), torch.tensor(1.0)


def state(groups=1):
    return torch.zeros(groups), torch.zeros(groups), torch.zeros(groups, dtype=torch.int64)


# name: (call, parts of the message)
CASES = {
    "grid ends swapped": (
        lambda: ops.fake_quantize(X, SCALE, None, 7, -8),
        ["qmin is 7", "qmax -8", "expected qmin < qmax", "Swap"],
    ),
    "grid of one point": (lambda: ops.fake_quantize(X, SCALE, None, 3, 3), ["expected qmin < qmax"]),
    "grid too low": (
        lambda: ops.fake_quantize(X, SCALE, None, -(2**31) - 1, 0),
        ["-2147483649 .. 0", "-2^31 .. 2^32 - 1"],
    ),
    "grid too high": (
        lambda: ops.fake_quantize_range(X, LOW, HIGH, 0, 2**32, False),
        ["4294967296", "-2^31 .. 2^32 - 1"],
    ),
    "range grid swapped": (lambda: ops.fake_quantize_range(X, LOW, HIGH, 7, -8, True), ["expected qmin < qmax"]),
    "dynamic grid swapped": (lambda: ops.fake_quantize_dynamic(X, None, 7, -8, True), ["expected qmin < qmax"]),
    "encode grid swapped": (lambda: ops.encode_affine(LOW, HIGH, 7, -8, True), ["expected qmin < qmax"]),
    "quantize grid swapped": (lambda: ops.quantize(X, SCALE, None, 7, -8), ["expected qmin < qmax"]),
    "scale per tensor": (
        lambda: ops.fake_quantize(X, torch.ones(4), None, -8, 7),
        ["scale has shape (4,)", "expected () or (1,)", "axis for one value per channel"],
    ),
    "scale per axis": (
        lambda: ops.fake_quantize(X, torch.ones(4), None, -8, 7, 1),
        ["scale has shape (4,)", "expected (6,)", "x.shape[1] = 6 (axis=1)", "Pass one value per channel"],
    ),
    "scale along another axis": (
        lambda: ops.fake_quantize(X, torch.ones(6, 1), None, -8, 7, 1),
        ["scale has shape (6, 1)", "expected (6,)"],
    ),
    "zero_point per axis": (
        lambda: ops.fake_quantize(X, torch.ones(6), ZERO, -8, 7, 1),
        ["zero_point has shape ()", "expected (6,)"],
    ),
    "scale per block": (
        lambda: ops.fake_quantize(X, torch.ones(4, 3), None, -8, 7, None, [1, 3]),
        ["scale has shape (4, 3)", "expected (4, 2)", "number of blocks"],
    ),
    "max per axis": (
        lambda: ops.fake_quantize_range(X, torch.ones(6), torch.ones(4), -8, 7, True, None, 1),
        ["max has shape (4,)", "expected (6,)"],
    ),
    "clip per axis": (
        lambda: ops.fake_quantize_dynamic(X, torch.ones(4), -8, 7, True, 1),
        ["clip has shape (4,)", "expected (6,)"],
    ),
    "dequantize scale": (
        lambda: ops.dequantize(X, torch.ones(4), None, None, 1),
        ["scale has shape (4,)", "expected (6,)"],
    ),
    "integer x": (
        lambda: ops.fake_quantize(X.int(), SCALE, None, -8, 7),
        ["x has dtype int32", "expected float32, float16, bfloat16 or float64", ".float()"],
    ),
    "complex x": (lambda: ops.observe_min_max(X.to(torch.complex64)), ["x has dtype", "expected float32"]),
    "half scale": (
        lambda: ops.fake_quantize(X, SCALE.half(), None, -8, 7),
        ["scale has dtype float16", "expected float32 or float64", "scale.float()"],
    ),
    "integer zero_point": (
        lambda: ops.fake_quantize(X, SCALE, ZERO.int(), -8, 7),
        ["zero_point has dtype int32", "expected float32 or float64"],
    ),
    "integer clip": (
        lambda: ops.fake_quantize_dynamic(X, torch.tensor(1), -8, 7, True),
        ["clip has dtype int64", "expected float32 or float64"],
    ),
    "half min": (
        lambda: ops.fake_quantize_range(X, LOW.half(), HIGH, -8, 7, True),
        ["min has dtype float16", "min.float()"],
    ),
    "encode dtypes": (
        lambda: ops.encode_affine(LOW.half(), HIGH.half(), -8, 7, True),
        ["float16", "expected float32 or float64, both the same"],
    ),
    "encode shapes": (
        lambda: ops.encode_min_max(torch.ones(2), torch.ones(3), -8, 7, True),
        ["(2,) and (3,)", "expected the same"],
    ),
    "mask dtype": (
        lambda: ops.fake_quantize_mask_backward(X, torch.zeros(3)),
        ["mask has 3 elements of float32", "expected 3 of uint8"],
    ),
    "mask length": (
        lambda: ops.fake_quantize_mask_backward(X, torch.zeros(4, dtype=torch.uint8)),
        ["mask has 4", "expected 3"],
    ),
    "mask order": (
        lambda: ops.fake_quantize_mask_backward(X, torch.zeros(3, dtype=torch.uint8), [0]),
        ["order is (0,)", "expected each of the 2 dimensions"],
    ),
    "mask order twice": (
        lambda: ops.fake_quantize_mask_backward(X, torch.zeros(3, dtype=torch.uint8), [0, 0]),
        ["order is (0, 0)", "expected each of the 2"],
    ),
    "mask order out of range": (
        lambda: ops.fake_quantize_mask_backward(X, torch.zeros(3, dtype=torch.uint8), [0, 7]),
        ["order is (0, 7)", "expected each of the 2"],
    ),
    "upstream gradient's shape": (
        lambda: ops.fake_quantize_backward(X[:2], X, SCALE, None, -8, 7),
        ["grad_y has shape (2, 6)", "expected shape (4, 6)"],
    ),
    "upstream gradient's dtype": (
        lambda: ops.fake_quantize_backward(X.half(), X, SCALE, None, -8, 7),
        ["float16", "dtype float32"],
    ),
    "axis too high": (
        lambda: ops.fake_quantize(X, torch.ones(6), None, -8, 7, 2),
        ["axis is 2", "expected -2 .. 1", "(4, 6)", "axis=None"],
    ),
    "axis too low": (lambda: ops.observe_min_max(X, -3), ["axis is -3", "expected -2 .. 1"]),
    "axis of a scalar": (
        lambda: ops.fake_quantize(torch.tensor(1.0), SCALE, None, -8, 7, 0),
        ["axis is 0", "axis=None"],
    ),
    "axis and blocks": (
        lambda: ops.fake_quantize(X, torch.ones(6), None, -8, 7, 1, [1, 1]),
        ["axis and block_size were both given", "expected at most one"],
    ),
    "block not dividing": (
        lambda: ops.fake_quantize(X, torch.ones(4, 2), None, -8, 7, None, [1, 4]),
        ["block_size[1] is 4", "divisor of x.shape[1] = 6", "divides"],
    ),
    "block of zero": (
        lambda: ops.fake_quantize(X, torch.ones(4, 2), None, -8, 7, None, [1, 0]),
        ["block_size[1] is 0", "divisor"],
    ),
    "block of minus two": (lambda: ops.observe_min_max(X, None, [1, -2]), ["block_size[1] is -2", "divisor"]),
    "blocks too few": (
        lambda: ops.fake_quantize(X, torch.ones(4), None, -8, 7, None, [1]),
        ["block_size (1,) has 1 entries", "expected 2", "one per dimension"],
    ),
    "fixed zero_point of an asymmetric range": (
        lambda: ops.fake_quantize_range(X, LOW, HIGH, 0, 15, False, 3),
        ["zero_point=3", "symmetric=False", "symmetric=True"],
    ),
    "zero_point off the grid": (
        lambda: ops.fake_quantize_range(X, LOW, HIGH, 0, 15, True, 16),
        ["zero_point is 16", "grid 0 .. 15"],
    ),
    "dynamic zero_point off the grid": (
        lambda: ops.fake_quantize_dynamic(X, None, 0, 15, True, None, None, -1),
        ["zero_point is -1", "grid 0 .. 15"],
    ),
    "int8 for 0 .. 255": (
        lambda: ops.quantize(X, SCALE, None, 0, 255, torch.int8),
        ["grid 0 .. 255", "int8", "-128 .. 127", "wider dtype"],
    ),
    "uint8 for a signed grid": (
        lambda: ops.quantize(X, SCALE, None, -8, 7, torch.uint8),
        ["grid -8 .. 7", "uint8", "0 .. 255"],
    ),
    "bfloat16 codes of 16 bits": (
        lambda: ops.quantize(X.bfloat16(), SCALE, None, 0, 65535),
        ["bfloat16", "-256 .. 256"],
    ),
    "codes of another float type": (
        lambda: ops.quantize(X, SCALE, None, -8, 7, torch.float16),
        ["dtype has dtype float16", "expected int8, uint8, int16, int32 or the dtype"],
    ),
    "int64 codes": (lambda: ops.dequantize(X.long(), SCALE, None), ["q has dtype int64", "expected int8"]),
    "integer values": (
        lambda: ops.dequantize(X.to(torch.int8), SCALE, None, torch.int32),
        ["dtype is int32", "expected float32"],
    ),
    "momentum of zero": (lambda: ops.observe_min_max_update_(X, *state(), 0.0), ["momentum is 0", "(0, 1]", "None"]),
    "momentum above one": (lambda: ops.observe_min_max_update_(X, *state(), 1.5), ["momentum is 1.5", "(0, 1]"]),
    "momentum of nan": (lambda: ops.observe_min_max_update_(X, *state(), float("nan")), ["momentum is nan", "(0, 1]"]),
    "statistics of another shape": (
        lambda: ops.observe_min_max_update_(X, *state(3), None, 1),
        ["min has shape (3,)", "expected 6 contiguous elements"],
    ),
    "statistics of another dtype": (
        lambda: ops.observe_min_max_update_(X.double(), *state()),
        ["min", "float32", "expected 1 contiguous elements of float64"],
    ),
    "no bitwidth, no grid": (
        lambda: functional.fake_quantize_range(X, LOW, HIGH),
        ["bitwidth=None", "expected bitwidth or both"],
    ),
    "bitwidth and grid": (
        lambda: functional.fake_quantize_range(X, LOW, HIGH, bitwidth=4, qmin=0, qmax=15),
        ["bitwidth=4", "expected bitwidth or qmin and qmax"],
    ),
    "bitwidth of one": (lambda: functional.fake_quantize_range(X, LOW, HIGH, bitwidth=1), ["bitwidth is 1", "2 .. 32"]),
}


@pytest.mark.parametrize("name", CASES)
def test_message_says_what_came_and_what_was_expected(name):
    call, parts = CASES[name]
    with pytest.raises(ValueError) as caught:
        call()
    missing = [part for part in parts if part not in str(caught.value)]
    assert not missing, f"{missing} not in: {caught.value}"


@pytest.mark.parametrize("name", ["scale per axis", "axis too high", "block not dividing", "integer x"])
def test_messages_are_the_same_where_gradients_are_asked_for(name):
    call, parts = CASES[name]
    X.requires_grad_(X.is_floating_point())
    try:
        with pytest.raises(ValueError) as caught:
            call()
        assert all(part in str(caught.value) for part in parts), str(caught.value)
    finally:
        X.requires_grad_(False)


META = {
    "scale": lambda: ops.fake_quantize(X, SCALE.to("meta"), None, -8, 7),
    "zero_point": lambda: ops.fake_quantize(X, SCALE, ZERO.to("meta"), -8, 7),
    "x": lambda: ops.fake_quantize(X.to("meta"), SCALE, None, -8, 7),
    "max": lambda: ops.fake_quantize_range(X, LOW, HIGH.to("meta"), -8, 7, True),
    "clip": lambda: ops.fake_quantize_dynamic(X, torch.tensor(1.0, device="meta"), -8, 7, True),
    "q": lambda: ops.dequantize(X.to("meta"), SCALE, None),
    "quantize's scale": lambda: ops.quantize(X, SCALE.to("meta"), None, -8, 7),
}


@pytest.mark.parametrize("name", META)
def test_tensors_on_two_devices_are_refused(name):
    """Never a result of uninitialized memory."""
    with pytest.raises((ValueError, RuntimeError), match="device"):
        META[name]()


def test_tensors_on_two_devices_are_refused_on_cuda(cuda):
    for call in (
        lambda: ops.fake_quantize(X.to(cuda), SCALE, None, -8, 7),
        lambda: ops.fake_quantize(X, SCALE.to(cuda), None, -8, 7),
        lambda: ops.fake_quantize_dynamic(X.to(cuda), torch.tensor(0.5), -8, 7, True),
        lambda: ops.observe_min_max_update_(X.to(cuda), *state()),
        lambda: ops.fake_quantize_backward(X, X.to(cuda), SCALE.to(cuda), None, -8, 7),
    ):
        with pytest.raises(ValueError, match="another device"):
            call()


@pytest.mark.parametrize("bad", [3.0, [1.0, 2.0], "x"])
def test_what_is_no_tensor_is_refused_by_name(bad):
    for call in (
        lambda: ops.fake_quantize(bad, SCALE, None, -8, 7),
        lambda: functional.fake_quantize(bad, SCALE, qmin=-8, qmax=7),
    ):
        with pytest.raises(RuntimeError, match="argument 'x'"):
            call()


def test_none_for_a_tensor_is_refused_by_name():
    """torch hands None down as a tensor that is none."""
    with pytest.raises(ValueError, match="x has dtype none"):
        ops.fake_quantize(None, SCALE, None, -8, 7)
    with pytest.raises(ValueError, match="scale has dtype none"):
        ops.fake_quantize(X, None, None, -8, 7)


@pytest.mark.parametrize("dtype", cases.FLOATS)
def test_nothing_is_written_where_an_update_is_refused(dtype):
    low, high, ignored = state(2)
    with pytest.raises(ValueError):
        ops.observe_min_max_update_(X.to(dtype), low, high, ignored)
    assert not low.any() and not high.any() and not ignored.any()
