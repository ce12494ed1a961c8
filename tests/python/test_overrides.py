"""Settings per layer."""

import copy

import pytest
import torch
import torch.nn.functional as F
from detent.config import Config
from detent.config_utils import set_blockwise_quantization_for_weights
from detent.quantsim import QuantizationSimModel, quantization_disabled
from torch import nn

X = torch.randn(2, 4, 8, 8)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.GroupNorm(2, 4)

    def forward(self, x):
        return F.relu(self.norm(self.conv(x)) + x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.block1, self.block2 = Block(), Block()
        self.head = nn.Linear(4, 6)

    def forward(self, x):
        return self.head(self.block2(self.block1(x)).mean((2, 3)))


@pytest.fixture
def net():
    return Net().eval()


def built(net, *overrides, **options):
    config = Config.load()
    for select, settings in overrides:
        config.override(select, **settings)
    return QuantizationSimModel(net, X, config_file=config, **options)


def bits(sim):
    return {name: quantizer.bitwidth for name, quantizer in sim.named_quantizers() if quantizer.bitwidth != 8}


def test_a_pattern_a_module_a_type_and_a_predicate_select_alike(net):
    wanted = {"block1.conv.param_quantizers.weight": 4}
    for select in ("block1.conv", "block1.*.weight", "?lock1", net.block1, net.block1.conv,
                   lambda name, module: name == "block1"):  # fmt: skip
        assert bits(built(net, (select, {"param_bw": 4}))) == wanted
    assert bits(built(net, (nn.Conv2d, {"param_bw": 4}))) == wanted | {"block2.conv.param_quantizers.weight": 4}
    assert bits(built(net, (net.block1, {"param_bw": 4}), in_place=True)) == wanted


def test_call_sites_have_names_too(net):
    sim = built(net, ("block2.relu_0", {"output_bw": 16, "output_symmetric": True}), ("*.conv", {"output_bw": 4}))
    assert bits(sim) == {
        "block1.conv.input_quantizers.0": 4, "block1.conv.output_quantizers.0": 4, "block2.conv.output_quantizers.0": 4,
        "block2.relu_0.output_quantizers.0": 16,
    }  # fmt: skip
    assert sim.model.block2.relu_0.output_quantizers[0].symmetric


def test_the_last_override_wins(net):
    sim = built(
        net, ("*", {"param_bw": 4, "param_symmetric": False}), (nn.Linear, {"param_bw": 6}), ("head", {"param_bw": 2})
    )
    weight = sim.model.head.param_quantizers["weight"]
    assert weight.bitwidth == 2 and not weight.symmetric
    assert sim.model.block1.conv.param_quantizers["weight"].bitwidth == 4
    sim = built(net, ("block*", {"quantized": False}), ("block2", {"quantized": True}))
    assert not any("block1" in name for name, _ in sim.named_quantizers())
    assert sim.model.block2.conv.param_quantizers["weight"] is not None


def test_granularity_and_blocks(net):
    sim = built(
        net, ("*.conv", {"granularity": "per_tensor"}), (nn.Linear, {"block_size": 2}),
        ("block2.conv", {"block_size": (2, -1, 1, 3)}), default_param_bw=4,
    )  # fmt: skip
    layers = (sim.model.block1.conv, sim.model.block2.conv, sim.model.head)
    weights = [layer.param_quantizers["weight"] for layer in layers]
    assert [weight.shape for weight in weights] == [(1,), (2, 1, 3, 1), (6, 2)]
    assert [weight.block_size for weight in weights] == [None, (2, -1, 1, 3), (1, 2)]
    sim.compute_encodings(lambda model: model(X))
    weight, quantized = net.head.weight, weights[2](sim.model.head.weight)
    for row in range(6):
        for block in (slice(0, 2), slice(2, 4)):
            values = weight[row, block].double()
            scale = torch.maximum(values.max() / 7, -values.min() / 8).clamp(min=1e-9)
            expected = (values / scale).round().clamp(-8, 7) * scale
            assert torch.allclose(quantized[row, block].double(), expected, atol=1e-6)
    fresh = built(net, default_param_bw=4)
    fresh.model.load_state_dict(sim.model.state_dict())
    assert torch.equal(fresh.model(X), sim.model(X))


def test_excluded_layers_leave_no_reader_on_no_grid(net):
    sim = built(net, ("block1", {"quantized": False}), ("*.bias", {"quantized": False}))
    names = [name for name, _ in sim.named_quantizers()]
    assert not any("block1" in name for name in names)
    assert {"block2.conv.input_quantizers.0", "block2.add_0.input_quantizers.1"} <= set(names)
    sim.compute_encodings(lambda model: model(X))
    assert torch.equal(sim.model.block1(X), net.block1(X)) and "excluded by an override" in str(sim)
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model(X), net(X))


def test_an_excluded_relu_is_no_end_of_a_supergroup():
    net = nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1))
    assert [name for name, _ in built(net, ("1", {"quantized": False})).named_quantizers()] == [
        "0.param_quantizers.weight", "0.input_quantizers.0", "0.output_quantizers.0",
        "2.param_quantizers.weight", "2.input_quantizers.0", "2.output_quantizers.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "select, settings, message",
    [
        (3, {}, "select is 3, expected a pattern"),
        (int, {}, "select is <class 'int'>"),
        ("*", {"param_bw": 1}, "param_bw is 1, expected an integer from 2 to 32"),
        ("*", {"output_bw": True}, "output_bw is True"),
        ("*", {"output_symmetric": "True"}, "output_symmetric is 'True', expected True or False"),
        ("*", {"granularity": "channel"}, "granularity is 'channel', expected 'per_tensor' or 'per_channel'"),
        ("*", {"block_size": 0}, "block_size is 0, expected a positive integer"),
        ("*", {"block_size": (1, 0)}, r"block_size is \(1, 0\)"),
        ("*", {"block_size": 4, "granularity": "per_channel"}, "expected one of the two"),
    ],
)
def test_wrong_settings(select, settings, message):
    config = Config.load()
    with pytest.raises(ValueError, match=message):
        config.override(select, **settings)
    assert config.overrides == []


@pytest.mark.parametrize(
    "select, settings, message",
    [
        ("block3", {"param_bw": 4}, "called 'block3', expected a pattern of names such as 'block1', "),
        (nn.Linear(2, 2), {"param_bw": 4}, "the Linear given is not in the model"),
        ("head", {"block_size": 3}, r"override: head.weight has shape \(6, 4\), which blocks of \(1, 3\) do not"),
        ("*.conv", {"block_size": (1, 2)}, "conv.weight has shape"),
    ],
)
def test_overrides_that_do_not_fit_change_nothing(net, select, settings, message):
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match=message):
        built(net, (select, settings), in_place=True)
    assert type(net) is Net and type(net.head) is nn.Linear and list(net.state_dict()) == list(before)


def test_blocks_on_a_built_simulation(net):
    net.block2.conv.weight = net.block1.conv.weight
    sim = QuantizationSimModel(net, X, "training_range_learning_with_tf_init", config_file="eai")
    set_blockwise_quantization_for_weights(sim, [nn.Conv2d], 4, True, 2)
    first, second = sim.model.block1.conv.param_quantizers["weight"], sim.model.block2.conv.param_quantizers["weight"]
    assert first is second and first.shape == (4, 2, 1, 1) and (first.qmin, first.mode) == (-7, "learned")
    set_blockwise_quantization_for_weights(sim, lambda module: module is sim.model.head, 8, False, (-1, 4))
    sim.compute_encodings(lambda model: model(X))
    sim.model(X).sum().backward()
    assert first.max.grad.shape == (4, 2, 1, 1)
    before = sim.model.head.param_quantizers["weight"]
    for arg, size, message in (([nn.Conv3d], 2, "selects no layer"), ([nn.Linear], 3, "head.weight has shape")):
        with pytest.raises(ValueError, match=message):
            set_blockwise_quantization_for_weights(sim, arg, 4, True, size)
    assert sim.model.head.param_quantizers["weight"] is before


def test_blocks_of_transposed_convolutions_run_along_their_inputs():
    sim = built(nn.ConvTranspose2d(4, 6, 2), ("", {"block_size": 2}))
    assert sim.model.param_quantizers["weight"].shape == (2, 6, 1, 1)


def test_an_override_of_one_name_of_a_tied_parameter_holds():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.embedding(tokens))

    config = Config.load()
    config.override("head", param_bw=4)
    sim = QuantizationSimModel(Tied(), torch.arange(3), config_file=config)
    quantizer = sim.model.head.param_quantizers["weight"]
    assert quantizer is sim.model.embedding.param_quantizers["weight"]
    assert quantizer.bitwidth == 4 and quantizer.shape == (10, 1)
