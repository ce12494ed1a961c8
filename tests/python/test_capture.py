"""Capture: the functions that a forward calls are quantized, whatever the forward looks like."""

import copy
import pickle
import warnings

import pytest
import torch
import torch.nn.functional as F
from simulations import Block, ResNet20, calibrated, module_of, names
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from detent.quantizers import QuantizeDequantize
from detent.quantsim import QuantizationSimModel, quantization_disabled

WEIGHTED = {"aten.convolution.default": 0, "aten.addmm.default": 1}


class Levels(TorchDispatchMode):
    """Distinct values in the input of every convolution and matrix product of a layer."""

    def __init__(self):
        super().__init__()
        self.counts = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        where = WEIGHTED.get(str(func))
        if where is not None:
            self.counts.append(args[where].unique().numel())
        return func(*args, **(kwargs or {}))


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(4, 3, 8, 8)


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(1)
    net, data = ResNet20().eval(), torch.randn(8, 3, 16, 16)
    return net, data, calibrated(net, data)


def test_no_layer_of_resnet_20_has_an_input_on_no_grid(resnet):
    net, data, sim = resnet
    with torch.no_grad(), Levels() as float_levels:
        net(data)
    with torch.no_grad(), Levels() as levels:
        sim.model(data)
    assert len(levels.counts) == 20 and max(levels.counts) <= 256 < min(float_levels.counts)


def test_placement_in_resnet_20(resnet):
    _, _, sim = resnet
    block = [name for name in names(sim) if name.startswith("layer2.0.")]
    assert block == [
        "layer2.0.conv1.param_quantizers.weight", "layer2.0.conv2.param_quantizers.weight",
        "layer2.0.bn2.output_quantizers.0", "layer2.0.relu_0.output_quantizers.0",
        "layer2.0.relu_1.output_quantizers.0",
    ]  # fmt: skip
    assert [name for name in names(sim) if "input" in name] == ["conv1.input_quantizers.0"]
    assert "layer1.0.add_0" in str(sim) and "inside [Add, Relu], rounded at layer1.0.relu_1" in str(sim) and "avg_pool2d_0" in str(sim)


def test_the_users_model_stays(resnet):
    net, data, sim = resnet
    assert type(net) is ResNet20 and isinstance(sim.model, ResNet20) and isinstance(sim.model.layer1[0], Block)
    assert set(net.state_dict()) <= set(sim.model.state_dict())
    assert all("quantizers" in key for key in set(sim.model.state_dict()) - set(net.state_dict()))
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model(data), net(data))


def test_one_relu_used_three_times():
    def forward(self, x):
        a, b, c = self.layers
        return c(self.relu(b(self.relu(a(self.relu(x))))))

    net, data = module_of(forward, nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)), torch.randn(512, 8)
    sim = calibrated(net, data, default_output_bw=4)
    assert [name for name in names(sim) if "relu" in name] == [
        "relu.input_quantizers.0", "relu.output_quantizers.0", "relu.use_1.output_quantizers.0",
        "relu.use_2.output_quantizers.0",
    ]  # fmt: skip
    with torch.no_grad(), Levels() as levels:
        sim.model(data)
    assert len(levels.counts) == 3 and max(levels.counts) <= 16
    assert len({sim.model.relu.get_submodule(p).max.item() for p in
                ("output_quantizers.0", "use_1.output_quantizers.0", "use_2.output_quantizers.0")}) == 3  # fmt: skip
    fresh = QuantizationSimModel(net, data)
    fresh.model.load_state_dict(sim.model.state_dict())
    assert torch.equal(fresh.model(data), sim.model(data))
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model(data), net(data))


def test_a_module_reused_in_a_sequential():
    relu = nn.ReLU()
    net, data = nn.Sequential(nn.Linear(8, 8), relu, nn.Linear(8, 8), relu), torch.randn(64, 8)
    assert {"1.output_quantizers.0", "1.use_1.output_quantizers.0"} <= set(names(calibrated(net, data)))


def attention(self, x):
    q, k, v = self.layers[0](x).chunk(3, -1)
    weights = F.softmax(q @ k.mT / 4.0, dim=-1)
    y = torch.matmul(weights, v)
    return {"y": torch.cat([y, x], dim=-1), "rest": (weights, None, 3)}


def test_products_softmax_cat_and_structured_outputs():
    net, data = module_of(attention, nn.Linear(16, 48)), torch.randn(2, 5, 16)
    sim = calibrated(net, data)
    assert [name for name in names(sim) if "layers" not in name] == [
        "matmul_0.output_quantizers.0", "div_0.output_quantizers.0", "softmax_0.output_quantizers.0",
        "matmul_1.output_quantizers.0", "cat_0.input_quantizers.1", "cat_0.output_quantizers.0",
    ]  # fmt: skip
    y = sim.model(data)
    assert set(y) == {"y", "rest"} and y["rest"][1:] == (None, 3) and y["y"].unique().numel() <= 256
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model(data)["y"], net(data)["y"])


def test_control_flow_and_sites_first_met_later(x):
    def forward(self, x, extra=False):
        for layer in self.layers:
            x = torch.sigmoid(layer(x))
        return torch.tanh(x) if extra else x

    sim = calibrated(module_of(forward, nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)), x)
    assert {"sigmoid_0.output_quantizers.0", "sigmoid_1.output_quantizers.0"} <= set(names(sim))
    with pytest.warns(UserWarning, match=r"^tanh \(test_capture.py:\d+\) did not run with the sample"):
        later = sim.model(x, extra=True)
    assert torch.equal(later, torch.tanh(sim.model(x))) and "tanh (test_capture.py" in str(sim)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sim.model(x, extra=True)


def aliased(self, x):
    y = self.layers[0](x)
    view = y[:, :2]
    alias = y
    y += x
    F.relu_(view)
    torch.relu_(alias)
    return y * 1.0, view, alias is y


def test_in_place_operators_write_where_they_did(x):
    sim = calibrated(module_of(aliased, nn.Conv2d(3, 3, 1)), x, quant_scheme="training_range_learning_with_tf_init")
    x = x.clone().requires_grad_()
    y, view, same = sim.model(x)
    assert same and y.min() >= 0 and view.unique().numel() <= 256 and view._is_view()
    y.sum().backward()
    assert x.grad.abs().sum() > 0 and sim.model.layers[0].weight.grad.abs().sum() > 0


def test_masks_and_buffers_and_integers_are_left():
    def forward(self, x, tokens):
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        scores = self.layers[0](x) @ x.transpose(1, 2)
        return torch.softmax(scores + mask, -1) + (tokens + 1).sum() * 0

    net, data = module_of(forward, nn.Linear(8, 8)), (torch.randn(2, 4, 8), torch.arange(3))
    sim = calibrated(net, *data)
    assert "add_0" in str(sim) and "infinities" in str(sim)
    assert torch.equal(sim.model(*data).triu(1), torch.zeros(2, 4, 4))


def test_unknown_functions_pass_and_are_listed(x):
    def forward(self, x):
        return self.layers[0](torch.special.bessel_j0(x))

    sim = calibrated(module_of(forward, nn.Conv2d(3, 3, 1)), x)
    assert "special_bessel_j0" in str(sim) and "layers.0.input_quantizers.0" in names(sim)


def test_a_module_without_call_sites_meets_one_later(x):
    def inner(self, x):
        return F.silu(x) if x.shape[0] == 1 else x

    def forward(self, x):
        return self.layers[0](self.layers[1](x))

    net = module_of(forward, nn.Conv2d(3, 3, 1), module_of(inner))
    sim = calibrated(nn.Sequential(net, nn.Conv2d(3, 3, 1)), x)
    with pytest.warns(UserWarning, match=r"^0.layers.1.silu \(test_capture.py:\d+\) did not run with the sample"):
        sim.model(x[:1])


def test_more_uses_than_the_sample_made(x):
    def forward(self, x, times=2):
        for _ in range(times):
            x = self.layers[0](self.relu(x))
        return x

    sim = calibrated(module_of(forward, nn.Conv2d(3, 3, 1)), x)
    with pytest.warns(UserWarning, match="relu did not run with the sample"):
        sim.model(x, times=3)


def test_numbers_from_elsewhere_are_on_no_grid(x):
    def forward(self, x):
        a, b, c = self.layers
        y = a(x)
        y[:, :1] = x[:, :1]
        return b(y), c(torch.max(a(x), x)), c(F.pad(a(x), (1, 1, 1, 1), "constant", 0.3))

    sim = calibrated(module_of(forward, *(nn.Conv2d(3, 3, 1) for _ in range(3))), x)
    assert {"layers.1.input_quantizers.0", "layers.2.input_quantizers.0", "layers.2.use_1.input_quantizers.0"} <= set(
        names(sim)
    )


def test_own_parameters_in_functions_and_taken_names(x):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.randn(5, 3, 1, 1))
            self.conv2d_0 = "taken"

        def forward(self, x):
            return F.conv2d(x, self.weight)

    sim = calibrated(Own(), x)
    assert names(sim) == [
        "param_quantizers.weight", "conv2d_0_.input_quantizers.0", "conv2d_0_.output_quantizers.0",
    ]  # fmt: skip
    assert sim.model.param_quantizers["weight"].shape == (5, 1, 1, 1) and sim.model.param_quantizers["weight"].symmetric


def test_containers_with_a_forward_of_their_own_see_their_children_only(x):
    class Dense(nn.ModuleDict):
        def forward(self, x):
            features = [x]
            for _, layer in self.items():
                features.append(layer(torch.cat(features, 1)))
            return torch.cat(features, 1)

    net = Dense({"a": nn.Conv2d(3, 2, 1), "b": nn.Conv2d(5, 2, 1)})
    sim = calibrated(net, x)
    assert sim.model(x).shape == (4, 7, 8, 8) and len(sim.model) == 2
    assert "cat_2.output_quantizers.0" in names(sim)


@pytest.mark.parametrize("scheme", ["min_max", "training_range_learning_with_tf_init"])
def test_modes_of_running(x, scheme):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.relu = Block(3, 8, 2), nn.ReLU()
            self.block.shortcut = nn.Conv2d(3, 8, 1, 2)
            self.fc = nn.Linear(8, 5)

        def forward(self, x):
            y = self.relu(self.relu(self.block(x)) - 0.1)
            return self.fc(F.adaptive_avg_pool2d(y, 1).flatten(1)) * 2

    sim = calibrated(Net().eval(), x, quant_scheme=scheme)
    model = sim.model
    expected = model(x)
    expected.sum().backward()
    gradient = model.block.conv1.weight.grad.clone()
    with torch.no_grad():
        assert torch.equal(model(x), expected)
    with torch.inference_mode():
        assert torch.equal(model(x), expected)
    assert torch.equal(copy.deepcopy(model)(x), expected)
    fresh = QuantizationSimModel(Net(), x)
    fresh.model.load_state_dict(model.state_dict())
    assert torch.equal(fresh.model.eval()(x), expected)
    for reentrant in (False, True):
        model.zero_grad()
        y = checkpoint(model, x.clone().requires_grad_(), use_reentrant=reentrant)
        y.sum().backward()
        assert torch.equal(y, expected) and torch.equal(model.block.conv1.weight.grad, gradient)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), expected)
    assert torch.equal(torch.jit.trace(model, x)(x), expected)
    assert torch.equal(torch.func.functional_call(model, dict(model.named_parameters()), (x,)), expected)
    torch._dynamo.reset()
    model.zero_grad()
    y = torch.compile(model, fullgraph=True, backend="aot_eager")(x)
    y.sum().backward()
    assert torch.equal(y, expected) and torch.allclose(model.block.conv1.weight.grad, gradient)
    replica = model._replicate_for_data_parallel()
    assert type(replica) is type(model) and replica._detent is model._detent


def test_pickle_and_generated_classes(resnet, x):
    net = module_of(aliased, nn.Conv2d(3, 3, 1))
    sim = calibrated(nn.Sequential(Block(3, 3, 1)), x)
    assert type(sim.model[0]).__name__ == "Block" and type(sim.model[0]) is not Block
    assert torch.equal(pickle.loads(pickle.dumps(sim.model))(x), sim.model(x)) and type(net).__name__ == "Made"


def test_copies_and_pickles_of_a_simulation_whose_model_is_long(x):
    sim = calibrated(nn.Sequential(*[Block(3, 3, 1) for _ in range(60)]).eval(), x)
    expected, report = sim.model(x), str(sim)
    for other in (copy.deepcopy(sim), pickle.loads(pickle.dumps(sim))):
        assert torch.equal(other.model(x), expected) and str(other) == report
        other.exclude_layers_from_quantization([other.model[7].conv1])
        assert str(other) != report and str(sim) == report


def test_onnx_names(x, tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript"), pytest.importorskip("safetensors")
    sim = calibrated(nn.Sequential(Block(3, 3, 1)).eval(), x)
    sim.export(tmp_path, "m", x)
    graph = onnx.load(tmp_path / "m_qdq.onnx").graph
    tensors = {tensor for node in graph.node for tensor in node.output}
    assert {"0.relu_0.output_0", "0.bn2.output_0", "0.conv1.input_0"} <= tensors
    assert sum(node.op_type == "QuantizeLinear" for node in graph.node) == len(
        [q for name, q in sim.named_quantizers() if "param" not in name]
    )
    assert isinstance(sim.model[0].relu_0.output_quantizers[0], QuantizeDequantize)
