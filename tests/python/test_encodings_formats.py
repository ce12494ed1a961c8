"""Encodings files of every version and keying bring a simulation back bit for bit."""

import doctest
import json

import pytest
import torch
from simulations import Tied
from torch import nn

import detent
from detent import quantsim
from detent.encodings import VERSIONS, AffineEncoding, detect, files, read_any, to_dict, v0_6_1, v1_0_0, v2_0_0
from detent.quantizers import QuantizeDequantize
from detent.quantsim import QuantizationSimModel, load_encodings_to_sim

LEARNED = "training_range_learning_with_tf_init"
ENTRY_0_6_1 = {"bitwidth", "dtype", "is_symmetric", "max", "min", "offset", "scale"}
ENTRY_1_0_0 = {"name", "enc_type", "dtype", "bw", "is_sym", "scale", "offset"}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, padding=1)
        self.relu = nn.ReLU()
        self.block = nn.Sequential(nn.Conv2d(6, 6, 1), nn.ReLU())
        self.fc = nn.Linear(6 * 16, 5)

    def forward(self, x):
        y = self.block(self.relu(self.conv(x)))
        return self.fc(self.block(y).flatten(1))  # block runs twice


def simulation(scheme=None, bits=(8, 8), calibrate=True, seed=3):
    torch.manual_seed(seed)
    model = Net().eval()
    x = torch.randn(8, 2, 4, 4)
    sim = QuantizationSimModel(model, x, scheme, default_output_bw=bits[0], default_param_bw=bits[1])
    modules = sim.model
    # per tensor and asymmetric weights, beside the per channel and symmetric ones that a sim places
    modules.fc.param_quantizers["weight"] = QuantizeDequantize((), bits[1], True, mode="fixed")
    modules.block[0].param_quantizers["weight"] = QuantizeDequantize((6, 1, 1, 1), bits[1], False, mode="fixed")
    modules.conv.input_quantizers[0] = QuantizeDequantize((1,), bits[0], True, mode="fixed")
    modules.block[0].input_quantizers[0] = QuantizeDequantize((6, 1, 1), bits[0], False, mode="fixed")
    modules.fc.input_quantizers[0] = QuantizeDequantize((1,), bits[0], False, mode="fixed")
    if calibrate:
        sim.compute_encodings(lambda model: model(x))
    return sim, x


def fresh_sim(bits=(8, 8)):
    return simulation(bits=bits, calibrate=False)[0]


def structure(sim):
    return [(name, q.bitwidth, q.symmetric, q.qmax - q.qmin, q.granularity) for name, q in sim.named_quantizers()]


@pytest.mark.parametrize("scheme", [None, LEARNED])
@pytest.mark.parametrize("bits", [(8, 8), (8, 4), (4, 8), (3, 5), (16, 7)])
@pytest.mark.parametrize("version", VERSIONS)
def test_saved_encodings_load_into_a_fresh_sim(tmp_path, version, bits, scheme):
    sim, x = simulation(scheme, bits)
    sim.save_encodings_to_json(tmp_path, "net", encoding_version=version)
    content = json.loads((tmp_path / "net.json").read_text())
    assert detect(content) == (version, "torch")
    for source in (tmp_path / "net.json", content):
        fresh = fresh_sim()
        fresh.load_encodings(source)
        assert torch.equal(fresh.model(x), sim.model(x)) and structure(fresh) == structure(sim)
        assert "dynamic" not in {quantizer.mode for quantizer in fresh.quantizers()}


@pytest.mark.parametrize("bits", [(8, 8), (4, 4)])
@pytest.mark.parametrize("version", VERSIONS)
def test_exported_encodings_of_both_keyings_load_back(tmp_path, version, bits):
    pytest.importorskip("onnxscript", reason="pip install onnxscript")
    pytest.importorskip("safetensors", reason="pip install safetensors")
    sim, x = simulation(bits=bits)
    sim.export(tmp_path, "m", x, encoding_version=version)
    onnx_keyed = json.loads((tmp_path / "m.encodings").read_text())
    assert onnx_keyed["version"] == version
    text = json.dumps(onnx_keyed)
    assert '"block.0.input_0"' in text and '"block.1.use_1.output_0"' in text  # a module that ran twice
    assert detect(onnx_keyed) == (version, "onnx" if version == "0.6.1" else "torch")  # the names say nothing else
    assert detect(json.loads((tmp_path / "m_torch.encodings").read_text())) == (version, "torch")
    for name in ("m.encodings", "m_torch.encodings"):
        fresh = fresh_sim()
        load_encodings_to_sim(fresh, tmp_path / name)
        assert torch.equal(fresh.model(x), sim.model(x)) and structure(fresh) == structure(sim)


def test_the_version_is_checked_before_anything_is_written(tmp_path):
    sim, x = simulation()
    for version in ("2.1.0", None, 2, ["1.0.0"]):
        with pytest.raises(ValueError, match="expected one of 0.6.1, 1.0.0, 2.0.0"):
            sim.save_encodings_to_json(tmp_path / "a", "net", encoding_version=version)
    with pytest.raises(ValueError, match="2.1.0"):
        sim.export(tmp_path / "a", "net", x, encoding_version="2.1.0")
    with pytest.raises(ValueError, match="expected a file name"):
        sim.save_encodings_to_json(tmp_path / "a", "../net")
    assert not (tmp_path / "a").exists()


def test_keys_of_0_6_1():
    sim, _ = simulation()
    nested = to_dict("0.6.1", *sim.encodings(), keyed_by="torch", quantizer_args=sim.quantizer_args())
    assert list(nested) == ["version", "activation_encodings", "param_encodings", "excluded_layers", "quantizer_args"]
    assert set(nested["activation_encodings"]["conv"]) == {"input"}
    assert set(nested["activation_encodings"]["fc"]) == {"input", "output"}
    entry = nested["activation_encodings"]["fc"]["output"]["0"]
    assert set(entry) == ENTRY_0_6_1 and entry["is_symmetric"] == "False" and entry["dtype"] == "int"
    assert entry["min"] == entry["scale"] * entry["offset"] and isinstance(entry["offset"], int)
    assert len(nested["activation_encodings"]["block.0"]["input"]["0"]) == 6
    weight = nested["param_encodings"]["conv.weight"]
    assert len(weight) == 6 and {part["offset"] for part in weight} == {-128}
    assert {part["is_symmetric"] for part in weight} == {"True"} and all(set(part) == ENTRY_0_6_1 for part in weight)
    flat = to_dict("0.6.1", *sim.encodings(), keyed_by="onnx")["activation_encodings"]
    assert all(isinstance(entry, list) for entry in flat.values()) and "fc.output_0" in flat


def test_keys_of_1_0_0():
    sim, _ = simulation()
    content = to_dict("1.0.0", *sim.encodings(), keyed_by="torch")
    for entry in content["activation_encodings"] + content["param_encodings"]:
        assert set(entry) == ENTRY_1_0_0 and isinstance(entry["is_sym"], bool)


def test_keys_of_2_0_0():
    sim, _ = simulation(bits=(8, 4))
    content = to_dict("2.0.0", *sim.encodings(), keyed_by="torch")
    assert list(content) == ["version", "encodings"]
    entries = {entry["name"]: entry for entry in content["encodings"]}
    assert set(entries["conv.input_0"]) == {"name", "output_dtype", "y_scale"}
    assert entries["conv.input_0"]["output_dtype"] == "int8" and isinstance(entries["conv.input_0"]["y_scale"], float)
    assert set(entries["fc.output_0"]) == {"name", "output_dtype", "y_scale", "y_zero_point"}
    assert entries["fc.output_0"]["output_dtype"] == "uint8" and isinstance(entries["fc.output_0"]["y_zero_point"], int)
    assert "y_zero_point" not in entries["fc.input_0"]  # after a ReLU, on an unsigned grid
    assert set(entries["conv.weight"]) == {"name", "output_dtype", "y_scale", "axis"}
    assert entries["conv.weight"]["output_dtype"] == "int4" and entries["conv.weight"]["axis"] == 0
    assert entries["block.0.weight"]["output_dtype"] == "uint4" and len(entries["block.0.weight"]["y_zero_point"]) == 6
    assert entries["block.0.input_0"].get("axis") == -3  # the rank of an activation is not known


@pytest.mark.parametrize("version", ["1.0.0", "2.0.0"])
def test_blocks(version):
    def blocky():
        torch.manual_seed(0)
        sim = QuantizationSimModel(nn.Linear(32, 6), torch.randn(1, 32))
        sim.model.param_quantizers["weight"] = QuantizeDequantize((6, 4), 4, True, block_size=(1, 8), mode="dynamic")
        return sim

    sim, x = blocky(), torch.randn(16, 32)
    sim.compute_encodings(lambda model: model(x))
    content = to_dict(version, *sim.encodings(), keyed_by="torch")
    fresh = blocky()
    fresh.load_encodings(content)
    assert torch.equal(fresh.model(x), sim.model(x))
    if version == "2.0.0":
        weight = content["encodings"][-1]
        assert set(weight) == {"name", "output_dtype", "y_scale", "axis", "block_size"}
        assert (weight["axis"], weight["block_size"], len(weight["y_scale"]), len(weight["y_scale"][0])) == (1, 8, 6, 4)
        weight["y_scale"] = torch.tensor(weight["y_scale"]).reshape(4, 6).tolist()
    else:
        content["param_encodings"][0]["block_size"] = 16
    with pytest.raises(ValueError, match=r"expected (\(6, 4\)|blocks of \(1, 8\))"):
        blocky().load_encodings(content)
    with pytest.raises(ValueError, match="has no blocks"):
        to_dict("0.6.1", *sim.encodings(), keyed_by="torch")


def quantizer(*arguments, **options):
    made = QuantizeDequantize(*arguments, **options)
    with made.compute_encodings():
        made(torch.randn(6, 32) * 3.7)
    return made


@pytest.mark.parametrize(
    ("arguments", "options", "refused_by"),
    [
        (((6, 1), -127, 127, True), {}, {"2.0.0"}),
        (((), -7, 7, True), {}, {"2.0.0"}),
        (((), -1, 1, True), {}, {"2.0.0"}),
        (((), 0, 254, False), {}, set(VERSIONS)),
        (((), -100, 100, True), {}, set(VERSIONS)),
        (((), -128, 127, True), dict(zero_point=-1), set(VERSIONS)),
        (((), 0, 255, True), dict(zero_point=0), {"2.0.0"}),
        (((), 0, 255, True), {}, set()),
        (((), -128, 127, False), {}, set()),
        *[(((6, 1), bits, symmetric), {}, set()) for bits in range(2, 33) for symmetric in (True, False)],
    ],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_every_grid_comes_back_or_is_refused(version, arguments, options, refused_by):
    first = quantizer(*arguments, **options)
    encodings = {"w": first.get_encoding()}
    if version in refused_by:
        with pytest.raises(ValueError, match="^w: .*expected"):
            to_dict(version, {}, encodings, keyed_by="torch")
        return
    content = json.loads(json.dumps(to_dict(version, {}, encodings, keyed_by="torch")))
    # Signedness stays the quantizer's own; beyond 23 bits it decides between float32 and float64 arithmetic.
    second = QuantizeDequantize(arguments[0], 8, first.symmetric if first.bitwidth > 23 else not first.symmetric)
    second.set_encoding(read_any(content).parameters["w"])
    x = torch.randn(6, 32) * 5
    assert torch.equal(second(x), first(x))
    assert (second.bitwidth, second.symmetric) == (first.bitwidth, first.symmetric)
    assert second.qmax - second.qmin == first.qmax - first.qmin


def test_scales_per_channel_keep_to_their_axis():
    torch.manual_seed(0)
    sim = QuantizationSimModel(nn.Linear(6, 6), torch.randn(1, 6))
    sim.compute_encodings(lambda model: model(torch.randn(8, 6)))
    content = to_dict("2.0.0", *sim.encodings(), keyed_by="torch")
    content["encodings"][-1]["axis"] = 1
    with pytest.raises(ValueError, match="weight has axis 1, expected 0"):
        sim.load_encodings(content)


# --- files as AIMET writes them ---------------------------------------------------------------------------------------

PART = {"bitwidth": 8, "dtype": "int", "is_symmetric": "False", "max": 2.631, "min": -2.127, "offset": -114,
        "scale": 0.01866}  # fmt: skip
WEIGHT = {"bitwidth": 8, "dtype": "int", "is_symmetric": "True", "max": 0.127, "min": -0.128, "offset": -128,
          "scale": 0.001}  # fmt: skip


def plain_sim():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU())
    return QuantizationSimModel(model, torch.randn(1, 2, 4, 4))


@pytest.mark.parametrize(
    "content",
    [
        {"activation_encodings": {"0": {"input": {"0": PART}}}, "param_encodings": {"0.weight": [WEIGHT] * 4}},
        {"version": "0.6.1", "producer": {}, "activation_encodings": {"0.input_0": [PART]},
         "param_encodings": {"0.weight": [WEIGHT] * 4}, "excluded_layers": [], "quantizer_args": {}},
        {"version": "1.0.0", "excluded_layers": [], "quantizer_args": {},
         "activation_encodings": [{"name": "0.input_0", "dtype": "INT", "bw": 8, "is_sym": False, "scale": [0.01866],
                                   "offset": [-114], "enc_type": "PER_TENSOR"}],
         "param_encodings": [{"name": "0.weight", "enc_type": "PER_CHANNEL", "dtype": "INT", "bw": 8, "is_sym": True,
                              "scale": [0.001] * 4, "offset": [-128] * 4}]},
        {"producer": {"package": "aimet-torch", "version": "2.42.0"}, "version": "2.0.0", "encodings": [
            {"name": "0.weight", "output_dtype": "int8", "y_scale": [0.001] * 4, "axis": 0},
            {"name": "0.input_0", "output_dtype": "uint8", "y_scale": 0.01866, "y_zero_point": 114}]},
    ],
)  # fmt: skip
def test_files_of_aimet_load(content, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(content))
    sim = plain_sim()
    sim.load_encodings(tmp_path / "a.json")
    low, high = sim.model[0].input_quantizers[0].get_min(), sim.model[0].input_quantizers[0].get_max()
    torch.testing.assert_close(torch.cat([low, high]).detach(), torch.tensor([-114, 141]) * 0.01866)
    weight = sim.model[0].param_quantizers["weight"]
    assert weight.mode == "fixed" and weight.symmetric and weight.get_scale().flatten().allclose(torch.tensor(0.001))


def test_names_of_aimets_onnx_graph_need_strict_off():
    content = {"version": "0.6.1", "activation_encodings": {"input.1": [PART], "/0/Conv_output_0": [PART]},
               "param_encodings": {"0.weight": [WEIGHT] * 4}}  # fmt: skip
    assert detect(content) == ("0.6.1", "onnx")
    sim = plain_sim()
    with pytest.raises(RuntimeError, match="no quantizer for input.1, /0/Conv_output_0, .*keyed by onnx"):
        sim.load_encodings(content)
    sim.load_encodings(content, strict=False)
    assert sim.model[0].param_quantizers["weight"].mode == "fixed"
    assert not sim.model[0].input_quantizers[0].is_initialized()


def test_a_file_of_parameters_only():
    sim = plain_sim()
    sim.load_encodings({"0.weight": [WEIGHT] * 4})  # what AdaRound of older AIMET wrote
    assert sim.model[0].param_quantizers["weight"].mode == "fixed"


# --- loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_freezing_parameters_leaves_activations_alone(version, tmp_path):
    sim, x = simulation()
    sim.save_encodings_to_json(tmp_path, "net", version)
    fresh, _ = simulation(LEARNED, calibrate=False)
    fresh.set_and_freeze_param_encodings(tmp_path / "net.json")
    frozen = fresh.model.conv.param_quantizers["weight"]
    assert frozen.mode == "fixed" and not fresh.model.fc.output_quantizers[0].is_initialized()
    before = frozen.get_scale().clone()
    with torch.no_grad():
        fresh.model.conv.weight.mul_(2)
    fresh.compute_encodings(lambda model: model(x))
    assert torch.equal(frozen.get_scale(), before) and fresh.model.fc.output_quantizers[0].mode == "learned"
    with pytest.raises(RuntimeError, match="no encodings of parameters"):
        fresh.set_and_freeze_param_encodings(to_dict(version, sim.encodings()[0], {}, keyed_by="torch"))


def test_frozen_encodings_survive_calibration_and_loading():
    sim, x = simulation()
    content = to_dict("0.6.1", *sim.encodings(), keyed_by="torch")
    fresh, _ = simulation(LEARNED, calibrate=False)
    fresh.load_and_freeze_encodings(content)
    assert {quantizer.mode for quantizer in fresh.quantizers()} == {"fixed"}
    expected = fresh.model(x)
    assert torch.equal(expected, sim.model(x))
    fresh.compute_encodings(lambda model: model(10 * x))
    other, _ = simulation(seed=4)
    fresh.load_encodings(to_dict("1.0.0", *other.encodings(), keyed_by="torch"), allow_overwrite=None)
    assert torch.equal(fresh.model(x), expected)


def test_a_quantizer_that_is_off_takes_nothing():
    sim, _ = simulation()
    content = to_dict("2.0.0", *sim.encodings(), keyed_by="torch")
    fresh = fresh_sim()
    off = fresh.model.fc.input_quantizers[0]
    off.enabled = False
    with pytest.raises(RuntimeError, match="the quantizer is off of fc.input_0"):
        fresh.load_and_freeze_encodings(content)
    fresh.load_and_freeze_encodings(content, ignore_when_quantizer_disabled=True)
    assert not off.is_initialized() and not off.enabled and fresh.model.fc.output_quantizers[0].is_initialized()


def test_load_encodings_to_sim_removes_what_the_file_lacks():
    sim, x = simulation()
    activations, parameters = sim.encodings()
    del activations["fc.output_0"], parameters["conv.weight"]
    fresh = fresh_sim()
    load_encodings_to_sim(fresh, to_dict("1.0.0", activations, parameters, keyed_by="torch"))
    assert fresh.model.fc.output_quantizers[0] is None and fresh.model.conv.param_quantizers["weight"] is None
    assert sum(1 for _ in fresh.quantizers()) == sum(1 for _ in sim.quantizers()) - 2
    fresh.model(x)


def test_tied_weights_take_one_encoding():
    torch.manual_seed(0)
    model, x = Tied(), torch.randn(8, 4)
    sim, fresh = QuantizationSimModel(model, x), QuantizationSimModel(model, x)
    sim.compute_encodings(lambda model: model(x))
    activations, parameters = sim.encodings()
    assert set(parameters) == {"first.weight", "second.weight"}
    for names in (["first.weight"], ["second.weight"], ["first.weight", "second.weight"]):
        content = to_dict("1.0.0", activations, {name: parameters[name] for name in names}, keyed_by="torch")
        load_encodings_to_sim(fresh, content)
        assert torch.equal(fresh.model(x), sim.model(x))
    content["param_encodings"][1]["scale"][0] *= 2
    with pytest.raises(ValueError, match="first.weight and second.weight have one quantizer"):
        fresh.load_encodings(content)


def test_a_root_module_has_names_without_a_dot():
    sim = QuantizationSimModel(nn.Linear(4, 2), torch.randn(1, 4))
    x = torch.randn(8, 4)
    sim.compute_encodings(lambda model: model(x))
    for version in VERSIONS:
        for keyed_by in ("torch", "onnx"):
            fresh = QuantizationSimModel(nn.Linear(4, 2), x)
            fresh.model.load_state_dict({"weight": sim.model.weight, "bias": sim.model.bias}, strict=False)
            fresh.load_encodings(to_dict(version, *sim.encodings(), keyed_by=keyed_by))
            assert torch.equal(fresh.model(x), sim.model(x))


@pytest.mark.parametrize("module", [v0_6_1, v1_0_0, v2_0_0])
def test_each_format_writes_and_reads_by_itself(module, tmp_path):
    sim, _ = simulation()
    activations, parameters = sim.encodings()
    module.write(tmp_path / "a.json", module.to_dict(activations, parameters))
    again = module.read(tmp_path / "a.json")
    assert [list(part) for part in again] == [list(activations), list(parameters)]
    for name, encoding in parameters.items():
        assert isinstance(again[1][name], AffineEncoding)
        assert torch.equal(again[1][name].scale.flatten(), encoding.scale.flatten())
        assert torch.equal(again[1][name].offset.flatten(), encoding.offset.flatten())


def test_examples(tmp_path):
    names = {**vars(files), **vars(quantsim), "torch": torch, "folder": tmp_path}
    finder, runner = doctest.DocTestFinder(recurse=False), doctest.DocTestRunner()
    tried = 0
    for item in (files.detect, files.read_any, files.to_dict, load_encodings_to_sim,
                 QuantizationSimModel.save_encodings_to_json):  # fmt: skip
        for test in finder.find(item, item.__qualname__, globs=dict(names)):
            tried += runner.run(test).attempted
    assert runner.failures == 0 and tried >= 10 and detent.load_encodings_to_sim is load_encodings_to_sim
