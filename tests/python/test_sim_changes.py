"""Changing a sim after it was built: excluding, folding, going back to float, checkpoints."""

import copy
import os
import pickle
import subprocess
import sys

import detent
import pytest
import torch
import torch.nn.functional as F
from detent import QuantizationSimModel, QuantScheme
from detent.quantizers import Quantizer
from detent.quantsim import load_checkpoint, save_checkpoint
from torch import nn

from simulations import restated

LEARNED = QuantScheme.training_range_learning_with_tf_init


class Residual(nn.Module):
    """A reused ReLU, functions, an in-place sum, a tied parameter used by a function, a guarded encoder."""

    def __init__(self):
        super().__init__()
        self.first, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU()
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
        self.head = nn.Linear(8, 5)
        self.register_buffer("shift", torch.ones(1))

    def forward(self, x):
        y = self.relu(self.first(x))
        z = self.relu(self.second(y))
        z += y
        z = torch.sigmoid(F.relu(z) * self.scale + self.shift)
        return self.head(self.encoder(z.flatten(2).transpose(1, 2)).mean(1))


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(2, 3, 6, 6)


@pytest.fixture
def net():
    torch.manual_seed(1)
    return Residual().eval()


def calibrated(net, x, scheme="min_max", **options):
    sim = QuantizationSimModel(net, x, scheme, **options)
    sim.compute_encodings(lambda model: model(x))
    return sim


# --- looking ----------------------------------------------------------------------------------------------------------


def test_listings_agree(net, x):
    sim = calibrated(net, x, LEARNED)
    named = dict(sim.named_quantizers())
    assert list(named.values()) == list(sim.quantizers())
    assert [module for _, module in sim.named_qmodules()] == list(sim.qmodules())
    ranges = dict(sim.named_quantizer_parameters())
    assert list(ranges.values()) == list(sim.quantizer_parameters())
    model_parameters = dict(sim.model.named_parameters())
    assert all(model_parameters[name] is parameter for name, parameter in ranges.items())
    floats = {name for name, _ in net.named_parameters()}
    assert set(model_parameters) == floats | set(ranges)


@pytest.mark.parametrize("scheme", ["min_max", LEARNED])
def test_quantizer_state_dict_is_what_a_float_model_lacks(net, x, scheme):
    sim = calibrated(net, x, scheme)
    state = sim.quantizer_state_dict()
    assert set(state) == set(sim.model.state_dict()) - set(net.state_dict())
    fresh = QuantizationSimModel(net, x)
    fresh.model.load_state_dict(state, strict=False)
    assert torch.equal(fresh.model(x), sim.model(x))


# --- excluding --------------------------------------------------------------------------------------------------------


def test_an_excluded_layer_is_float_and_its_readers_keep_their_grid(net, x):
    sim = calibrated(net, x)
    expected = sim.model(x)
    sim.exclude_layers_from_quantization([sim.model.relu])
    names = {name for name, _ in sim.named_quantizers()}
    assert not any(name.startswith("relu.") for name in names)
    assert {"second.input_quantizers.0", "add_0.input_quantizers.0", "add_0.input_quantizers.1"} <= names
    assert torch.equal(sim.model(x), expected)  # the same ranges at the other end of the same tensors
    sim.model.second.register_forward_pre_hook(lambda module, args: values.append(args[0]))
    values = []
    sim.model(x)
    assert values[0].unique().numel() > 256  # float until the convolution quantizes it


def test_blocks_call_sites_and_names_are_excluded(net, x):
    sim = QuantizationSimModel(net, x)
    sim.exclude_layers_from_quantization([sim.model.encoder, "mul_0", sim.model.sigmoid_0])
    names = [name for name, _ in sim.named_quantizers()]
    assert not any(name.startswith(("encoder", "mul_0.output", "sigmoid_0")) for name in names)
    sim.compute_encodings(lambda model: model(x))
    assert torch.isfinite(sim.model(x)).all()
    sim.exclude_layers_from_quantization("")
    assert list(sim.quantizers()) == [] and torch.equal(sim.model(x), net(x))


def test_what_cannot_be_excluded_changes_nothing(net, x):
    sim = QuantizationSimModel(net, x)
    before = [name for name, _ in sim.named_quantizers()]
    for wrong in ([sim.model.head, net.head], ["head", "tail"], [3]):
        with pytest.raises(ValueError, match="is not in sim.model, expected modules of sim.model or their names"):
            sim.exclude_layers_from_quantization(wrong)
    assert [name for name, _ in sim.named_quantizers()] == before


def test_an_excluded_parameter_is_float_everywhere(net, x):
    sim = calibrated(net, x)
    sim.exclude_param_from_quantization("weight")
    left = [name for name, _ in sim.named_quantizers() if "param_quantizers" in name]
    assert left == ["encoder.layers.0.self_attn.param_quantizers.in_proj_weight", "param_quantizers.scale"]
    sim.exclude_param_from_quantization("bias")  # none is quantized: nothing to do
    sim.model(x)


# --- back to float ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_place", [False, True])
def test_original_model_is_the_float_model(net, x, in_place):
    expected, keys, classes = net(x), list(net.state_dict()), [type(module) for module in net.modules()]
    sim = calibrated(net, x, LEARNED, in_place=in_place)
    before = sim.model(x)
    original = sim.get_original_model(sim.model)
    assert list(original.state_dict()) == keys and [type(module) for module in original.modules()] == classes
    assert torch.equal(original(x), expected) and torch.equal(sim.model(x), before)
    assert torch.equal(pickle.loads(pickle.dumps(original))(x), expected)
    again = QuantizationSimModel(original, x, LEARNED)
    assert [name for name, _ in again.named_quantizers()] == [name for name, _ in sim.named_quantizers()]


@pytest.mark.parametrize("scheme", ["min_max", LEARNED])
def test_original_model_with_rounded_weights(net, x, scheme):
    sim = calibrated(net, x, scheme, default_param_bw=3)
    rounded = sim.get_original_model(sim.model, qdq_weights=True)
    assert max(row.unique().numel() for row in rounded.first.weight) in (7, 8)
    quantizer = sim.model.first.param_quantizers["weight"]
    assert torch.equal(rounded.first.weight, quantizer(sim.model.first.weight))
    assert torch.equal(sim.model.first.weight, net.first.weight)


# --- folding ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
@pytest.mark.parametrize("scheme", ["min_max", LEARNED])
def test_folded_parameters_change_no_bit(net, x, scheme, bits):
    sim = calibrated(net, x, scheme, default_param_bw=bits)
    expected, encodings = sim.model(x), sim.encodings()[1]
    sim.fold_param_quantizers()
    assert torch.equal(sim.model(x), expected)
    assert bits > 4 or max(row.unique().numel() for row in sim.model.second.weight) <= 2**bits
    sim.compute_encodings(lambda model: model(x))
    assert torch.equal(sim.model(x), expected)
    for name, encoding in sim.encodings()[1].items():
        assert torch.equal(encoding.scale, encodings[name].scale)


def test_folding_before_calibration_changes_nothing(net, x):
    sim = QuantizationSimModel(net, x, LEARNED)
    with pytest.raises(RuntimeError, match="has no range yet"):
        sim.fold_param_quantizers()
    assert torch.equal(sim.model.first.weight, net.first.weight)


# --- checkpoints ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["min_max", LEARNED])
def test_checkpoint_into_a_fresh_sim(net, x, scheme, tmp_path):
    sim = calibrated(net, x, scheme, default_param_bw=4)
    sim.exclude_param_from_quantization("scale")
    sim.model.head.output_quantizers[0].enabled = False
    sim.model.head.param_quantizers["weight"].allow_overwrite(False)
    with torch.no_grad():
        sim.model.shift.add_(1)
        sim.model.first.weight.mul_(2)
    save_checkpoint(sim, tmp_path / "sim.pt")
    assert [file.name for file in tmp_path.iterdir()] == ["sim.pt"]
    fresh = QuantizationSimModel(Residual().eval(), x)
    assert load_checkpoint(tmp_path / "sim.pt", fresh) is fresh
    assert torch.equal(fresh.model(x), sim.model(x))
    assert [name for name, _ in fresh.named_quantizers()] == [name for name, _ in sim.named_quantizers()]
    assert not fresh.model.head.output_quantizers[0].enabled
    assert not fresh.model.head.param_quantizers["weight"]._overwritable


@pytest.mark.parametrize("scheme", ["min_max", LEARNED])
def test_a_state_dict_is_tensors_that_safetensors_holds(net, x, scheme, tmp_path):
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    sim = calibrated(net, x, scheme, default_param_bw=4)
    safetensors.save_file(sim.model.state_dict(), tmp_path / "sim.safetensors")
    fresh = QuantizationSimModel(Residual().eval(), x)
    fresh.model.load_state_dict(safetensors.load_file(tmp_path / "sim.safetensors"))
    assert torch.equal(fresh.model(x), sim.model(x))
    assert [q.extra_repr() for q in fresh.quantizers()] == [q.extra_repr() for q in sim.quantizers()]


class Exploit:
    def __reduce__(self):
        return os.system, ("touch exploited",)


def damaged(path, content, kind):
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Exploit(), protocol=2))
    elif kind == "code":
        torch.save({**content, "more": Exploit()}, path)
    elif kind == "cut":
        path.write_bytes(path.read_bytes()[:-2000])
    elif kind == "empty":
        path.write_bytes(b"")
    else:
        content = copy.deepcopy(content)
        if kind == "state_dict":
            content = content["state"]
        elif kind == "version":
            content["version"] = 2
        elif kind == "lacks a weight":
            del content["state"]["first.weight"]
        elif kind == "shape":
            content["state"]["second.weight"] = torch.zeros(3)
        elif kind == "another quantizer":
            content["quantizers"]["first.use_7.input_quantizers.0"] = {}
        elif kind == "grid":
            key = "head.output_quantizers.0._extra_state"
            content["state"][key] = restated(content["state"][key], qmax=-5)
        torch.save(content, path)


@pytest.mark.parametrize(
    "kind, says",
    [
        ("pickle", "is no checkpoint or damaged"),
        ("code", "is no checkpoint or damaged"),
        ("cut", "is no checkpoint or damaged"),
        ("empty", "is no checkpoint or damaged"),
        ("state_dict", "a file that save_checkpoint wrote"),
        ("version", "has version 2, expected 1"),
        ("lacks a weight", "first.weight is not in the file"),
        ("shape", r"second.weight has shape \(3,\), expected \(8, 8, 3, 3\)"),
        ("another quantizer", "first.use_7.input_quantizers.0 is in the file and not in the sim"),
        ("grid", "expected qmin < qmax"),
    ],
)
def test_bad_checkpoints_change_nothing(net, x, tmp_path, monkeypatch, kind, says):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "sim.pt"
    other = calibrated(Residual().eval(), x)
    save_checkpoint(other, path)
    damaged(path, torch.load(path, weights_only=True), kind)
    sim = calibrated(net, x, LEARNED)
    expected = sim.model(x)
    with pytest.raises(ValueError, match=says):
        load_checkpoint(path, sim)
    assert torch.equal(sim.model(x), expected) and not (tmp_path / "exploited").exists()
    assert {quantizer.mode for quantizer in sim.quantizers()} == {"learned"}


# --- copies and processes ---------------------------------------------------------------------------------------------

FRESH = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_sim_changes import Residual
from detent import QuantizationSimModel
x = torch.load("x.pt", weights_only=True)
sim = QuantizationSimModel(Residual().eval(), x)
sim.model.load_state_dict(torch.load("state.pt", weights_only=True))
torch.save(sim.model(x).detach(), "y.pt")
"""


def test_a_new_process_computes_the_same_bits(net, x, tmp_path):
    sim = calibrated(net, x, LEARNED, default_output_bw=4)
    torch.save(sim.model.state_dict(), tmp_path / "state.pt")
    torch.save(x, tmp_path / "x.pt")
    command = [sys.executable, "-c", FRESH, os.path.dirname(__file__)]
    package = os.path.dirname(os.path.dirname(detent.__file__))
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONPATH": package}
    subprocess.run(command, cwd=tmp_path, check=True, env=environment)
    assert torch.equal(torch.load(tmp_path / "y.pt", weights_only=True), sim.model(x))


def test_averaged_copies_average_the_ranges_and_stay_float32(net, x):
    sim = calibrated(net, x, LEARNED)
    ema = torch.optim.swa_utils.get_ema_multi_avg_fn(0.75)
    averaged = torch.optim.swa_utils.AveragedModel(sim.model, multi_avg_fn=ema)
    averaged.update_parameters(sim.model)
    before = sim.model.head.output_quantizers[0].max.item()
    with torch.no_grad():
        sim.model.head.output_quantizers[0].max.add_(1)
    averaged.update_parameters(sim.model)
    assert averaged.module.head.output_quantizers[0].max.item() == pytest.approx(before + 0.25)
    ranges = [module for module in averaged.modules() if isinstance(module, Quantizer)]
    assert {parameter.dtype for quantizer in ranges for parameter in quantizer.parameters()} == {torch.float32}
    assert torch.isfinite(averaged.eval()(x)).all()


@pytest.mark.parametrize("scheme", ["min_max", LEARNED])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_ranges_stay_float32_and_keep_their_bits(net, x, scheme, dtype):
    sim = calibrated(net, x, scheme)
    before = {key: value for key, value in sim.quantizer_state_dict().items() if value.is_floating_point()}
    sim.model.to(dtype)
    after = sim.quantizer_state_dict()
    for key, value in before.items():
        assert after[key].dtype == torch.float32 and torch.equal(after[key], value), key
    assert sim.model(x.to(dtype)).dtype == dtype
