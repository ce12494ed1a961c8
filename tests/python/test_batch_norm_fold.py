"""Folding of batch norms: the model computes the same, and nothing is folded that would change it."""

import copy
import os
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from simulations import ResNet20
from torch import nn

import detent.nn
from detent.ptq import fold_all_batch_norms
from detent.quantsim import QuantizationSimModel


def lively(model, dtype=torch.float64):
    """Every parameter and statistic away from its initial value, some gammas negative; eval mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None:
                module.running_mean.normal_()
                module.running_var.uniform_(0.3, 3.0)
            for parameter in module.parameters():
                nn.init.normal_(parameter)
    return model.to(dtype).eval()


def close(got, expected, ulps=64):
    """Within some ulps of the largest value: sums of a few dozen products in another order."""
    eps = torch.finfo(expected.dtype).eps
    error, size = (got - expected).abs().max().item(), expected.abs().max().item()
    return size > 0 and error <= ulps * eps * size


@torch.no_grad()
def check(model, x, pairs):
    """Fold, and compare outputs and the number of pairs."""
    expected = model(x.clone())
    found = fold_all_batch_norms(model, dummy_input=x.clone())
    assert len(found) == pairs
    got = model(x.clone())
    if pairs == 0:
        assert torch.equal(got, expected)
    else:
        assert close(got, expected), (got - expected).abs().max()
    return found


class Calls(nn.Module):
    """Layers by name, and a forward that is given."""

    def __init__(self, forward, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self._code = forward

    def forward(self, x):
        return self._code(self, x)


def conv_bn(forward, **layers):
    return lively(Calls(forward, conv=nn.Conv2d(3, 5, 3, padding=1), bn=nn.BatchNorm2d(5), **layers))


@pytest.fixture
def x():
    return torch.randn(2, 3, 7, 7, dtype=torch.float64)


LAYERS = {
    "Conv1d": (nn.Conv1d, nn.BatchNorm1d, 1),
    "Conv2d": (nn.Conv2d, nn.BatchNorm2d, 2),
    "Conv3d": (nn.Conv3d, nn.BatchNorm3d, 3),
    "ConvTranspose1d": (nn.ConvTranspose1d, nn.BatchNorm1d, 1),
    "ConvTranspose2d": (nn.ConvTranspose2d, nn.BatchNorm2d, 2),
    "ConvTranspose3d": (nn.ConvTranspose3d, nn.BatchNorm3d, 3),
}


# --- exactness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", LAYERS)
def test_norm_after_a_convolution(kind, groups, bias):
    conv, norm, dims = LAYERS[kind]
    model = lively(nn.Sequential(conv(4, 6, 3, stride=2, padding=1, groups=groups, bias=bias), norm(6, eps=1e-2)))
    layer, bn = model
    weight, data = layer.weight, layer.weight.data_ptr()
    x = torch.randn(2, 4, *[7] * dims, dtype=torch.float64)
    assert check(model, x, 1) == [(layer, bn)]
    assert type(model[1]) is nn.Identity and model[0] is layer
    assert layer.weight is weight and weight.data_ptr() == data and layer.bias.shape == (6,)


def test_depthwise(x):
    check(lively(nn.Sequential(nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6))), x, 1)


@pytest.mark.parametrize("bias", [True, False])
def test_norm_after_a_linear_layer(bias):
    model = lively(nn.Sequential(nn.Linear(5, 7, bias=bias), nn.BatchNorm1d(7)))
    check(model, torch.randn(4, 5, dtype=torch.float64), 1)


def test_linear_layer_with_its_channels_last_is_left_alone():
    """BatchNorm1d takes dimension 1 for channels, which is not the layer's."""
    check(lively(nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))), torch.randn(4, 7, 5, dtype=torch.float64), 0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("kind", ["Conv1d", "Conv2d", "Conv3d"])
def test_norm_before_a_convolution_without_padding(kind, groups, bias):
    conv, norm, dims = LAYERS[kind]
    model = lively(nn.Sequential(norm(4), conv(4, 6, 3, groups=groups, bias=bias)))
    norm, conv = model
    assert check(model, torch.randn(2, 4, *[7] * dims, dtype=torch.float64), 1) == [(conv, norm)]
    assert type(model[0]) is nn.Identity


def test_norm_before_a_linear_layer():
    check(lively(nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 7))), torch.randn(4, 5, dtype=torch.float64), 1)


@pytest.mark.parametrize(
    "conv, pairs",
    [
        (nn.Conv2d(3, 5, 3, padding=1), 0),
        (nn.Conv2d(3, 5, 3, padding=(0, 1)), 0),
        (nn.Conv2d(3, 5, 3, padding="same"), 0),
        (nn.Conv2d(3, 5, 1, padding="same"), 1),
        (nn.Conv2d(3, 5, 3, padding="valid"), 1),
        (nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), 0),
        (nn.ConvTranspose2d(3, 5, 3), 0),
    ],
)
def test_norm_before_a_convolution_folds_only_where_no_zeros_are_added(x, conv, pairs):
    check(lively(nn.Sequential(nn.BatchNorm2d(3), conv)), x, pairs)


def test_norms_on_both_sides(x):
    model = lively(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 2, 3)))
    conv = model[1]
    assert [layer for layer, _ in check(model, x, 2)] == [conv, conv]
    assert [type(part) for part in model] == [nn.Identity, nn.Conv2d, nn.Identity, nn.Conv2d]


def test_a_second_norm_stays(x):
    model = lively(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.BatchNorm2d(5)))
    check(model, x, 1)
    assert type(model[2]) is nn.BatchNorm2d


@pytest.mark.parametrize("options", [{"affine": False}, {"momentum": None}, {"eps": 0.5}])
def test_options_of_the_norm(x, options):
    check(lively(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, **options))), x, 1)


def test_norm_without_statistics_is_left_alone(x):
    model = lively(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, track_running_stats=False)))
    check(model, x, 0)


def test_identity_and_other_padding_modes_between(x):
    model = lively(
        nn.Sequential(nn.Conv2d(3, 5, 3, padding=1, padding_mode="circular"), nn.Identity(), nn.BatchNorm2d(5))
    )
    check(model, x, 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_the_rounded_float64_fold(x, dtype):
    half = lively(nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)), dtype)
    double = copy.deepcopy(half).double()
    assert len(fold_all_batch_norms(half, dummy_input=x.to(dtype))) == 1
    assert len(fold_all_batch_norms(double, dummy_input=x)) == 1
    for got, expected in zip(half.parameters(), double.parameters()):
        assert got.dtype == dtype and torch.equal(got, expected.to(dtype))


# --- what must not fold -----------------------------------------------------------------------------------------------


def _hooked(model, x):
    return model.bn(model.conv(x))


NOT_FOLDED = {
    "added": lambda m, x: m.bn(y := m.conv(x)) + y,
    "in place between": lambda m, x: m.bn(m.conv(x).mul_(2)),
    "in place before, result dropped": lambda m, x: (y := m.conv(x), y.relu_(), m.bn(y))[2],
    "in place on a view": lambda m, x: (y := m.conv(x), y[:, :1].zero_(), m.bn(y))[2],
    "in place through data": lambda m, x: (y := m.conv(x), y.data.mul_(2), m.bn(y))[2],
    "in place through numpy": lambda m, x: (y := m.conv(x), y.numpy().fill(2), m.bn(y))[2],
    "read as a list": lambda m, x: (y := m.conv(x), m.bn(y) + y.tolist()[0][0][0][0])[1],
    "changed afterwards": lambda m, x: (y := m.conv(x), z := m.bn(y), z + y.relu_())[2],
    "function between": lambda m, x: m.bn(F.relu(m.conv(x))),
    "view between": lambda m, x: m.bn(m.conv(x)[:, :, 1:]),
    "shape's values asked": lambda m, x: m.bn(y := m.conv(x)) * (1 if y.sum() > 1e9 else 2),
    "convolution twice": lambda m, x: m.bn(m.conv(x)) + m.conv(x),
    "norm twice": lambda m, x: m.bn(m.conv(x)) + m.bn(torch.ones_like(m.conv.bias)[None, :, None, None]),
    "weight read": lambda m, x: m.bn(m.conv(x)) * m.conv.weight.abs().mean(),
    "bias read": lambda m, x: m.bn(m.conv(x)) * m.conv.bias.sum(),
    "weight scaled": lambda m, x: m.bn(F.conv2d(x, m.conv.weight * 2, m.conv.bias)),
    "norm's tensors read": lambda m, x: m.bn(m.conv(x)) + m.bn.running_mean.mean(),
    "norm's type asked": lambda m, x: m.bn(m.conv(x)).to(m.bn.weight.dtype),
    "functional norm": lambda m, x: F.batch_norm(m.conv(x), m.bn.running_mean, m.bn.running_var, m.bn.weight),
    "batch statistics": lambda m, x: m.bn.train()(m.conv(x)),
}


@pytest.mark.parametrize("name", NOT_FOLDED)
def test_left_alone(x, name):
    model = conv_bn(NOT_FOLDED[name])
    before = copy.deepcopy(model.state_dict())
    if name != "batch statistics":
        check(model, x, 0)
    else:
        assert fold_all_batch_norms(model, dummy_input=x) == []
    assert type(model.bn) is nn.BatchNorm2d
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_output_that_is_returned_or_kept_is_left_alone(x):
    class Result:
        pass

    def opaque(model, x):
        result = Result()
        result.features = model.conv(x)
        result.out = model.bn(result.features)
        return result

    def kept(model, x):
        model.last = model.conv(x)
        return model.bn(model.last)

    for code in (opaque, kept, lambda m, x: (y := m.conv(x), m.bn(y))):
        assert fold_all_batch_norms(conv_bn(code), dummy_input=x) == []


def test_norm_whose_output_is_read_elsewhere_is_not_folded_forward(x):
    layers = {"bn": nn.BatchNorm2d(3), "conv": nn.Conv2d(3, 3, 1)}
    check(lively(Calls(lambda m, x: m.conv(y := m.bn(x)) + y, **layers)), x, 0)
    check(lively(Calls(lambda m, x: m.conv(y := m.bn(x)) + F.relu_(y), **layers)), x, 0)


@pytest.mark.parametrize("how", ["parameter", "memory", "part of the memory"])
def test_shared_weight_is_left_alone(x, how):
    model = conv_bn(lambda m, x: m.bn(m.conv(x)) + m.other(x), other=nn.Conv2d(3, 5, 3, padding=1))
    if how == "parameter":
        model.other.weight = model.conv.weight
    elif how == "memory":
        model.other.weight.data = model.conv.weight.data
    else:
        flat = torch.randn(6, 3, 3, 3, dtype=torch.float64)
        model.conv.weight.data, model.other.weight.data = flat[:5], flat[1:]
    check(model, x, 0)


def test_tied_weight_that_does_not_run_is_left_alone(x):
    model = conv_bn(_hooked, other=nn.Conv2d(3, 5, 3))
    model.other.weight = model.conv.weight
    check(model, x, 0)
    model.other.weight = nn.Parameter(torch.zeros(1))
    model.other.weight.data = model.conv.weight.data[:1]
    check(model, x, 0)


def test_parameters_side_by_side_in_one_buffer_fold(x):
    model = conv_bn(_hooked)
    sizes = [parameter.numel() for parameter in model.parameters()]
    flat = torch.cat([parameter.data.flatten() for parameter in model.parameters()])
    for parameter, part in zip(model.parameters(), flat.split(sizes)):
        parameter.data = part.view_as(parameter)
    check(model, x, 1)


def test_subclasses_fold_where_they_run_torchs_code(x):
    class Same(nn.Conv2d):
        pass

    class Activated(nn.BatchNorm2d):
        def forward(self, x):
            return F.relu(super().forward(x))

    class Unbiased(nn.Conv2d):
        def forward(self, x):
            return F.conv2d(x, self.weight)

    check(lively(nn.Sequential(Same(3, 5, 3), nn.BatchNorm2d(5))), x, 1)
    check(lively(nn.Sequential(nn.Conv2d(3, 5, 3), Activated(5))), x, 0)
    check(lively(nn.Sequential(Unbiased(3, 5, 3, bias=False), nn.BatchNorm2d(5))), x, 0)


def test_computed_weights_are_left_alone(x):
    model = conv_bn(_hooked)
    nn.utils.parametrizations.weight_norm(model.conv)
    check(model, x, 0)


# --- call sites -------------------------------------------------------------------------------------------------------


def test_functional_convolution_with_a_modules_parameters(x):
    check(conv_bn(lambda m, x: F.relu(m.bn(F.conv2d(x, m.conv.weight, m.conv.bias, padding=1)))), x, 1)


def test_norm_in_a_list_outside_the_module_tree_is_left_alone(x):
    model = conv_bn(lambda m, x: m.second(m.third(m.steps[1](m.steps[0](x)))), second=nn.BatchNorm2d(4),
                    third=nn.Conv2d(5, 4, 1))  # fmt: skip
    model.steps = [model.conv, model.bn]
    assert check(model, x, 1)[0][0] is model.third
    assert type(model.bn) is nn.BatchNorm2d and type(model.second) is nn.Identity


def test_norm_registered_under_two_names(x):
    model = conv_bn(lambda m, x: m.alias(m.conv(x)))
    model.alias = model.bn
    check(model, x, 1)
    assert model.alias is model.bn and type(model.bn) is nn.Identity


@pytest.mark.parametrize("wrapper", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_wrapped_model(x, wrapper):
    model = conv_bn(_hooked)
    expected = model(x)
    assert len(fold_all_batch_norms(wrapper(model), dummy_input=x)) == 1
    assert type(model.bn) is nn.Identity and close(model(x), expected)


def test_residual_network():
    model = lively(ResNet20())
    names = {name for name, _ in model.named_modules()}
    keys = set(model.state_dict())
    check(model, torch.randn(2, 3, 32, 32, dtype=torch.float64), 19)
    assert {name for name, _ in model.named_modules()} == names
    gone = {key for key in keys if ".bn" in key or key.startswith("bn")}
    added = {key.replace("weight", "bias") for key in keys if "conv" in key}
    assert set(model.state_dict()) == keys - gone | added


def test_trained_residual_network():
    folder = os.environ.get("DETENT_DATA")
    file = Path(folder or "") / "resnet20_cifar10_jpeg.safetensors"
    if not folder or not file.is_file():
        pytest.skip("DETENT_DATA does not name a folder with resnet20_cifar10_jpeg.safetensors")
    load_file = pytest.importorskip("safetensors.torch").load_file
    model = ResNet20()
    model.load_state_dict(load_file(file))
    check(model.double().eval(), torch.rand(4, 3, 32, 32, dtype=torch.float64), 19)


def test_sim_of_a_folded_model_calibrates():
    model, x = lively(ResNet20(), torch.float32), torch.randn(2, 3, 32, 32)
    expected = model(x)
    fold_all_batch_norms(model, x.shape)
    sim = QuantizationSimModel(model, x)
    sim.compute_encodings(lambda model: model(x))
    weights = [name for name, _ in sim.named_quantizers() if name.endswith("param_quantizers.weight")]
    assert len(weights) == 20 and not any("bn" in name for name, _ in sim.named_quantizers())
    assert (sim.model(x) - expected).abs().max() < 0.2 * expected.abs().max()
    sim.model.train()(x).sum().backward()
    assert sim.model.conv1.weight.grad is not None and sim.model.conv1.bias.grad is not None


# --- state ------------------------------------------------------------------------------------------------------------


def test_no_trace_is_left(x):
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Dropout(), nn.BatchNorm2d(5)).double()
    model.train()
    model[3].eval()
    model[0].weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(x).sum().backward()
    optimizer.step()
    held, state = list(optimizer.param_groups[0]["params"]), copy.deepcopy(optimizer.state_dict())
    statistics, generator = model[3].running_mean.clone(), torch.get_rng_state()
    bn = model[1]
    before = copy.deepcopy(bn.state_dict())
    assert fold_all_batch_norms(model, (2, 3, 7, 7)) == [(model[0], bn)]
    assert [module.training for module in model] == [True, True, True, False] and model.training
    assert torch.equal(torch.get_rng_state(), generator) and torch.equal(model[3].running_mean, statistics)
    assert not model[0].weight.requires_grad and model[0].bias.requires_grad
    assert model[0].weight is held[0] and optimizer.state_dict()["state"].keys() == state["state"].keys()
    assert all(torch.equal(value, bn.state_dict()[key]) for key, value in before.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in (*model.modules(), bn))
    assert torch.overrides._get_current_function_mode_stack() == []


def test_hooks_of_a_folded_norm_go_on(x):
    model, seen = conv_bn(_hooked), []
    expected = 2 * model(x)
    model.bn.register_forward_hook(lambda module, args, output: output * 2)
    handle = model.bn.register_forward_hook(lambda module, args, output: seen.append(type(module)))
    check(model, x, 1)
    assert seen[-1] is nn.Identity and close(model(x), expected)
    handle.remove()
    seen.clear()
    model(x)
    assert seen == []


def test_hook_that_reads_the_output_of_the_convolution(x):
    model, seen = conv_bn(_hooked), []
    handle = model.conv.register_forward_hook(lambda module, args, output: seen.append(output.mean()))
    check(model, x, 0)
    handle.remove()
    check(model, x, 1)


@pytest.mark.parametrize(
    "arguments",
    [
        lambda x: {"input_shapes": (1, 3, 7, 7)},
        lambda x: {"input_shapes": [1, 3, 7, 7]},
        lambda x: {"input_shapes": [(1, 3, 7, 7)]},
        lambda x: {"input_shapes": (1, 9), "dummy_input": x},
        lambda x: {"dummy_input": (x,)},
        lambda x: {"dummy_input": {"x": x}},
    ],
)
def test_forms_of_the_sample(x, arguments):
    assert len(fold_all_batch_norms(conv_bn(_hooked), **arguments(x))) == 1


def test_several_inputs():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)

        def forward(self, x, y):
            return self.bn(self.conv(x)) * y

    assert len(fold_all_batch_norms(Two(), [(1, 3, 7, 7), (1, 5, 1, 1)])) == 1


# --- errors -----------------------------------------------------------------------------------------------------------


def unchanged(model, call, error, match):
    before = copy.deepcopy(model.state_dict())
    kinds = [type(module) for module in model.modules()]
    with pytest.raises(error, match=match):
        call()
    after = model.state_dict()
    assert after.keys() == before.keys() and [type(module) for module in model.modules()] == kinds
    assert all(torch.equal(after[key].nan_to_num(), before[key].nan_to_num()) for key in before)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_errors_leave_the_model_alone(x):
    model = conv_bn(_hooked)
    unchanged(model, lambda: fold_all_batch_norms(model), ValueError, "neither input_shapes nor dummy_input")
    unchanged(model, lambda: fold_all_batch_norms(model, "abc"), ValueError, "input_shapes is 'abc', expected a shape")
    unchanged(model, lambda: fold_all_batch_norms(model, (1, 4, 7, 7)), RuntimeError, "channels")
    for other in (x, torch.jit.trace(model, x)):
        with pytest.raises(ValueError, match=f"model is a {type(other).__name__}, expected a torch.nn.Module"):
            fold_all_batch_norms(other, dummy_input=x)


def test_values_that_do_not_fit(x):
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Conv2d(5, 5, 3), nn.BatchNorm2d(5)).half()
    model[3].weight.data.fill_(60000)
    model[3].running_var.fill_(1e-4)
    unchanged(
        model, lambda: fold_all_batch_norms(model, (1, 3, 7, 7)), ValueError, "2 with its batch norm.*torch.float16"
    )
    model[3].running_var.fill_(float("nan"))
    unchanged(model, lambda: fold_all_batch_norms(model, (1, 3, 7, 7)), ValueError, "Look for NaN")


def test_model_that_needs_the_norm(x):
    model = conv_bn(lambda m, x: m.bn(m.conv(x)) + m.bn.eps)
    unchanged(model, lambda: fold_all_batch_norms(model, dummy_input=x), RuntimeError, "fails without bn: .*eps")


def test_quantized_model(x):
    sim = QuantizationSimModel(conv_bn(_hooked).float(), x.float())
    with pytest.raises(RuntimeError, match="quantized.*Fold first"):
        fold_all_batch_norms(sim.model, dummy_input=x.float())
    assert isinstance(sim.model.conv, detent.nn.QuantizedConv2d)
