"""Where a configuration puts quantizers."""

import json
import warnings
from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from detent.config import Config, EncodingConstraints, OpType, Param, Supergroup
from detent.quantsim import QuantizationSimModel, quantization_disabled
from torch import nn


def net_of(forward, **layers):
    """A module with these layers and this forward."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            for name, layer in layers.items():
                setattr(self, name, layer)

    Net.forward = forward
    return Net().eval()


def chain(**layers):
    """A module that runs its layers one after the other."""

    return nn.Sequential(OrderedDict(layers)).eval()


def placed(model, *data, config=None, **options):
    """Short names of the quantizers: ``conv.in0``, ``conv.weight``, ``conv.out0``."""
    return names(QuantizationSimModel(model, data, config_file=config, **options))


def names(sim):
    short = [name for name, _ in sim.named_quantizers()]
    for long, new in ((".input_quantizers.", ".in"), (".output_quantizers.", ".out"), (".param_quantizers.", ".")):
        short = [name.replace(long, new) for name in short]
    return short


def nothing(**sections):
    """A configuration that quantizes nothing but what ``sections`` say."""
    empty = {"defaults": {"ops": {}, "params": {}}, "params": {}, "op_type": {}, "supergroups": [], "model_input": {},
             "model_output": {}}  # fmt: skip
    return empty | sections


ON, OFF = {"is_output_quantized": "True"}, {"is_output_quantized": "False"}
X = torch.randn(2, 4, 8, 8)


def conv(groups=1):
    return nn.Conv2d(4, 4, 3, padding=1, groups=groups)


# --- the worked effects of AIMET's default configuration --------------------------------------------------------------


def test_conv_relu_conv():
    assert placed(chain(conv1=conv(), relu=nn.ReLU(), conv2=conv()), X) == [
        "conv1.weight", "conv1.in0", "relu.out0", "conv2.weight", "conv2.out0"
    ]  # fmt: skip


def test_conv_bn_relu():
    assert placed(chain(conv=conv(), bn=nn.BatchNorm2d(4), relu=nn.ReLU()), X) == [
        "conv.weight", "conv.in0", "relu.out0"
    ]  # fmt: skip


def test_linear_softmax_with_htp_v73():
    model = chain(fc=nn.Linear(4, 6), softmax=nn.Softmax(-1))
    sim = QuantizationSimModel(model, torch.randn(3, 4), config_file="htp_v73")
    assert names(sim) == ["fc.weight", "fc.in0", "fc.out0", "softmax.out0"]
    assert sim.model.fc.param_quantizers["weight"].shape == (1,)
    out = sim.model.softmax.output_quantizers[0]
    sim.compute_encodings(lambda model: model(torch.randn(8, 4)))
    assert (out.get_min().item(), out.get_max().item(), out.mode) == (0.0, 1.0, "fixed")
    assert not any(parameter.requires_grad for parameter in out.parameters())


def test_conv_plus_a_model_input_then_relu():
    def forward(self, a, b):
        return self.relu(self.conv(a) + b)

    assert placed(net_of(forward, conv=conv(), relu=nn.ReLU()), X, X.clone()) == [
        "conv.weight", "conv.in0", "conv.out0", "relu.out0", "add_0.in1"
    ]  # fmt: skip


def test_max_pool_before_conv():
    assert placed(chain(pool=nn.MaxPool2d(2), conv=conv()), X) == ["pool.in0", "conv.weight", "conv.out0"]

    def forward(self, x):
        return self.a(self.pool(x)) + self.b(x)

    pooled_and_not = net_of(forward, pool=nn.MaxPool2d(1), a=conv(), b=conv())
    assert {"pool.in0", "b.in0"} <= set(placed(pooled_and_not, X)) and "a.in0" not in placed(pooled_and_not, X)


def test_functions_between_modules_are_quantized():
    def forward(self, x):
        return self.b(F.relu(self.a(x)) * x)

    assert placed(net_of(forward, a=conv(), b=conv()), X) == [
        "a.weight", "a.in0", "b.weight", "b.out0", "relu_0.out0", "mul_0.in1", "mul_0.out0",
    ]  # fmt: skip


def test_a_shared_relu_has_quantizers_per_use():
    def forward(self, x):
        return self.relu(self.b(self.relu(self.a(x))))

    assert placed(net_of(forward, a=conv(), b=conv(), relu=nn.ReLU()), X) == [
        "a.weight", "a.in0", "b.weight", "relu.out0", "relu.use_1.out0"
    ]  # fmt: skip


def test_embedding_is_on_the_grid_of_its_weight():
    model, tokens = chain(embedding=nn.Embedding(10, 4), fc=nn.Linear(4, 2)), torch.arange(6)
    assert placed(model, tokens) == ["embedding.weight", "fc.weight", "fc.out0"]
    config = Config.load()
    config.op_type["Gather"] = OpType(params={"weight": Param(is_quantized=False)})
    assert placed(model, tokens, config=config) == ["fc.weight", "fc.in0", "fc.out0"]
    config.op_type["Gather"] = OpType(per_channel_quantization=True)  # a scale per row of the vocabulary
    sim = QuantizationSimModel(model, tokens, config_file=config)
    assert sim.model.embedding.param_quantizers["weight"].shape == (10, 1)


# --- supergroups ------------------------------------------------------------------------------------------------------


def tiny():
    """Three convolutions with what follows them, and a linear layer."""
    return chain(
        conv1=conv(), bn1=nn.BatchNorm2d(4), relu1=nn.ReLU(), maxpool=nn.MaxPool2d(2),
        conv2=conv(), bn2=nn.BatchNorm2d(4), relu2=nn.ReLU(),
        conv3=conv(), relu3=nn.ReLU(), avgpool=nn.AvgPool2d(2), conv4=conv(), flat=nn.Flatten(), fc=nn.Linear(16, 3),
    )  # fmt: skip


def test_parse_config_file_supergroups():
    groups = [["Conv", "Relu"], ["Relu", "AveragePool"], ["Conv", "Clip"]]
    config = nothing(
        defaults={"ops": ON, "params": {"is_quantized": "False"}}, op_type={"MaxPool": OFF},
        supergroups=[{"op_list": group} for group in groups],
    )  # fmt: skip
    assert [name for name in placed(tiny(), X, config=config) if "out" in name] == [
        "relu1.out0", "relu2.out0", "avgpool.out0", "conv4.out0", "fc.out0"
    ]  # fmt: skip


@pytest.mark.parametrize("groups", [1, 4])  # a depthwise convolution too
def test_supergroups_reach_through_foldable_batch_norms_only(groups):
    def outputs(model, x=X):
        return [name for name in placed(model, x) if "out" in name]

    norm = nn.BatchNorm2d(4, track_running_stats=False)
    assert outputs(chain(conv=conv(groups), bn=nn.BatchNorm2d(4), relu=nn.ReLU())) == ["relu.out0"]
    assert outputs(chain(conv=conv(groups), bn=norm, relu=nn.ReLU())) == ["conv.out0", "bn.out0", "relu.out0"]
    tokens = torch.randn(2, 5, 4)  # a norm over the tokens, not over the layer's channels
    assert outputs(chain(fc=nn.Linear(4, 4), bn=nn.BatchNorm1d(5), relu=nn.ReLU()), tokens) == [
        "fc.out0", "bn.out0", "relu.out0"
    ]  # fmt: skip


def test_conv3d_belongs_to_the_type_conv():
    config = Config.load()
    config.op_type["Conv"] = OpType(is_symmetric=True)
    model = chain(conv=nn.Conv3d(2, 2, 1), relu=nn.ReLU())
    sim = QuantizationSimModel(model, torch.randn(1, 2, 2, 2, 2), config_file=config)
    assert names(sim) == ["conv.weight", "conv.in0", "relu.out0"]
    assert sim.model.conv.input_quantizers[0].symmetric and not sim.model.relu.output_quantizers[0].symmetric


@pytest.mark.parametrize("why", ["two readers", "result", "view"])
def test_a_tensor_that_somebody_else_reads_is_no_inside_of_a_supergroup(why):
    def forward(self, x):
        y = self.conv(x)
        if why == "view":
            return self.relu(y.flatten(1))
        return self.relu(y) + y if why == "two readers" else (self.relu(y), y)

    assert "conv.out0" in placed(net_of(forward, conv=conv(), relu=nn.ReLU()), X)


def test_longer_supergroups_and_written_out_batch_norms():
    config = Config.load("htp_v73")
    config.supergroups.append(Supergroup(["Gemm", "Tanh", "Sigmoid"]))
    model = chain(fc=nn.Linear(4, 4), tanh=nn.Tanh(), sigmoid=nn.Sigmoid())
    assert placed(model, torch.randn(2, 4), config=config) == ["fc.weight", "fc.in0", "sigmoid.out0"]
    model = chain(conv=conv(), bn=nn.BatchNorm2d(4), act=nn.Hardswish())
    assert placed(model, X, config=config) == ["conv.weight", "conv.in0", "act.out0"]


class WrittenRMSNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(4) + 0.5)

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


def written_layer_norm(self, x):
    centred = x - x.mean(-1, keepdim=True)
    y = centred / torch.sqrt(centred.pow(2).mean(-1, keepdim=True) + 1e-5)
    return self.fc(y * self.weight + self.bias)


def test_normalizations_that_are_written_out_are_one_operator():
    config = Config.load()
    config.supergroup_pass_list = ["LayerNormalization", "RMSNormalization"]
    model, x = chain(fc=nn.Linear(4, 4), norm=WrittenRMSNorm()), torch.randn(3, 4)
    assert placed(model, x, config=config) == ["fc.weight", "fc.in0", "fc.out0", "norm.weight", "norm.mul_1.out0"]
    assert "norm.rsqrt_0.out0" in placed(model, x)
    layer = net_of(
        written_layer_norm, fc=nn.Linear(4, 4), weight=nn.Parameter(torch.ones(4)), bias=nn.Parameter(torch.zeros(4))
    )
    inside = ["mean_0.out0", "sub_0.out0", "pow_0.out0", "mean_1.out0", "sqrt_0.out0", "div_0.out0", "mul_0.out0"]
    assert not set(inside) & set(placed(layer, x, config=config)) and "add_1.out0" in placed(layer, x, config=config)
    assert set(inside) <= set(placed(layer, x))
    uneven = x * torch.tensor([[1.0], [0.01], [3.0]])  # roots that rounding would make zero, alone
    layer.fc.weight.data.copy_(torch.eye(4))
    assert "sqrt_0.out0" not in placed(layer, uneven)
    assert placed(layer, uneven, config=config) == placed(layer, x, config=config)


# --- precedence, switches, types --------------------------------------------------------------------------------------


def test_defaults_params_and_op_types_in_order_of_precedence():
    config = nothing(
        defaults={"ops": ON, "params": {"is_quantized": "True", "is_symmetric": "True"}},
        params={"weight": {"is_symmetric": "False"}, "bias": {"is_quantized": "False"}},
        op_type={"Gemm": {"params": {"bias": {"is_quantized": "True"}, "weight": {"is_symmetric": "True"}}}},
    )
    model = chain(conv=conv(), relu=nn.ReLU(), pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(4, 2))
    sim = QuantizationSimModel(model, X, config_file=config)
    assert "conv.bias" not in names(sim) and {"fc.bias", "conv.out0"} <= set(names(sim))
    assert not sim.model.conv.param_quantizers["weight"].symmetric
    assert sim.model.fc.param_quantizers["weight"].symmetric and sim.model.fc.param_quantizers["bias"].symmetric


def test_model_input_alone():
    model = tiny()
    assert placed(model, X, config=nothing(model_input={"is_input_quantized": "True"})) == ["conv1.in0"]
    assert placed(model, X, config=nothing()) == []


def test_model_output_alone_and_after_an_op_type_that_is_off():
    config = nothing(model_output={"is_output_quantized": "True"}, op_type={"Gemm": OFF})
    assert placed(tiny(), X, config=config) == ["fc.in0", "fc.out0"]


def test_an_operator_that_is_off_leaves_no_reader_on_no_grid():
    def forward(self, x):
        y = self.act(self.a(x))
        return self.b(y), self.c(y)

    config = Config.load()
    config.op_type["Gelu"] = OpType(is_output_quantized=False)
    sim = QuantizationSimModel(net_of(forward, a=conv(), act=nn.GELU(), b=conv(), c=conv()), X, config_file=config)
    assert {"b.in0", "c.in0"} <= set(names(sim)) and "act.out0" not in names(sim)
    assert "off in the configuration" in str(sim)


def test_params_alone_make_an_operator_quantized():
    params = {"bias": {"is_quantized": "False"}}
    config = nothing(defaults={"ops": {}, "params": {"is_quantized": "True"}}, params=params)
    model = chain(a=conv(), relu=nn.ReLU(), b=conv())
    assert placed(model, X, config=config) == ["a.weight", "a.in0", "b.weight", "b.in0"]


def test_op_type_inputs_and_supergroups_over_them():
    config = Config.load()
    config.op_type["Conv"] = OpType(is_input_quantized=True)
    config.op_type["Add"] = OpType(is_input_quantized=True)
    config.op_type["Relu"] = OpType(is_input_quantized=True)

    def forward(self, a, b):
        return self.relu(self.conv(a) + b)

    assert placed(net_of(forward, conv=conv(), relu=nn.ReLU()), X, X.clone(), config=config) == [
        "conv.weight", "conv.in0", "conv.out0", "relu.out0", "add_0.in0", "add_0.in1"
    ]  # fmt: skip


def test_data_movement_has_no_quantizers_whatever_is_asked():
    config = Config.load()
    for name in ("MaxPool", "Flatten", "Dropout"):
        config.op_type[name] = OpType(is_output_quantized=True)
    model = chain(conv=conv(), pool=nn.MaxPool2d(2), drop=nn.Dropout(), flat=nn.Flatten(), fc=nn.Linear(64, 2))
    assert placed(model, X, config=config) == ["conv.weight", "conv.in0", "conv.out0", "fc.weight", "fc.out0"]


def test_every_layer_has_a_grid_under_it_in_every_named_configuration():
    def forward(self, x):
        y = F.interpolate(self.a(x).mean((2, 3), keepdim=True), size=(8, 8)) + x
        return self.fc(self.norm(F.gelu(self.b(y))).flatten(2).mean(-1))

    model = net_of(forward, a=conv(), b=conv(), norm=nn.GroupNorm(2, 4), fc=nn.Linear(4, 3))
    for name in ("default", "default_per_channel", "htp_v66", "htp_v81", "eai", "dsp"):
        sim = QuantizationSimModel(model, X, config_file=name)
        sim.compute_encodings(lambda m: m(X))
        levels = []

        def entered(module, args, levels=levels):
            quantizer = module.input_quantizers[0]
            levels.append((args[0] if quantizer is None else quantizer(args[0])).unique().numel())

        for layer in (sim.model.a, sim.model.b, sim.model.fc):
            layer.register_forward_pre_hook(entered)
        with torch.no_grad():
            sim.model(torch.randn(32, 4, 8, 8))
        assert len(levels) == 3 and max(levels) <= 256, (name, levels)


# --- grids ------------------------------------------------------------------------------------------------------------


def test_constraints_fix_ranges_and_survive_bitwidths():
    config = Config.load("htp_v73")
    model = chain(tanh=nn.Tanh(), sigmoid=nn.Sigmoid())
    sim = QuantizationSimModel(model, X, "training_range_learning_with_tf_init", config_file=config)
    sim.compute_encodings(lambda m: m(X))
    tanh, sigmoid = sim.model.tanh.output_quantizers[0], sim.model.sigmoid.output_quantizers[0]
    assert tanh.symmetric and tanh.get_scale().item() == pytest.approx(2 / 255) and sigmoid.get_max().item() == 1.0
    tanh.bitwidth = 16
    assert tanh.get_encoding().offset.item() == -(2**15) and tanh.mode == "fixed"
    sim.model(X).sum().backward()
    assert tanh.max.grad is None


def test_strict_and_unsigned_symmetric_grids():
    config = Config.load("eai")
    config.defaults.unsigned_symmetric = True
    model = chain(fc=nn.Linear(4, 4), relu=nn.ReLU(), out=nn.Linear(4, 4))
    sim = QuantizationSimModel(model, torch.randn(2, 4), config_file=config)
    data = torch.randn(64, 4)
    sim.compute_encodings(lambda m: m(data))
    weight, relu, out = (
        sim.model.fc.param_quantizers["weight"], sim.model.relu.output_quantizers[0], sim.model.out.output_quantizers[0]
    )  # fmt: skip
    assert (weight.qmin, weight.qmax, out.qmin, out.qmax) == (-127, 127, -127, 127)
    assert (relu.qmin, relu.qmax, relu.symmetric, relu.get_min().item()) == (0, 255, True, 0.0)
    with torch.no_grad():
        top = sim.model.relu(sim.model.fc(data)).max()
    assert relu.get_max().item() == pytest.approx(top.item(), rel=1e-6)
    fresh = QuantizationSimModel(model, data, config_file=config)
    fresh.model.load_state_dict(sim.model.state_dict())
    assert torch.equal(fresh.model(data), sim.model(data))
    sim.compute_encodings(lambda m: m.relu.output_quantizers[0](data))
    assert (relu.qmin, relu.qmax) == (-127, 127)


def test_unsigned_grids_are_put_back_when_calibration_fails():
    config = Config.load("eai")
    config.defaults.unsigned_symmetric = True
    sim = QuantizationSimModel(nn.Linear(4, 4), torch.randn(2, 4), config_file=config)
    with torch.no_grad():
        sim.model.weight.abs_()

    def failing(model):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sim.compute_encodings(failing)
    assert sim.model.param_quantizers["weight"].qmin == -127


def test_per_channel_by_type_and_biases():
    config = Config.load("htp_v73")
    config.params["bias"] = Param(is_quantized=True)
    model = chain(conv=conv(), up=nn.ConvTranspose2d(4, 6, 2), flat=nn.Flatten(), fc=nn.Linear(6 * 81, 3))
    sim = QuantizationSimModel(model, X, config_file=config, default_param_bw=4)
    shapes = {name: quantizer.shape for name, quantizer in sim.named_quantizers() if "param" in name}
    assert list(shapes.values()) == [(4, 1, 1, 1), (1,), (1, 6, 1, 1), (1,), (1,), (1,)]
    sim.compute_encodings(lambda m: m(X))
    bias, quantizer = sim.model.conv.bias, sim.model.conv.param_quantizers["bias"]
    assert quantizer.get_scale().item() == pytest.approx(max(bias.max() / 7, -bias.min() / 8).item(), rel=1e-6)
    quantized = {name: p for name, p in model.named_parameters()}
    for path, module in sim.model.named_children():
        for name, held in getattr(module, "param_quantizers", {}).items():
            quantized[f"{path}.{name}"] = held(getattr(module, name))
    with torch.no_grad():
        entered = sim.model.conv.input_quantizers[0](X)
        y = F.conv2d(entered, quantized["conv.weight"], quantized["conv.bias"], padding=1)
        assert torch.equal(sim.model.conv(X), sim.model.conv.output_quantizers[0](y))


def test_bias_of_a_function():
    def forward(self, x):
        return F.linear(x, self.weight, bias=self.bias)

    weight, bias = nn.Parameter(torch.randn(3, 4)), nn.Parameter(torch.randn(3))
    model, x = net_of(forward, weight=weight, bias=bias), torch.randn(2, 4)
    assert placed(model, x) == ["param_quantizers.weight", "linear_0.in0", "linear_0.out0"]
    config = Config.load()
    config.params["bias"] = Param(is_quantized=True)
    sim = QuantizationSimModel(model, x, config_file=config, default_param_bw=2)
    sim.compute_encodings(lambda m: m(x))
    sim.model.linear_0.input_quantizers[0].enabled = sim.model.linear_0.output_quantizers[0].enabled = False
    held = sim.model.param_quantizers
    with torch.no_grad():
        assert torch.equal(sim.model(x), F.linear(x, held["weight"](weight), held["bias"](bias)))
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model(x), model(x))


def test_constraints_from_python_and_supported_kernels():
    config = Config.load()
    config.op_type["Relu"] = OpType(encoding_constraints=EncodingConstraints(0.0, 6.0))
    kernels = [{"activation": {"bitwidth": 16, "dtype": "int"}, "param": {"bitwidth": 8, "dtype": "int"}}]
    content = config.to_dict()
    content["op_type"]["Gemm"] = {"supported_kernels": kernels}
    model, x = chain(fc=nn.Linear(4, 4), relu=nn.ReLU()), torch.randn(2, 4)
    with pytest.warns(UserWarning, match=r"no kernel for 1 operator: fc \(Gemm\) was asked"):
        sim = QuantizationSimModel(model, x, config_file=json.loads(json.dumps(content)))
    assert sim.model.relu.output_quantizers[0].get_max().item() == 6.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        QuantizationSimModel(model, x, config_file=content, default_output_bw=16)


@pytest.mark.parametrize("unsigned, grid, top", [(False, (-127, 127), 1.0), (True, (0, 255), 1.0)])
def test_a_fixed_range_on_one_side_of_a_symmetric_grid_is_reached(unsigned, grid, top):
    config = Config.load("eai")
    config.defaults.unsigned_symmetric = unsigned
    config.op_type["Sigmoid"] = OpType(encoding_constraints=EncodingConstraints(0.0, 1.0))
    sim = QuantizationSimModel(chain(sigmoid=nn.Sigmoid()), X, config_file=config)
    out = sim.model.sigmoid.output_quantizers[0]
    assert (out.qmin, out.qmax) == grid and out.get_max().item() == pytest.approx(top)
    assert out(torch.tensor([2.0, 0.5])).tolist() == pytest.approx([1.0, 0.5], abs=1 / 128)


def test_passes_that_nobody_knows_are_named():
    config = Config.load()
    config.supergroup_pass_list = ["LayerNormalization", "MatmulAdd"]
    with pytest.warns(UserWarning, match="names MatmulAdd, which changes nothing; known are RMSNormalization, LayerNorm"):
        QuantizationSimModel(chain(fc=nn.Linear(2, 2)), torch.randn(1, 2), config_file=config)


def test_a_parameter_in_an_operator_whose_output_is_off():
    def forward(self, x):
        return self.fc(x * self.gain)

    config = Config.load()
    config.op_type["Mul"] = OpType(is_output_quantized=False)
    model = net_of(forward, fc=nn.Linear(4, 4), gain=nn.Parameter(torch.ones(4)))
    assert sorted(placed(model, torch.randn(2, 4), config=config)) == [
        "fc.in0", "fc.out0", "fc.weight", "mul_0.in0", "param_quantizers.gain"
    ]  # fmt: skip
