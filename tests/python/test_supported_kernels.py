"""supported_kernels of a configuration: what is said, what is refused, what is raised to what the device has."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from simulations import module_of
from torch import nn

from detent import Config, QuantizationSimModel, float_format
from detent.config import Bits, Kernel, OpType

INT = Kernel(Bits(8), Bits(8)), Kernel(Bits(16), Bits(8)), Kernel(Bits(16), Bits(4))
HALF = Kernel(Bits(16, "float"), Bits(16, "float"))


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(4, 4), nn.Sigmoid(), nn.Linear(4, 4))


def config(action, *kernels, **of_types):
    made = Config.load()
    made.on_missing_kernel = action
    made.defaults.supported_kernels = list(kernels)
    for op, listed in of_types.items():
        made.op_type[op] = OpType(supported_kernels=listed)
    return made


def sim_of(net, made, **options):
    return QuantizationSimModel(net, torch.randn(2, 4), config_file=made, **options)


def bits(sim, layer):
    module = sim.model.get_submodule(layer)
    weight = module.param_quantizers["weight"].bitwidth if "weight" in module.param_quantizers else None
    return module.output_quantizers[0].bitwidth, weight


def test_a_warning_names_the_layer_what_was_asked_and_what_is_permitted(net):
    expected = (
        "supported_kernels: no kernel for 2 operators: 0 (Gemm) was asked to run with int8 activations and int4 "
        "parameters, the configuration permits int8 activations and int8 parameters or int16 activations and int8 "
        "parameters or int16 activations and int4 parameters; 2 (Gemm) was asked"
    )
    with pytest.warns(UserWarning) as said:
        sim = sim_of(net, config("warn", *INT), default_param_bw=4)
    assert len(said) == 1 and str(said[0].message).startswith(expected) and said[0].filename == __file__
    assert bits(sim, "0") == (8, 4)
    assert sim.get_supported_kernels() == {"defaults": list(INT)}


@pytest.mark.parametrize("action", ["allow", "enforce", "raise", "warn"])
@pytest.mark.parametrize("output, param", [(8, 8), (16, 8), (16, 4)])
def test_what_a_kernel_runs_is_left_alone(net, action, output, param):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sim = sim_of(net, config(action, *INT), default_output_bw=output, default_param_bw=param)
        assert bits(sim, "0") == bits(sim, "2") == (output, param)
        sim_of(net, config("allow", *INT), default_output_bw=4)


def test_raising_leaves_an_in_place_model_as_it_was(net):
    made, modules = config("raise", Gemm=[INT[2]]), copy.deepcopy(dict(net.named_modules()))
    with pytest.raises(ValueError, match=r"0 \(Gemm\) was asked .*on_missing_kernel, which is 'raise'"):
        sim_of(net, made, in_place=True)
    assert [type(module) for module in net.modules()] == [type(module) for module in modules.values()]
    sim_of(net, made, in_place=True, default_output_bw=16, default_param_bw=4)


@pytest.mark.parametrize("kernels, expected", [(INT[1:], (16, 8)), ([HALF, *INT], (8, 8)), ([HALF], (16, 16))])
def test_enforced_bits_are_those_of_the_first_kernel(net, kernels, expected):
    sim = sim_of(net, config("enforce", *kernels))
    assert bits(sim, "0") == bits(sim, "2") == expected
    if kernels == [HALF]:
        assert sim.model[0].output_quantizers[0].format == float_format.FloatFormat.of(torch.float16)


def test_each_type_of_operator_has_its_kernels(net):
    sim = sim_of(net, config("enforce", *INT, Sigmoid=[Kernel(Bits(16))]))
    assert (bits(sim, "0"), bits(sim, "1"), bits(sim, "2")) == ((8, 8), (16, None), (8, 8))
    assert list(sim.get_supported_kernels()) == ["defaults", "Sigmoid"]
    functional = module_of(lambda self, x: torch.sigmoid(F.linear(x, self.layers[0].weight)), nn.Linear(4, 4))
    with pytest.raises(ValueError, match=r"linear_0 \(Gemm\) was asked to run with int8 activations and int8 param"):
        sim_of(functional, config("raise", Gemm=[INT[2]], Sigmoid=[Kernel(Bits(8))]))


@pytest.mark.parametrize(
    "kernel, options",
    [
        (Kernel(Bits(8), Bits(4)), {}),
        (Kernel(Bits(4), Bits(8)), {}),
        (INT[0], {"default_output_bw": 16}),
        (Kernel(Bits(16), Bits(16)), {"default_output_bw": torch.float16, "default_param_bw": torch.float16}),
    ],
    ids=str,
)  # fmt: skip
def test_enforcing_never_takes_bits_away(net, kernel, options):
    with pytest.raises(ValueError, match="Gemm was asked .* holds less. The configuration permits int"):
        sim_of(net, config("enforce", kernel), **options)


def test_overrides_are_not_enforced_but_held_to_the_list(net):
    made = config("enforce", *INT)
    made.override("0", output_bw=16)
    assert bits(sim_of(net, made), "0") == (16, 8)
    made.override("2", param_bw=2)
    with pytest.raises(ValueError, match=r"2 \(Gemm\) was asked to run with int8 activations and int2 parameters"):
        sim_of(net, made)


def test_the_answer_is_checked_copied_and_not_written(net, tmp_path):
    made = config("allow", *INT)
    assert Config.load(made).on_missing_kernel == "allow"
    made.save(tmp_path / "made.json")
    assert Config.load(tmp_path / "made.json").on_missing_kernel == "warn"
    made.on_missing_kernel = "ignore"
    with pytest.raises(ValueError, match="on_missing_kernel is 'ignore', expected one of 'warn', 'allow', 'raise'"):
        sim_of(net, made)
