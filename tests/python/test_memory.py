"""What a forward keeps for backward: the report counts it right."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from detent import QuantizationSimModel, qat
from simulations import ResNet20, calibrated

FLOATS = 4  # bytes


def test_bytes_by_layer_are_those_that_autograd_holds():
    net = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4, bias=False)).train()
    x = torch.randn(64, 16)
    report = qat.saved_bytes(calibrated(net, x, default_output_bw=8), x)
    # The second layer's input is what relu saved; parameters are alive anyway.
    assert report.float_layers == {"0": 64 * 16 * FLOATS, "1": 64 * 32 * FLOATS}
    mask = 64 * 32 // 8
    assert report.layers == {
        "0": 64 * 16 * FLOATS,  # its quantized input; no gradient goes to x, so not its weight
        "0.param_quantizers.weight": 32 * 16 // 8,
        "1.output_quantizers.0": mask,  # of the ReLU and the quantizer in one
        "2": (64 * 32 + 4 * 32) * FLOATS,
        "2.param_quantizers.weight": 4 * 32 // 8,
        "2.output_quantizers.0": 64 * 4 // 8,
    }
    assert report.total == sum(report.layers.values()) and report.ratio == report.total / report.float_total


def test_float_side_is_the_float_model_and_nothing_is_changed():
    net, x = ResNet20().train(), torch.randn(2, 3, 32, 32)
    sim = calibrated(net, x, quant_scheme="training_range_learning_with_tf_init")
    sim.model.train()
    before = {name: tensor.clone() for name, tensor in sim.model.state_dict().items() if torch.is_tensor(tensor)}
    state = torch.get_rng_state()
    report = qat.saved_bytes(sim, x)
    assert report.float_layers == qat.saved_bytes(net, x).layers
    assert report.total > 1.5 * report.float_total  # a learned range keeps x, and the next layer what it made of x
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in before.items():
        assert torch.equal(sim.model.state_dict()[name], tensor), name
    assert all(parameter.grad is None for parameter in sim.model.parameters())
    assert sim.model.training


def test_functions_are_counted_at_their_call_sites():
    net, x = ResNet20(), torch.randn(2, 3, 32, 32)
    report = qat.saved_bytes(calibrated(net, x), x)
    assert report.float_layers["layer1.0"] == 2 * 2 * 16 * 32 * 32 * FLOATS  # its two relus
    assert report.layers["layer1.0.relu_0.output_quantizers.0"] == 2 * 16 * 32 * 32 // 8
    assert "layer1.0" not in report.layers
    sim = calibrated(net, x)
    sim.fuse_activations = False
    report = qat.saved_bytes(sim, x)
    assert report.layers["layer1.0.relu_0"] == report.layers["layer1.0.relu_1"] == 2 * 16 * 32 * 32 * FLOATS


def test_storage_counts_once_and_whole_and_only_while_it_is_held():
    class Net(nn.Module):
        def forward(self, x):
            dropped = (x * x).detach()  # the graph of x * x goes with it
            part = x[:4].sigmoid()[:1]
            return part * part + part.exp() * dropped.sum()

    x = torch.randn(64, 8, requires_grad=True)
    net = Net()
    # sigmoid's result, of which the products hold a view; exp's result; the sum.
    assert qat.saved_bytes(net, x).total == (4 * 8 + 8 + 1) * FLOATS


def test_checkpointed_parts_keep_their_inputs():
    inner = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid())

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, x):
            return checkpoint(self.inner, x, use_reentrant=False)

    assert qat.saved_bytes(Net(), torch.randn(4, 8)).total == 4 * 8 * FLOATS


def test_table_orders_layers_as_people_count():
    report = qat.SavedBytes({"layer10": 2**20, "layer2": 2**21}, {"layer2": 2**20, "layer10.relu_0": 2**20})
    lines = str(report).splitlines()
    assert [line.split()[0] for line in lines] == ["layer", "layer2", "layer10", "layer10.relu_0", "total"]
    assert lines[1].split() == ["layer2", "2.000", "1.000"]
    assert lines[-1].split() == ["total", "3.000", "2.000", "0.67", "x"]


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match="saved_bytes: got a dict"):
        qat.saved_bytes({}, torch.randn(1))
    sim = QuantizationSimModel(nn.Linear(4, 2), torch.randn(1, 4))
    with pytest.raises(RuntimeError, match="has no range yet"):
        qat.saved_bytes(sim, torch.randn(1, 4))
