"""Files of an export: ONNX Runtime reproduces the simulation, names agree, nothing else changes."""

import copy
import io
import json
import subprocess
import sys
from contextlib import redirect_stdout

import numpy as np
import pytest
import torch
from torch import nn

from detent.config_utils import set_grouped_blockwise_quantization_for_weights
from detent.defs import QuantScheme
from detent.quantizers import QuantizeDequantize
from detent.quantsim import QuantizationSimModel

onnx = pytest.importorskip("onnx", reason="pip install onnx")
ort = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
pytest.importorskip("onnxscript", reason="pip install onnxscript")
pytest.importorskip("safetensors", reason="pip install safetensors")

LEARNED = QuantScheme.training_range_learning_with_tf_init
FILES = {"m.onnx", "m_qdq.onnx", "m.encodings", "m_torch.encodings", "m.safetensors"}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.head = nn.Linear(8 * 16, 10)

    def forward(self, x):
        y = self.relu(self.norm(self.conv(x)))
        return self.head(self.relu(self.conv2(y) + y).flatten(1))


def simulation(bits=8, scheme=None, **options):
    model = Net().eval()
    options = {"default_output_bw": bits, "default_param_bw": bits, **options}
    sim = QuantizationSimModel(model, torch.randn(1, 1, 4, 4), quant_scheme=scheme, **options)
    sim.compute_encodings(lambda model: model(torch.randn(256, 1, 4, 4)))
    return sim


def export(sim, folder, **options):
    arguments = {
        "input_names": ["image"],
        "output_names": ["logits"],
        "dynamic_shapes": ({0: torch.export.Dim("batch")},),
        **options.pop("onnx_export_args", {}),
    }
    sim.export(folder, "m", torch.randn(2, 1, 4, 4), onnx_export_args=arguments, **options)


def run(file, x, level="ORT_DISABLE_ALL"):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


@torch.no_grad()
def assert_reproduced(sim, folder, level, steps=1.01, share=0.03):
    """At most ``share`` of the logits on a neighbouring step: sums in another order meet a rounding boundary."""
    x = torch.randn(64, 1, 4, 4)
    simulated = sim.model.eval()(x).numpy()
    off = (
        np.abs(run(folder / "m_qdq.onnx", x, level) - simulated)
        / sim.model.head.output_quantizers[0].get_scale().item()
    )
    assert off.max() <= steps, off.max()
    assert (off > 0.5).mean() <= share, (off > 0.5).mean()


@pytest.mark.parametrize("scheme", [QuantScheme.min_max, LEARNED])
@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8, 16])
def test_onnx_runtime_reproduces_the_simulation(tmp_path, bits, scheme):
    sim = simulation(bits, scheme)
    export(sim, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        # On few levels, sums often end at the middle between two steps.
        assert_reproduced(sim, tmp_path, level, share=0.1 if bits == 16 else 0.06 if bits < 4 else 0.03)


def test_a_relu_before_a_grid_below_zero_survives_four_bits(tmp_path):
    class AfterRelu(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.head = nn.ReLU(), nn.Linear(8, 4)

        def forward(self, x):
            return self.head(self.relu(x))

    sim = QuantizationSimModel(AfterRelu(), torch.randn(1, 8), default_output_bw=4, quant_scheme=LEARNED)
    sim.compute_encodings(lambda model: model(torch.randn(64, 8)))
    sim.model.relu.output_quantizers[0].set_range(-1.0, 2.0)
    sim.export(tmp_path, "m", torch.randn(64, 8))
    x = torch.randn(64, 8)
    scale = sim.model.head.output_quantizers[0].get_scale().item()
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL"):
        off = np.abs(run(tmp_path / "m_qdq.onnx", x, level) - sim.model(x).detach().numpy()) / scale
        assert (off > 0.5).mean() <= 0.02


def test_the_plain_model_is_the_float_model(tmp_path):
    sim = simulation()
    export(sim, tmp_path)
    model = Net().eval()
    model.load_state_dict({key: value for key, value in sim.model.state_dict().items() if "quantizers" not in key})
    x = torch.randn(16, 1, 4, 4)
    assert np.allclose(run(tmp_path / "m.onnx", x), model(x).detach().numpy(), atol=1e-5)
    nodes = {node.op_type for node in onnx.load(tmp_path / "m.onnx").graph.node}
    assert not nodes & {"QuantizeLinear", "DequantizeLinear", "Clip"}


def test_names_agree(tmp_path):
    sim = simulation()
    export(sim, tmp_path)
    encodings = json.loads((tmp_path / "m.encodings").read_text())
    activations = {entry["name"] for entry in encodings["activation_encodings"]}
    parameters = {entry["name"] for entry in encodings["param_encodings"]}
    assert {
        "conv.input_0", "relu.output_0", "conv2.output_0", "relu.use_1.output_0", "head.output_0",
    } == activations  # fmt: skip
    assert parameters == {"conv.weight", "conv2.weight", "head.weight"}
    for name in ("m.onnx", "m_qdq.onnx"):
        graph = onnx.load(tmp_path / name).graph
        assert [value.name for value in graph.input] == ["image"] and [value.name for value in graph.output] == [
            "logits"
        ]
        initializers = {value.name for value in graph.initializer}
        tensors = {tensor for node in graph.node for tensor in node.output}
        assert activations <= tensors
        # Each of equal parameters keeps its own name: norm.running_mean equals norm.bias here.
        floats = {key for key in Net().state_dict() if "num_batches" not in key}
        assert floats <= initializers, floats - initializers


@pytest.mark.parametrize(
    ("bits", "opset", "dtype"), [(8, 18, "INT8"), (4, 21, "INT4"), (16, 21, "INT16"), (3, 18, "INT8")]
)
def test_weights_are_integers_of_the_smallest_type(tmp_path, bits, opset, dtype):
    export(simulation(bits), tmp_path)
    model = onnx.load(tmp_path / "m_qdq.onnx")
    assert model.opset_import[0].version == opset
    weight = next(value for value in model.graph.initializer if value.name == "conv.weight")
    assert weight.data_type == getattr(onnx.TensorProto, dtype)


def test_four_bits_fit_an_older_opset(tmp_path):
    sim = simulation(4)
    export(sim, tmp_path, onnx_export_args={"opset_version": 18})
    assert onnx.load(tmp_path / "m_qdq.onnx").opset_import[0].version == 18
    assert_reproduced(sim, tmp_path, "ORT_DISABLE_ALL")


@pytest.mark.parametrize("shape", [(8, 4, 1, 1), (8, 2, 3, 3)])
def test_blocks(tmp_path, shape):
    sim = simulation()
    sim.model.conv2.param_quantizers["weight"] = QuantizeDequantize(
        shape, 8, True, block_size=(-1,) * 4, mode="dynamic"
    )
    sim.compute_encodings(lambda model: model(torch.randn(64, 1, 4, 4)))
    export(sim, tmp_path)
    for file in ("m.encodings", "m_torch.encodings"):
        entries = json.loads((tmp_path / file).read_text())["param_encodings"]
        assert [entry["block_size"] for entry in entries if entry["name"] == "conv2.weight"] == [8 // shape[1]]
    assert_reproduced(sim, tmp_path, "ORT_DISABLE_ALL")


def test_grouped_blocks(tmp_path):
    sim = simulation()
    set_grouped_blockwise_quantization_for_weights(sim, [sim.model.conv2], 4, True, 8, block_size=2)
    assert sim.model.conv2.param_quantizers["weight"].mode == "dynamic"
    sim.compute_encodings(lambda model: model(torch.randn(64, 1, 4, 4)))
    export(sim, tmp_path)
    entries = json.loads((tmp_path / "m.encodings").read_text())["param_encodings"]
    assert [entry["enc_type"] for entry in entries if entry["name"] == "conv2.weight"] == ["LPBQ"]
    assert_reproduced(sim, tmp_path, "ORT_DISABLE_ALL")


def test_off_quantizers_leave_no_trace(tmp_path):
    sim = simulation()
    sim.model.conv2.output_quantizers[0].enabled = False
    sim.model.conv2.param_quantizers["weight"].enabled = False
    export(sim, tmp_path)
    text = (tmp_path / "m.encodings").read_text()
    assert "conv2.output_0" not in text and "conv2.weight" not in text and "conv.weight" in text
    assert_reproduced(sim, tmp_path, "ORT_DISABLE_ALL")


@pytest.mark.parametrize("file", ["m.encodings", "m_torch.encodings"])
def test_encodings_load_back(tmp_path, file):
    sim = simulation(4, LEARNED)
    export(sim, tmp_path)
    other = simulation(4, LEARNED)
    other.model.load_state_dict(
        {k: v for k, v in sim.model.state_dict().items() if "quantizers" not in k}, strict=False
    )
    other.load_encodings(tmp_path / file)
    x = torch.randn(8, 1, 4, 4)
    assert torch.equal(other.model.eval()(x), sim.model.eval()(x))


def test_the_state_loads_back(tmp_path):
    from detent.export import read_state_dict

    sim, other = simulation(4, LEARNED), simulation(8)
    export(sim, tmp_path)
    other.model.load_state_dict(read_state_dict(tmp_path / "m.safetensors"))
    x = torch.randn(8, 1, 4, 4)
    assert torch.equal(other.model.eval()(x), sim.model.eval()(x))


def test_torchscript_computes_the_same_bits_and_gradients(tmp_path):
    sim = simulation(4, LEARNED)
    export(sim, tmp_path, export_to_torchscript=True)
    loaded = torch.jit.load(str(tmp_path / "m.torchscript.pth"))
    x = torch.randn(8, 1, 4, 4)
    y, expected = loaded(x), sim.model.eval()(x)
    assert torch.equal(y, expected)
    y.sum().backward()
    expected.sum().backward()
    gradients = dict(loaded.named_parameters())
    for name, parameter in sim.model.named_parameters():
        if parameter.grad is not None:
            assert torch.equal(gradients[name].grad, parameter.grad), name


def test_the_simulation_is_untouched(tmp_path):
    sim = simulation()
    sim.model.train()
    sim.model.norm.eval()
    called = []
    sim.model.head.register_forward_hook(lambda *_: called.append(1) and None)
    state = copy.deepcopy(sim.model.state_dict())
    before = [(name, module, type(module), module.training) for name, module in sim.model.named_modules()]
    flags = [(name, id(parameter), parameter.requires_grad) for name, parameter in sim.model.named_parameters()]
    hooks = len(sim.model.head._forward_hooks)
    export(sim, tmp_path, export_to_torchscript=True)
    after = [(name, module, type(module), module.training) for name, module in sim.model.named_modules()]
    assert [entry[0] for entry in before] == [entry[0] for entry in after]
    assert all(a[1] is b[1] and a[2:] == b[2:] for a, b in zip(before, after))
    assert flags == [(name, id(parameter), parameter.requires_grad) for name, parameter in sim.model.named_parameters()]
    assert hooks == len(sim.model.head._forward_hooks)
    for key, value in sim.model.state_dict().items():
        assert torch.equal(value, state[key]) if isinstance(value, torch.Tensor) else value == state[key], key


def test_nothing_is_printed(tmp_path):
    out = io.StringIO()
    with redirect_stdout(out):
        export(simulation(), tmp_path)
    assert out.getvalue() == ""


def test_an_uncalibrated_simulation_is_refused(tmp_path):
    sim = QuantizationSimModel(Net(), torch.randn(1, 1, 4, 4))
    with pytest.raises(RuntimeError, match="compute_encodings"):
        sim.export(tmp_path / "new", "m", torch.randn(1, 1, 4, 4))
    assert not (tmp_path / "new").exists()


def test_a_failure_leaves_no_files(tmp_path, monkeypatch):
    from detent.export import files

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(files, "write_state_dict", fail)
    (tmp_path / "m.onnx").write_text("kept")
    with pytest.raises(OSError, match="disk full"):
        export(simulation(), tmp_path)
    with pytest.raises(OSError, match="disk full"):
        export(simulation(), tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_text() == "kept"


@pytest.mark.parametrize("opset", [18, 20])
def test_sixteen_bits_without_the_opset_still_reproduce(tmp_path, opset):
    sim = simulation(8)
    sim.model.conv2.output_quantizers[0].bitwidth = 16
    sim.compute_encodings(lambda model: model(torch.randn(64, 1, 4, 4)))
    export(sim, tmp_path, onnx_export_args={"opset_version": opset})
    assert_reproduced(sim, tmp_path, "ORT_DISABLE_ALL")


def test_importing_detent_imports_no_onnx():
    code = (
        "import sys, detent, detent.quantsim, detent.export\n"
        "sys.exit(any(name.split('.')[0] in ('onnx', 'onnxscript', 'onnx_ir') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_missing_package_is_named():
    code = (
        "import sys; sys.modules['onnxscript'] = None\n"
        "import detent.export\n"
        "try:\n    import detent.export.onnx\nexcept ImportError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install onnx onnxscript" in done.stdout, done.stderr


def test_options_that_export_sets_itself_are_refused(tmp_path):
    with pytest.raises(ValueError, match="dynamo"):
        export(simulation(), tmp_path, onnx_export_args={"dynamo": False})
    assert not list(tmp_path.iterdir())
