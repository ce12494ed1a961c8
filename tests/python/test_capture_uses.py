"""Blocks that run more than once, and what is recomputed under activation checkpointing."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from simulations import calibrated, names
from torch import nn
from torch.utils.checkpoint import checkpoint

from detent.quantsim import QuantizationSimModel, quantization_disabled

LEARNED = "training_range_learning_with_tf_init"


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(4, 8)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.scale = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid()), nn.Parameter(torch.randn(8, 8))

    def forward(self, x):
        return torch.tanh(self.inner(x) @ self.scale.t()) + x


class Shared(nn.Module):
    """A block run ``times`` times, each time on other numbers, plainly or through a checkpoint."""

    def __init__(self, way=lambda function, x: function(x)):
        super().__init__()
        self.block, self.way = Block(), way

    def forward(self, x, times=3):
        for _ in range(times):
            x = self.way(self.block, x) * 2
        return x


def test_each_run_of_a_block_has_its_quantizers(x):
    sim = calibrated(Shared(), x)
    block = [name.removeprefix("block.") for name in names(sim) if name.startswith("block.")]
    assert sum("param_quantizers" in name for name in block) == 2
    for part in ("inner.1.{}output_quantizers.0", "{}tanh_0.output_quantizers.0", "{}matmul_0.output_quantizers.0",
                 "{}add_0.output_quantizers.0", "inner.0.{}output_quantizers.0"):  # fmt: skip
        assert {part.format(use) for use in ("", "use_1.", "use_2.")} <= set(block)
    ranges = [sim.model.block.get_submodule(f"{use}add_0.output_quantizers.0").max.item()
              for use in ("", "use_1.", "use_2.")]  # fmt: skip
    assert ranges[0] < ranges[1] < ranges[2]
    assert "block.use_2.tanh_0" in str(sim)


def test_a_run_that_the_sample_did_not_make_warns_once(x):
    sim = calibrated(Shared(), x)
    with pytest.warns(UserWarning, match="block did not run with the sample input"), warnings.catch_warnings():
        warnings.filterwarnings("error", message=r".*(linear|tanh|inner|Linear)")
        fourth = sim.model(x, times=4)
    block, x = sim.model.block, sim.model(x)
    linear = block.inner[0]
    y = torch.sigmoid(F.linear(x, linear.param_quantizers["weight"](linear.weight), linear.bias))
    assert torch.equal((torch.tanh(y @ block.scale.t()) + x) * 2, fourth)


def test_ways_of_running_blocks_that_run_again(x):
    model = calibrated(Shared(), x, quant_scheme=LEARNED).model
    expected = model(x)
    expected.sum().backward()
    gradient = model.block.inner[0].weight.grad.clone()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert torch.equal(copy.deepcopy(model)(x), expected)
    fresh = QuantizationSimModel(Shared(), (x,), LEARNED)
    fresh.model.load_state_dict(model.state_dict())
    assert torch.equal(fresh.model(x), expected)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), expected)
    assert torch.equal(torch.jit.trace(model, x)(x), expected)
    torch._dynamo.reset()
    model.zero_grad()
    y = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    y.sum().backward()
    assert torch.equal(y, expected) and torch.allclose(model.block.inner[0].weight.grad, gradient)
    with quantization_disabled(model):
        plain = Shared()
        plain.load_state_dict(model.state_dict(), strict=False)
        assert torch.equal(model(x), plain(x))


def not_reentrant(function, x):
    return checkpoint(function, x, use_reentrant=False)


def reentrant(function, x):
    return checkpoint(function, x, use_reentrant=True)


@pytest.mark.parametrize("way", [not_reentrant, reentrant])
def test_checkpointed_blocks_that_run_again(x, way):
    outcomes = []
    for made in (Shared(), Shared(way)):
        if outcomes:
            made.load_state_dict(state)
        state = made.state_dict()
        model, data = calibrated(made, x, quant_scheme=LEARNED).model, x.clone().requires_grad_()
        y = model(data)
        y.sum().backward()
        outcomes.append([y, data.grad, *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*outcomes, strict=True))


class Inside(nn.Module):
    """Functions of its own forward through checkpoints, one in another, around a leaf used three times."""

    def __init__(self, way):
        super().__init__()
        self.first, self.relu, self.way = nn.Linear(8, 8), nn.ReLU(), way

    def forward(self, x):
        y = torch.tanh(self.relu(x * 2))
        y = self.way(lambda t: self.way(lambda u: torch.tanh(self.relu(self.first(u))) * 3, t + 1) - torch.tanh(t), y)
        return torch.tanh(self.relu(y)) * 2


@pytest.mark.parametrize("way", [not_reentrant, reentrant])
def test_functions_inside_a_checkpoint_are_recomputed_as_they_were(x, way):
    nets = Inside(lambda function, x: function(x)), Inside(way)
    nets[1].load_state_dict(nets[0].state_dict())
    outcomes = []
    for net in nets:
        model, data = calibrated(net, x, quant_scheme=LEARNED).model, x.clone().requires_grad_()
        y = model(data)
        y.sum().backward()
        outcomes.append([y, data.grad, *(parameter.grad for parameter in model.parameters())])
    assert len(outcomes[0]) > 12
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(*outcomes, strict=True))


def test_a_pickled_block_counts_its_runs(x):
    sim = calibrated(Shared(reentrant), x)
    assert torch.equal(pickle.loads(pickle.dumps(sim.model))(x), sim.model(x))


class Once(nn.Module):
    def forward(self, x):
        y = torch.tanh(x)
        return checkpoint(lambda t: torch.tanh(t) * 3, y, use_reentrant=False) * 2


def test_a_checkpoint_inside_a_compiled_forward_is_quantized(x):
    model = calibrated(Once(), x, default_output_bw=4).model
    torch._dynamo.reset()
    assert torch.equal(torch.compile(model, backend="aot_eager")(x), model(x))
