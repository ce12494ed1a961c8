"""A scale and zero point that an optimizer moves: what the operators make of them, in how many operators."""

import math

import pytest
import torch

import cases
import oracle
from checks import same_bits
from detent import functional
from detent.quantizers import QuantizeDequantize

ops = torch.ops.detent
pytestmark = pytest.mark.both_autograd_paths

GRIDS = {"signed": (-8, 7), "unsigned": (0, 255), "wide": (0, 65535)}
SCALES = [0.0, -0.0, 0.3, -0.3, 1e-12, -1e-12, 1e-45, 2.0**-24, 2.0**-23, 1.1e-7, 5.0, math.nan, -1e30]
POINTS = [0.0, -3.0, 2.5, 300.7, -300.7, 7.5, 1e6, -1e6, 0.49, 255.5, -8.5, math.nan, 6.0]


def composed(scale, zero_point, qmin, qmax):
    """The same in operators of torch, whose gradients are autograd's."""
    held, point = scale.detach(), zero_point.detach()
    sign = torch.where(held < 0, -1.0, 1.0)  # abs() has no slope at 0
    size = held * sign
    lift = size.clamp_min(min(oracle.FLOOR, 0.01 / (qmax - qmin))) - size
    return torch.addcmul(lift, scale, sign), zero_point + (point.clamp(qmin, qmax) - point)


def leaves(*tensors):
    return [tensor.detach().clone().requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("dtype", cases.FLOATS)
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_same_bits_as_the_composition(grid, dtype):
    """Per channel: collapsed, negative, subnormal and NaN scales; zero points off the grid and between its points."""
    scale, point = torch.tensor(SCALES), torch.tensor(POINTS)
    if dtype == torch.float64:
        scale, point = scale.double(), point.double()
    x, g = cases.data((len(SCALES), 70), dtype), cases.data((len(SCALES), 70), dtype)
    got, want = leaves(x, scale, point), leaves(x, scale, point)
    y = ops.fake_quantize(*got, *grid, 0, None, 0.25, None, None, True)
    z = ops.fake_quantize(want[0], *composed(*want[1:], *grid), *grid, 0, None, 0.25)
    same_bits(y, z)
    y.backward(g)
    z.backward(g)
    for one, other, name in zip(got, want, ("x", "scale", "zero_point")):
        same_bits(one.grad, other.grad, of=name)
    fixed = leaves(x)
    ops.fake_quantize(*fixed, scale, point, *grid, 0, None, 1.0, None, None, True).backward(g)
    same_bits(fixed[0].grad, got[0].grad)


@pytest.mark.parametrize("name", cases.GRANULARITIES)
def test_every_granularity_and_after_an_activation(name):
    shape, axis, block_size = cases.GRANULARITIES[name]
    x, g = cases.data(shape), cases.data(shape)
    scale, point = cases.encodings(x, axis, block_size, False)
    scale = torch.where(torch.arange(scale.numel()).reshape(scale.shape) % 2 == 0, -scale, scale * 1e-9)
    for bounds in ((None, None), (0.0, 6.0)):
        got, want = leaves(x, scale, point), leaves(x, scale, point)
        ops.fake_quantize(*got, 0, 15, axis, block_size, 1.0, *bounds, True).backward(g)
        usable = composed(*want[1:], 0, 15)
        ops.fake_quantize(want[0], *usable, 0, 15, axis, block_size, 1.0, *bounds).backward(g)
        for one, other in zip(got, want):
            same_bits(one.grad, other.grad, granularity=name)


def test_no_zero_point_is_no_zero_point():
    """On a grid without 0 an absent zero point stays 0, where one that is given is held to the grid."""
    x, scale = torch.tensor([1.0, 6.4]), torch.tensor(-1.0)
    same_bits(functional.fake_quantize(x, scale, qmin=4, qmax=9, trained=True), torch.tensor([4.0, 6.0]))
    zero = torch.zeros(())
    same_bits(functional.fake_quantize(x, scale, zero, qmin=4, qmax=9, trained=True), torch.tensor([1.0, 5.0]))


def test_the_floor_of_wide_grids_is_that_of_ranges():
    for qmax in (15, 65535, 2**20, 2**31):
        scale, _ = ops.encode_affine(torch.zeros(1), torch.zeros(1), 0, qmax, False)
        for given in (0.0, -1e-30):
            got, point = ops.encode_trained(torch.tensor([given]), torch.tensor([1e12]), 0, qmax)
            same_bits(got, scale)
            assert point.item() == qmax and point.dtype == scale.dtype


def test_what_a_quantizer_says_is_what_it_computes_with():
    for symmetric in (False, True):
        quantizer = QuantizeDequantize((5, 1), 4, symmetric, parametrization="scale_zero_point", grad_scale="lsq")
        quantizer.set_range(-2.0, 1.75)
        with torch.no_grad():
            quantizer.scale.copy_(torch.tensor([[0.3], [-0.3], [0.0], [1e-20], [2.0]]))
            if not symmetric:
                quantizer.zero_point.copy_(torch.tensor([[3.0], [-9.0], [99.0], [2.4], [7.5]]))
        x = cases.data((5, 40))
        y = quantizer(x)
        said = [tensor.detach() for tensor in (quantizer.get_scale(), quantizer.get_zero_point())]
        same_bits(y, ops.fake_quantize(x, *said, quantizer.qmin, quantizer.qmax, 0))
        quantizer.get_scale().sum().backward()
        assert quantizer.scale.grad.flatten().tolist() == [1, -1, 1, 1, 1]


def test_trained_encodings_are_not_differentiable_as_such():
    with pytest.raises(RuntimeError, match="encode_trained is not differentiable"):
        ops.encode_trained(torch.ones(1, requires_grad=True), torch.ones(1), 0, 15)[0].sum().backward()


# --- how many operators ----------------------------------------------------------------------------------------------


def operators(call) -> list[str]:
    """The operators that one call runs, without those that another one calls."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    names = ("aten::", "detent::")
    outermost = [
        event.name
        for event in profile.events()
        if event.name.startswith(names) and (event.cpu_parent is None or not event.cpu_parent.name.startswith(names))
    ]
    return [name for name in outermost if name != "aten::detach"]  # AccumulateGrad's


def counted(quantizer, x):
    x = x.requires_grad_()
    g = torch.ones_like(x)
    quantizer(x).backward(g)  # allocates what is kept
    quantizer.zero_grad()
    x.grad = None
    made = []
    forward = operators(lambda: made.append(quantizer(x)))
    return forward, operators(lambda: made[0].backward(g))


WAYS = {
    "fixed": dict(mode="fixed"),
    "learned": dict(),
    "scale and zero point": dict(parametrization="scale_zero_point"),
    "LSQ": dict(parametrization="scale_zero_point", grad_scale="lsq"),
    "dynamic": dict(mode="dynamic"),
}


def test_pact_takes_a_dozen():
    """Its gradient is a composition."""
    quantizer = QuantizeDequantize((), 8, False, parametrization="pact")
    quantizer.set_range(0.0, 2.0)
    forward, backward = counted(quantizer, torch.randn(4, 3, 5, 5))
    assert len(forward) <= 12, forward
    assert len(backward) <= 4, backward


@pytest.mark.parametrize("shape", [(), (4, 1, 1, 1)], ids=["tensor", "channel"])
@pytest.mark.parametrize("symmetric", [False, True], ids=["asymmetric", "symmetric"])
@pytest.mark.parametrize("way", WAYS)
def test_a_step_takes_one_operator_each_way(way, symmetric, shape):
    quantizer = QuantizeDequantize(shape, 8, symmetric, **WAYS[way])
    if quantizer.mode != "dynamic":
        quantizer.set_range(-2.0, 2.0)
    forward, backward = counted(quantizer, torch.randn(4, 3, 5, 5))
    assert len(forward) == 1, forward
    assert len(backward) == 1, backward
