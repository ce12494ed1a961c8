"""Float formats in exported files: ONNX Runtime computes what the simulation does, to the last bit where sums allow."""

import numpy as np
import pytest
import torch
from torch import nn

from detent import Config, FloatFormat, QuantizationSimModel
from simulations import calibrated

onnx = pytest.importorskip("onnx", reason="pip install onnx")
ort = pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
pytest.importorskip("onnxscript", reason="pip install onnxscript")
pytest.importorskip("safetensors", reason="pip install safetensors")

ODD = FloatFormat(3, 2, finite=True, nan=False)
LEVELS = ("ORT_DISABLE_ALL", "ORT_ENABLE_ALL")


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Linear(64, 6)

    def forward(self, x):
        return self.head(self.relu(self.conv(x)).flatten(1))


def run(file, x, level):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def operators(file):
    return {node.op_type for node in onnx.load(file).graph.node}


@pytest.mark.parametrize(
    "types, opset, made, stored",
    [
        (("float16", "bfloat16"), 18, ("Cast",), "BFLOAT16"),
        (("e4m3fn", "e4m3fn"), 19, ("QuantizeLinear", "DequantizeLinear"), "FLOAT8E4M3FN"),
        ((FloatFormat(3, 4), ODD), 18, ("Floor", "Pow"), "FLOAT"),
    ],
    ids=["halves", "float8", "any"],
)
def test_onnx_runtime_and_torchscript_reproduce_the_simulation(types, opset, made, stored, tmp_path):
    x = torch.randn(32, 1, 4, 4)
    sim = calibrated(Net().eval(), x, default_output_bw=types[0], default_param_bw=types[1])
    expected = sim.model(x).detach()
    sim.export(tmp_path, "m", x, export_to_torchscript=True)
    assert onnx.load(tmp_path / "m_qdq.onnx").opset_import[0].version == opset
    assert operators(tmp_path / "m_qdq.onnx").issuperset(made) and operators(tmp_path / "m.onnx").isdisjoint(made)
    weights = [t for t in onnx.load(tmp_path / "m_qdq.onnx").graph.initializer if t.name == "conv.weight"]
    assert [onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in weights] == [stored]
    for level in LEVELS:
        got = run(tmp_path / "m_qdq.onnx", x, level)
        step = 2.0 ** -sim.model.head.output_quantizers[0].mantissa_bits
        assert ((got - expected).abs() <= step * expected.abs() + 1e-6).all()  # sums in another order: the next number
        assert (got != expected).float().mean() <= 0.02, level
    assert torch.equal(torch.jit.load(tmp_path / "m.torchscript.pth")(x), expected)
    fresh = QuantizationSimModel(Net().eval(), x)
    fresh.model.load_state_dict(sim.model.state_dict())
    for keyed_by in ("m.encodings", "m_torch.encodings"):
        fresh.load_encodings(tmp_path / keyed_by)
        assert torch.equal(fresh.model(x), expected)


class Rounding(nn.Module):
    """Its input in several formats; the layers change no value."""

    def __init__(self, formats):
        super().__init__()
        self.layers = nn.ModuleList(nn.LeakyReLU(1.0) for _ in formats)

    def forward(self, x):
        return torch.stack([layer(x) for layer in self.layers])


FORMATS = ["e4m3fn", "e5m2", "e5m2fnuz", "float16", "bfloat16", FloatFormat(6, 9), ODD]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
def test_every_value_is_the_simulations(dtype, tmp_path):
    """Ends, halves, subnormals, infinities and NaN."""
    bits = torch.arange(-(2**15), 2**15, 7, dtype=torch.int16)
    x = torch.cat([bits.view(torch.float16).float(), bits.view(torch.bfloat16).float()]).to(dtype)
    config = Config.load()
    for number, format in enumerate(FORMATS):
        config.override(f"layers.{number}", output_bw=format)
    sim = QuantizationSimModel(Rounding(FORMATS).to(dtype), x, config_file=config, default_output_bw="float32")
    sim.compute_encodings(lambda model: model(torch.linspace(-3, 300, 100).to(dtype)))
    expected = sim.model(x).detach()
    sim.export(tmp_path, "m", x)
    for level in LEVELS:
        got = run(tmp_path / "m_qdq.onnx", x, level)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got.numpy(), expected.numpy())
