"""A C++ program without Python: loads the libraries, runs a module file, differentiates it."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detent import QuantizationSimModel, QuantScheme, _library

HOST = os.environ.get("DETENT_CPP_HOST", "")


@pytest.fixture
def host():
    if not HOST:
        pytest.skip("DETENT_CPP_HOST is not set; `make test` builds the program and sets it")
    if not Path(HOST).is_file():
        pytest.fail(f"DETENT_CPP_HOST names {HOST}, which is no file. Build the target detent_host.")
    if _library.status["detent_autograd"]:
        pytest.skip(f"gradients without Python: {_library.status['detent_autograd']}")
    return HOST


def write_tensor(tensor, path):
    array = tensor.detach().numpy()
    path.write_bytes(np.array([array.ndim, *array.shape], np.int64).tobytes() + np.ascontiguousarray(array).tobytes())


def read_tensor(path):
    data = path.read_bytes()
    rank = int(np.frombuffer(data, np.int64, 1)[0])
    sizes = np.frombuffer(data, np.int64, rank, offset=8)
    return torch.from_numpy(np.frombuffer(data, np.float32, offset=8 * (1 + rank)).reshape(sizes).copy())


def run(host, module, x, folder):
    """What the program makes of a module file: the output, and gradients by name."""
    write_tensor(x, folder / "x.bin")
    (folder / "gradients").mkdir()
    libraries = [str(_library._FOLDER / f"lib{name}.so") for name in ("detent", "detent_autograd")]
    files = [str(module), str(folder / "x.bin"), str(folder / "y.bin"), f"{folder}/gradients/"]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([host, *files, *libraries], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    gradients = {path.name.removesuffix(".bin"): read_tensor(path) for path in (folder / "gradients").iterdir()}
    return read_tensor(folder / "y.bin"), gradients


def expected(module, x):
    x = x.clone().requires_grad_()
    module.zero_grad()
    y = module(x)
    y.sum().backward()
    gradients = {name: parameter.grad for name, parameter in module.named_parameters() if parameter.grad is not None}
    return y.detach(), {"input": x.grad, **gradients}


def assert_same(got, wanted):
    (y, gradients), (wanted_y, wanted_gradients) = got, wanted
    assert torch.equal(y, wanted_y)
    assert gradients.keys() == wanted_gradients.keys()
    for name, gradient in gradients.items():
        assert torch.equal(gradient, wanted_gradients[name]), name


class Learnable(nn.Module):
    """Both operators with parameters that learn."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([0.05, 0.1, 0.2]))
        self.zero_point = nn.Parameter(torch.tensor([3.0, 0.0, -2.0]))
        self.min = nn.Parameter(torch.tensor([-0.9]))
        self.max = nn.Parameter(torch.tensor([1.3]))

    def forward(self, x):
        y = torch.ops.detent.fake_quantize(x, self.scale, self.zero_point, -8, 7, 1, None, 0.5)
        return torch.ops.detent.fake_quantize_range(y * 1.7, self.min, self.max, 0, 15, False) * x


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.relu = nn.ReLU()
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.relu(self.norm(self.conv(x))).mean((2, 3)))


def test_a_scripted_module_runs_and_differentiates(host, tmp_path):
    module = Learnable()
    torch.jit.script(module).save(str(tmp_path / "module.pt"))
    x = torch.randn(5, 3, 7)
    assert_same(run(host, tmp_path / "module.pt", x, tmp_path), expected(module, x))


@pytest.mark.parametrize("scheme", [QuantScheme.min_max, QuantScheme.training_range_learning_with_tf_init])
def test_an_exported_simulation_runs_and_differentiates(host, tmp_path, scheme):
    pytest.importorskip("onnx")
    sim = QuantizationSimModel(Net(), torch.randn(1, 3, 8, 8), quant_scheme=scheme, default_output_bw=4)
    sim.compute_encodings(lambda model: model(torch.randn(16, 3, 8, 8)))
    sim.model.eval()
    sim.export(tmp_path, "m", torch.randn(2, 3, 8, 8), export_to_torchscript=True)
    x = torch.randn(5, 3, 8, 8)
    got, wanted = run(host, tmp_path / "m.torchscript.pth", x, tmp_path), expected(sim.model, x)
    if scheme is not QuantScheme.min_max:
        assert "conv.param_quantizers.weight.min" in got[1]
    assert_same(got, wanted)


def test_a_missing_library_is_named(host, tmp_path):
    torch.jit.script(Learnable()).save(str(tmp_path / "module.pt"))
    write_tensor(torch.randn(2, 3), tmp_path / "x.bin")
    files = [str(tmp_path / "module.pt"), str(tmp_path / "x.bin"), str(tmp_path / "y.bin")]
    done = subprocess.run([host, *files], capture_output=True, text=True)
    assert done.returncode == 1
    assert "detent::fake_quantize" in done.stderr
