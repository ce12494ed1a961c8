"""Quantizers of block formats, by hand and in simulations: they train, save and say what they cannot write."""

import pytest
import torch
from torch import nn

import cases
from checks import same_bits
from detent import BlockFormat, FloatFormat, QuantizationSimModel, qat
from detent.config_utils import set_block_format
from detent.functional import block_cast
from detent.quantizers import BlockQuantizeDequantize, QuantizeDequantize
from simulations import restated


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3)))


X = torch.randn(2, 3, 6, 6)


def simulated(format="mxfp4", **options):
    sim = QuantizationSimModel(Net(), X)
    set_block_format(sim, [nn.Conv2d, nn.Linear], format, **options)
    sim.compute_encodings(lambda model: model(X))
    return sim


def test_it_computes_what_the_function_does():
    x = cases.data((3, 40, 5))
    for format, axis in (("nvfp4", -1), ("mxint8", 1), (BlockFormat(FloatFormat(3, 4), 7), 0)):
        quantizer = BlockQuantizeDequantize(format, axis)
        assert quantizer.is_initialized() and quantizer.mode == "fixed" and not list(quantizer.parameters())
        same_bits(quantizer(x), block_cast(x, format, axis=axis))
        quantizer.enabled = False
        assert quantizer(x) is x
    assert repr(BlockQuantizeDequantize("nvfp4", 1)) == "BlockQuantizeDequantize(nvfp4, axis=1)"


def test_weights_are_cut_along_their_input_channels():
    sim = simulated()
    for module, axis in ((sim.model.conv, 1), (sim.model.head, 1)):
        quantizer = module.param_quantizers["weight"]
        assert quantizer.block_axis == axis
        same_bits(quantizer(module.weight), block_cast(module.weight, "mxfp4", axis=axis))
    assert sim.model.head.output_quantizers[0].block_axis == -1
    assert sim.model.conv.input_quantizers[0].block_axis == -3
    transposed = QuantizationSimModel(nn.ConvTranspose1d(6, 4, 3), torch.randn(1, 6, 9))
    set_block_format(transposed, [nn.ConvTranspose1d], "mxfp4")
    assert transposed.model.param_quantizers["weight"].block_axis == 0
    some = simulated(activations=False)
    assert isinstance(some.model.head.output_quantizers[0], QuantizeDequantize)
    assert simulated(axis=1, weights=False).model.head.output_quantizers[0].block_axis == 1


@pytest.mark.parametrize("format", ["mxfp8_e4m3", "nvfp4"])
def test_a_simulation_trains_and_looks_as_others(format, tmp_path):
    sim = simulated(format)
    qat.set_modes(sim, activations="learned", parameters="learned")
    optimizer = torch.optim.Adam(qat.parameter_groups(sim, lr=1e-2))
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (sim.model(X) - 1).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    sim.to_html(tmp_path / "page.html")
    assert format in str(sim) and format in (tmp_path / "page.html").read_text()


def test_a_state_dict_makes_quantizers_of_its_kind():
    sim, plain = simulated("nvfp4"), QuantizationSimModel(Net(), X)
    plain.compute_encodings(lambda model: model(X))
    fresh = QuantizationSimModel(Net(), X)
    fresh.model.load_state_dict(sim.model.state_dict())
    same_bits(fresh.model.eval()(X), sim.model.eval()(X))
    fresh.model.load_state_dict(plain.model.state_dict())
    same_bits(fresh.model(X), plain.model.eval()(X))
    quantizer = BlockQuantizeDequantize("mxfp6_e3m2", 2)
    other = BlockQuantizeDequantize("mxint8")
    other.load_state_dict(quantizer.state_dict())
    assert (other.format, other.block_axis) == (quantizer.format, 2)
    for changes, says in ((dict(block_format=3), "block_format is 3"), (dict(block_axis="x"), "axis is 'x'")):
        state = {"_extra_state": restated(quantizer.state_dict()["_extra_state"], **changes)}
        with pytest.raises(RuntimeError, match=says):
            other.load_state_dict(state)
        assert (other.format, other.block_axis) == (quantizer.format, 2)


def test_files_and_graphs_say_what_they_cannot_write(tmp_path):
    sim = simulated(activations=False)
    with pytest.raises(ValueError, match="'conv.param_quantizers.weight' rounds to mxfp4, whose scales follow the"):
        sim.export(tmp_path, "model", X)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="encodings and exports have no place for them"):
        sim.encodings()
    plain = QuantizationSimModel(Net(), X)
    plain.compute_encodings(lambda model: model(X))
    plain.save_encodings_to_json(tmp_path, "plain")
    with pytest.raises(ValueError, match="rounds to mxfp4"):
        sim.load_encodings(tmp_path / "plain.json")
    assert isinstance(sim.model.conv.param_quantizers["weight"], BlockQuantizeDequantize)
    for quantizer in sim.quantizers():
        if isinstance(quantizer, BlockQuantizeDequantize):
            quantizer.enabled = False
    assert sim.encodings()[1] == {}


def test_wrong_arguments_change_nothing():
    sim = QuantizationSimModel(Net(), X)
    with pytest.raises(ValueError, match="got 'mxfp5'"):
        set_block_format(sim, [nn.Linear], "mxfp5")
    with pytest.raises(ValueError, match="selects no layer with such quantizers"):
        set_block_format(sim, [nn.LSTM], "mxfp4")
    assert all(isinstance(quantizer, QuantizeDequantize) for quantizer in sim.quantizers())
    quantizer = BlockQuantizeDequantize("mxfp4")
    for call in (lambda: quantizer.set_range(-1.0, 1.0), lambda: quantizer.set_encoding(None)):
        with pytest.raises(ValueError, match="takes no range and no encoding"):
            call()
    with pytest.raises(ValueError, match="mode is 'learned', expected 'fixed'"):
        quantizer.mode = "learned"
    with pytest.raises(ValueError, match="axis is 1.5, expected an integer"):
        BlockQuantizeDequantize("mxfp4", 1.5)
