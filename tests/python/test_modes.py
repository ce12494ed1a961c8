"""The same bits in every way of running: grad modes, checkpoints, threads; and what second derivatives say."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import cases
from checks import same_bits

ops = torch.ops.detent
pytestmark = pytest.mark.both_autograd_paths


class Block(torch.nn.Module):
    """A linear layer with every kind of quantizer around it."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(24, 16)
        self.low, self.high = torch.nn.Parameter(torch.tensor(-2.0)), torch.nn.Parameter(torch.tensor(2.5))
        self.scale = torch.nn.Parameter(torch.full((16,), 0.05))
        self.register_buffer("fixed", torch.tensor(0.1))

    def forward(self, x):
        x = ops.fake_quantize_range(x, self.low, self.high, 0, 255, False)
        weight = ops.fake_quantize_dynamic(self.linear.weight, None, -8, 7, True, 0)[0]
        y = torch.nn.functional.linear(x, weight, self.linear.bias)
        y = ops.fake_quantize(y, self.scale, None, -128, 127, 1)
        y = ops.dequantize(ops.quantize(y, self.fixed, None, -128, 127), self.fixed, None)
        return ops.fake_quantize(y.relu(), self.fixed, torch.zeros(()), 0, 255)


def gradients(block, x, run):
    block.zero_grad()
    x = x.clone().requires_grad_()
    y = run(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad.clone() for p in block.parameters())]


def test_grad_modes_and_training_change_no_bit():
    block, x = Block(), torch.randn(5, 24)
    expected = block(x).detach()
    same_bits(block(x.clone().requires_grad_()), expected)
    for how in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        for training in (True, False):
            with how():
                same_bits(block.train(training)(x), expected, how=how.__name__, training=training)
    for parameter in block.parameters():
        parameter.requires_grad_(False)
    same_bits(block(x), expected)


def test_inference_tensors_go_through_every_operator():
    with torch.inference_mode():
        x, scale = torch.randn(6, 8), torch.tensor(0.1)
        low, high, _ = ops.observe_min_max(x)
        low, high = ops.encode_min_max(low, high, 0, 15, False)
        scale, zero_point = ops.encode_affine(low, high, 0, 15, False)
        q = ops.quantize(x, scale, zero_point, 0, 15, torch.uint8)
        y = ops.dequantize(q, scale, zero_point)
        assert y.is_inference()
    with torch.no_grad():
        same_bits(ops.fake_quantize(x, scale, zero_point, 0, 15), y)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_changes_no_bit(reentrant):
    block, x = Block(), torch.randn(5, 24)
    expected = gradients(block, x, block)
    got = gradients(block, x, lambda x: checkpoint(block, x, use_reentrant=reentrant))
    for index, (left, right) in enumerate(zip(got, expected)):
        same_bits(left, right, index=index)


@pytest.mark.parametrize(
    "shape, axis, block_size",
    [((300_007,), None, None), ((7, 3, 20_011), 1, None), ((1000, 257), 1, None), ((64, 4096), None, [1, 32])],
)
def test_thread_count_changes_no_bit(shape, axis, block_size):
    x, g = cases.data(shape), cases.data(shape)
    scale, zero_point = cases.encodings(x, axis, block_size, False)

    def everything():
        leaves = [t.clone().requires_grad_() for t in (x, scale, zero_point)]
        y = ops.fake_quantize(*leaves, -8, 7, axis, block_size)
        y.backward(g)
        fixed = x.clone().requires_grad_()
        ops.fake_quantize(fixed, scale, zero_point, -8, 7, axis, block_size).backward(g)
        codes = [t.clone().requires_grad_() for t in (x, scale, zero_point)]
        ops.dequantize(
            ops.quantize(*codes, -8, 7, None, axis, block_size), *codes[1:], None, axis, block_size
        ).backward(g)
        dynamic = ops.fake_quantize_dynamic(x, None, -8, 7, False, axis, block_size)
        return [y, *(t.grad for t in leaves + codes), fixed.grad, *dynamic, *ops.observe_min_max(x, axis, block_size)]

    results = []
    for threads in (1, 2, 3, 1):
        torch.set_num_threads(threads)
        results.append(everything())
    for other in results[1:]:
        for index, (got, expected) in enumerate(zip(other, results[0])):
            same_bits(got, expected, index=index)


@pytest.mark.parametrize(
    "run",
    [
        lambda x, s: ops.fake_quantize(x, s, None, -8, 7),
        lambda x, s: ops.fake_quantize(x, s.detach(), None, -8, 7),
        lambda x, s: ops.fake_quantize_range(x, -s, s, -8, 7, False),
        lambda x, s: ops.fake_quantize_range(x, -s.detach(), s.detach(), -8, 7, True),
        lambda x, s: ops.fake_quantize_dynamic(x, None, -8, 7, True)[0],
        lambda x, s: ops.quantize(x, s, None, -8, 7),
        lambda x, s: ops.dequantize(x, s, None),
    ],
    ids=["scale", "fixed scale", "range", "fixed range", "dynamic", "quantize", "dequantize"],
)
def test_second_derivatives_raise_instead_of_being_zero(run):
    x, scale = torch.randn(9, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    loss = run(x, scale).square().sum()
    (first,) = torch.autograd.grad(loss, x, create_graph=True)
    assert first.requires_grad
    with pytest.raises(RuntimeError, match="not differentiable.*create_graph"):
        (first.square().sum() + loss).backward()


def test_saved_tensors_changed_in_place_are_noticed():
    x, scale = torch.randn(9, requires_grad=True), torch.tensor(0.3, requires_grad=True)
    y = ops.fake_quantize(x * 1, scale, None, -8, 7)
    with torch.no_grad():
        scale.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_the_output_may_be_changed_in_place():
    x = torch.randn(9, requires_grad=True)
    y = ops.fake_quantize(x, torch.tensor(0.3), None, -8, 7)
    y.mul_(2)
    y.sum().backward()
    plain = torch.ones(9) * 2
    same_bits(x.grad, torch.where((x / 0.3).round().clamp(-8, 7) == (x / 0.3).round(), plain, 0.0))
