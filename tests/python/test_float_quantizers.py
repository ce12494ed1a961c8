"""Float formats as quantizers, as simulations, in files and in ONNX; numbers against the formula in float64."""

import copy
import io
import json
import warnings

import pytest
import torch
from torch import nn

from detent import Config, FloatFormat, QuantizationDataType, QuantizationSimModel, qat, quantization_disabled
from detent import load_checkpoint, save_checkpoint
from detent.config import Bits, Kernel
from detent.config_utils import set_activation_quantizers_to_float, set_blockwise_quantization_for_weights
from detent.encodings import FloatEncoding, v0_6_1, v1_0_0, v2_0_0
from detent.observers import MinMaxObserver, MovingAverageObserver, PercentileObserver, SqnrObserver
from detent.quantizers import (
    AffineQuantizer,
    FloatQuantizeDequantize,
    GroupedBlockQuantizeDequantize,
    Quantize,
    QuantizeDequantize,
    Quantizer,
)
from simulations import Tied, calibrated

FLOAT = QuantizationDataType.float
E4M3, E5M2 = FloatFormat.of("e4m3fn"), FloatFormat.of("e5m2")
ODD = FloatFormat(3, 2, finite=True, nan=False)


def rounded(x, format, scale=1.0):
    """The format's number nearest to x / scale, halves to even, times scale: in float64 from a float32 quotient."""
    value = (x / scale).clamp(-format.max, format.max).double()
    exponent = torch.frexp(value).exponent.sub(1).clamp(min=format.min_exponent).double()
    step = torch.exp2(exponent - format.mantissa_bits)
    return (torch.round(value / step) * step * torch.as_tensor(scale).double()).float()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Linear(64, 6)

    def forward(self, x):
        y = self.relu(self.conv(x))
        return self.head((y + y.mean((2, 3), keepdim=True)).flatten(1))


def data():
    return torch.randn(8, 1, 4, 4)


def simulation(*types, x=None, net=None, **options):
    types = types or (16, 16)
    options = {"default_output_bw": types[0], "default_param_bw": types[-1], "default_data_type": FLOAT, **options}
    return calibrated(Net().eval() if net is None else net, data() if x is None else x, **options)


# --- the quantizer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "e5m2", "e4m3fn", "e5m2fnuz", "e4m3fnuz"])
def test_without_a_scale_it_rounds_as_torch_casts_and_is_ready_at_once(dtype):
    quantizer, x = FloatQuantizeDequantize(dtype=dtype), torch.randn(1000) * 300
    of = getattr(torch, dtype if hasattr(torch, dtype) else f"float8_{dtype}")
    limit = torch.finfo(of).max
    assert quantizer.is_initialized() and not list(quantizer.parameters())
    assert torch.equal(quantizer(x), x.clamp(-limit, limit).to(of).float())
    with quantizer.compute_encodings():  # there is nothing to find
        assert torch.equal(quantizer(x), x.clamp(-limit, limit).to(of).float())
    format = quantizer.format
    twin = FloatQuantizeDequantize(format.exponent_bits, format.mantissa_bits, format.finite, format.unsigned_zero)
    assert torch.equal(twin(x), quantizer(x))


@pytest.mark.parametrize("shape, block_size", [((1,), None), ((4, 1), None), ((6,), None), ((4, 3), (1, 2))])
@pytest.mark.parametrize("format", [E4M3, E5M2, ODD, FloatFormat(4, 3)], ids=str)
def test_with_a_scale_the_largest_magnitude_falls_on_the_largest_number(format, shape, block_size):
    quantizer = FloatQuantizeDequantize(dtype=format, encoding_analyzer=MinMaxObserver(shape, block_size))
    with pytest.raises(RuntimeError, match="no range yet"):
        quantizer(torch.ones(4, 6))
    first, second = torch.randn(4, 6) * 3, torch.randn(4, 6)
    with quantizer.compute_encodings():
        quantizer(first), quantizer(second)
    most = torch.maximum(first.abs(), second.abs())
    if block_size is not None:
        most = most.reshape(4, 3, 2).amax(2)
    elif shape == (1,):
        most = most.max().reshape(1)
    else:
        most = most.amax(0) if shape == (6,) else most.amax(1, keepdim=True)
    assert torch.equal(quantizer.maxval, most)
    assert torch.equal(quantizer.get_scale(), most / format.max)
    assert torch.equal(quantizer.get_max(), most) and torch.equal(quantizer.get_min(), -most)
    scale = quantizer.get_scale()
    scale = scale.repeat_interleave(2, 1) if block_size is not None else scale
    x = torch.randn(4, 6) * 4
    assert torch.equal(quantizer(x), rounded(x, format, scale))


def test_zero_is_a_range_and_large_values_saturate():
    quantizer = FloatQuantizeDequantize(dtype="e4m3fn", observer=MinMaxObserver((1,)))
    with quantizer.compute_encodings():
        quantizer(torch.zeros(3))
    assert torch.equal(quantizer(torch.zeros(3)), torch.zeros(3))
    quantizer.set_range(-2.0, 1.0)
    assert quantizer(torch.tensor([9.0, -torch.inf])).tolist() == [2.0, -2.0]
    assert quantizer(torch.tensor([torch.nan])).isnan().all()


def test_gradient_is_straight_through_within_the_range_and_none_for_the_scale():
    quantizer = FloatQuantizeDequantize(dtype="e5m2", observer=MinMaxObserver((1,)))
    quantizer.set_range(-1.0, 1.0)
    x = torch.tensor([-3.0, -1.0, 0.3, 1.0, 1.1], requires_grad=True)
    quantizer(x).backward(torch.arange(1.0, 6.0))
    assert x.grad.tolist() == [0.0, 2.0, 3.0, 4.0, 0.0]
    assert not any(buffer.requires_grad for buffer in quantizer.buffers())


def test_dynamic_follows_the_parameter():
    layer = nn.Linear(6, 4)
    sim = calibrated(layer, torch.randn(5, 6), default_param_bw=8, default_data_type=FLOAT)
    quantizer, weight = sim.model.param_quantizers["weight"], sim.model.weight
    assert quantizer.mode == "dynamic"
    for _ in range(2):
        most = weight.detach().abs().amax(1, keepdim=True)
        assert torch.equal(quantizer.get_max(), most)
        assert torch.equal(quantizer(weight).detach(), rounded(weight.detach(), E4M3, most / 448))
        with torch.no_grad():
            weight.mul_(torch.rand(4, 1) * 3)
    quantizer.mode = "fixed"
    kept = quantizer.maxval.clone()
    with torch.no_grad():
        weight.mul_(2)
    assert torch.equal(quantizer.maxval, kept)
    with pytest.raises(ValueError, match="mode is 'learned', expected 'fixed' or 'dynamic'"):
        quantizer.mode = "learned"


@pytest.mark.parametrize("mode", ["fixed", "dynamic"])
def test_observers_choose_the_range_and_searches_for_integers_do_not(mode):
    x = torch.cat([torch.linspace(-1, 1, 999), torch.tensor([50.0])])

    def found(observer):
        quantizer = FloatQuantizeDequantize(dtype="e4m3fn", observer=observer, mode=mode)
        quantizer._calibrate_on(x)
        return quantizer._range_of(x)[1].item() if mode == "dynamic" else quantizer.maxval.item()

    assert found(MinMaxObserver((1,))) == found(SqnrObserver((1,))) == found(MovingAverageObserver((1,))) == 50.0
    assert found(PercentileObserver((1,), percentile=99.0)) < 1.1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_keep_their_type(dtype):
    quantizer = FloatQuantizeDequantize(dtype="e4m3fn", observer=MinMaxObserver((1,)))
    x = (torch.randn(50) * 3).to(dtype)
    with quantizer.compute_encodings():
        quantizer(x)
    kept = quantizer.maxval.clone()
    quantizer.to(dtype)
    assert quantizer.maxval.dtype == torch.float32 and torch.equal(quantizer.maxval, kept)
    exact = rounded(x if dtype == torch.float64 else x.float(), E4M3, quantizer.get_scale())
    assert quantizer(x).dtype == dtype
    torch.testing.assert_close(quantizer(x).float(), exact.to(dtype).float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: FloatQuantizeDequantize(), TypeError, "expected both numbers of bits, or a dtype"),
        (lambda: FloatQuantizeDequantize(4), TypeError, "expected both numbers of bits"),
        (lambda: FloatQuantizeDequantize(4, 3, dtype="float16"), TypeError, "or a dtype"),
        (lambda: FloatQuantizeDequantize(dtype="e4m3"), ValueError, "got 'e4m3', expected one of float32"),
        (lambda: FloatQuantizeDequantize(dtype=12), ValueError, "or 8, 16 or 32 bits"),
        (lambda: FloatQuantizeDequantize(dtype=torch.int8), ValueError, "got torch.int8"),
        (lambda: FloatQuantizeDequantize(4, 3, mode="dynamic"), ValueError, "mode is 'dynamic', expected 'fixed'"),
        (
            lambda: FloatQuantizeDequantize(dtype="bfloat16", observer=MinMaxObserver((1,))),
            ValueError, "bfloat16 came with a scale, expected none: it has the range of float32",
        ),
        (
            lambda: FloatQuantizeDequantize(4, 3, shape=(2, 1), observer=MinMaxObserver((3, 1))),
            ValueError, r"the observer has shape \(3, 1\), expected \(2, 1\)",
        ),
        (lambda: FloatQuantizeDequantize(4, 3).set_range(-1, 1), ValueError, "has no range to set"),
        (
            lambda: FloatQuantizeDequantize(4, 3).set_encoding(QuantizeDequantize((1,), 8, True)),
            ValueError, "is a QuantizeDequantize, expected FloatEncoding",
        ),
        (
            lambda: QuantizeDequantize((1,), 8, True).set_encoding(FloatEncoding(E4M3)),
            ValueError, "is a FloatEncoding, expected AffineEncoding",
        ),
    ],
)  # fmt: skip
def test_bad_arguments_say_what_came_and_what_was_expected(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_everything_is_a_quantizer_and_only_integers_are_affine():
    assert issubclass(FloatQuantizeDequantize, Quantizer) and not issubclass(FloatQuantizeDequantize, AffineQuantizer)
    assert all(issubclass(kind, AffineQuantizer) for kind in (Quantize, GroupedBlockQuantizeDequantize))


# --- state ------------------------------------------------------------------------------------------------------------

MADE = {
    "plain": lambda: FloatQuantizeDequantize(dtype="bfloat16", shape=(3, 1)),
    "fixed": lambda: FloatQuantizeDequantize(dtype=ODD, observer=MinMaxObserver((3, 1))),
    "dynamic": lambda: FloatQuantizeDequantize(5, 2, observer=MinMaxObserver((3, 2), (1, 2)), mode="dynamic"),
    "int": lambda: QuantizeDequantize((3, 1), 4, True, mode="fixed"),
    "learned": lambda: QuantizeDequantize((1,), 8, False, parametrization="scale_zero_point", grad_scale="lsq"),
    "grouped": lambda: GroupedBlockQuantizeDequantize(
        (3, 2), 4, True, 8, block_size=(1, 2), block_grouping=(1, -1), mode="fixed"
    ),
}


@pytest.mark.parametrize("into", MADE)
@pytest.mark.parametrize("of", MADE)
def test_a_state_makes_any_quantizer_what_it_speaks_of(of, into):
    if {of, into} < {"int", "learned", "grouped"} and "grouped" in (of, into):
        pytest.skip("blocks with integer scales are told apart by test_grouped_blocks")
    x = torch.randn(3, 4)
    given, taken = MADE[of](), MADE[into]()
    with given.compute_encodings():
        given(x)
    taken._label, taken.enabled = "place", True
    calls = []
    taken.register_forward_hook(lambda *_: calls.append(1))
    stream = io.BytesIO()
    torch.save(given.state_dict(), stream)
    stream.seek(0)
    taken.load_state_dict(torch.load(stream, weights_only=True))
    assert type(taken) is type(given) and taken.mode == given.mode and taken._label == "place"
    assert torch.equal(taken(x), given(x)) and calls == [1]
    assert torch.equal(copy.deepcopy(taken)(x), given(x))


def test_a_damaged_state_changes_nothing():
    quantizer, x = QuantizeDequantize((1,), 4, True, mode="fixed"), torch.randn(9)
    quantizer.set_range(-1.0, 1.0)
    before = quantizer(x)
    text = json.loads(bytes(MADE["fixed"]().get_extra_state().tolist()))
    for change in ({"format": 3}, {"format": {"exponent_bits": 4}}, {"shape": [0]}, {"mode": "learned"}):
        state = torch.tensor(list(json.dumps({**text, **change}).encode()), dtype=torch.uint8)
        with pytest.raises(RuntimeError):
            quantizer.load_state_dict({"maxval": torch.ones(3, 1), "_extra_state": state})
        assert type(quantizer) is QuantizeDequantize and torch.equal(quantizer(x), before)
    codes = Quantize((1,), 4, True)
    with pytest.raises(RuntimeError, match="lacks"):
        codes.load_state_dict(MADE["plain"]().state_dict())


def test_written_in_place_is_a_range_too():
    quantizer = MADE["fixed"]()
    quantizer.maxval.copy_(torch.ones(3, 1))
    assert quantizer.is_initialized() and quantizer(torch.full((3, 1), 0.3)).unique().numel() == 1


# --- simulations ------------------------------------------------------------------------------------------------------


def test_sixteen_bits_need_no_calibration_and_round_every_tensor():
    net, x = Net().eval(), data()
    sim = QuantizationSimModel(net, x, default_output_bw=16, default_param_bw=16, default_data_type=FLOAT)
    assert {str(quantizer.format) for quantizer in sim.quantizers()} == {"float16"}

    def half(tensor):
        return tensor.half().float()

    with torch.no_grad():
        y = half(net.relu(nn.functional.conv2d(half(x), half(net.conv.weight), net.conv.bias, padding=1)))
        y = half(y + half(y.mean((2, 3), keepdim=True)))
        expected = half(nn.functional.linear(y.flatten(1), half(net.head.weight), net.head.bias))
        assert torch.equal(sim.model(x), expected)
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model(x), net(x))
    assert torch.equal(QuantizationSimModel.get_original_model(sim.model)(x), net(x))
    with torch.no_grad():
        folded = QuantizationSimModel.get_original_model(sim.model, qdq_weights=True)
        assert torch.equal(folded.head.weight, half(net.head.weight))
    assert "float16  none" in str(sim) and "in float16" in sim._repr_html_()


def test_eight_bits_have_scales_per_tensor_and_per_channel():
    sim = simulation(8, 8)
    assert {str(quantizer.format) for quantizer in sim.quantizers()} == {"float8_e4m3fn"}
    assert all(quantizer.scaled and quantizer.is_initialized() for quantizer in sim.quantizers())
    assert sim.model.conv.param_quantizers["weight"].shape == (4, 1, 1, 1)
    assert all(row.low is not None for row in sim.summary() if row.quantizer is not None)
    assert sim.quantizer_args()["dtype"] == "float" and sim.quantizer_args()["activation_bitwidth"] == 8


def test_layers_may_differ_and_mix_with_integers():
    config = Config.load("htp_v73")
    config.override("head", output_bw=8, param_bw=4)
    config.override(nn.Conv2d, param_bw="e5m2", output_bw=torch.bfloat16)
    config.override("add_0", output_bw=FloatFormat(3, 4))
    sim = simulation(config_file=config, quant_scheme="tf_enhanced")
    of = {name: quantizer for name, quantizer in sim.named_quantizers()}
    assert of["head.output_quantizers.0"].bitwidth == 8 and of["head.param_quantizers.weight"].bitwidth == 4
    assert isinstance(of["head.output_quantizers.0"], QuantizeDequantize)
    assert str(of["conv.param_quantizers.weight"].format) == "float8_e5m2"
    assert str(of["conv.input_quantizers.0"].format) == "bfloat16"
    assert of["add_0.output_quantizers.0"].format == FloatFormat(3, 4)
    assert str(of["relu.output_quantizers.0"].format) == "float16"
    with pytest.raises(ValueError, match="override: param_bw: FloatFormat.of: got 'e4'"):
        config.override("head", param_bw="e4")


def test_fixed_ranges_and_learning_schemes():
    net = nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1))
    sim = simulation(8, net=net, x=torch.randn(5, 4), config_file="htp_v73", quant_scheme="training_range_learning")
    assert sim.model[1].output_quantizers[0].maxval.tolist() == [1.0]
    assert {quantizer.mode for quantizer in sim.quantizers()} == {"fixed", "dynamic"}
    assert not list(sim.quantizer_parameters())
    before = [str(quantizer) for quantizer in sim.quantizers()]
    qat.use_lsq(sim)
    qat.set_modes(sim, activations="learned", parameters="learned")
    assert [str(quantizer) for quantizer in sim.quantizers()] == before
    loss = sim.model(torch.randn(5, 4)).square().sum() + qat.dampening_loss(sim)
    loss.backward()
    assert sim.model[0].weight.grad.abs().sum() > 0
    qat.set_modes(sim, parameters="fixed")
    assert {quantizer.mode for quantizer in sim.quantizers()} == {"fixed"}


def test_supported_kernels_may_be_of_floats():
    config = Config.load()
    config.defaults.supported_kernels = [Kernel(Bits(16, "float"), Bits(16, "float"))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        simulation(config_file=config)
    with pytest.warns(UserWarning, match="int8 activations and float16 parameters"):
        QuantizationSimModel(Net().eval(), data(), default_param_bw="float16", config_file=config)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"default_output_bw": 12}, "default_output_bw is 12 with QuantizationDataType.float, expected 8, 16 or 32"),
        ({"default_data_type": QuantizationDataType.undefined}, "expected QuantizationDataType.int or float"),
        ({"default_param_bw": "e4m3"}, "default_param_bw: FloatFormat.of: got 'e4m3'"),
        ({"default_param_bw": 1.5}, "default_param_bw is 1.5, expected an integer from 2 to 32, or a float format"),
    ],
)
def test_bad_types_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        QuantizationSimModel(nn.Linear(2, 2), torch.randn(1, 2), **{"default_data_type": FLOAT, **options})


KINDS = {
    "float16": (16, 16),
    "mixed": ("e4m3fn", FloatFormat(3, 4)),
    "int": (QuantizationDataType.int, 6),
}


def of_kind(kind, net, x):
    if kind == "int":
        return simulation(8, 4, net=net, x=x, default_data_type=QuantizationDataType.int)
    return simulation(*KINDS[kind], net=net, x=x)


@pytest.mark.parametrize("into", KINDS)
@pytest.mark.parametrize("of", KINDS)
def test_state_encodings_and_checkpoints_make_any_sim_the_saved_one(of, into, tmp_path):
    net, x = Net().eval(), data()
    net.conv2 = net.conv  # one module, two names
    saved = of_kind(of, net, x)
    expected = saved.model(x)
    sim = of_kind(into, net, x)
    sim.model.load_state_dict(saved.model.state_dict())
    assert torch.equal(sim.model(x), expected)
    sim = of_kind(into, net, x)
    sim.model.load_state_dict(saved.quantizer_state_dict(), strict=False)
    assert torch.equal(sim.model(x), expected)
    save_checkpoint(saved, tmp_path / "sim.pt")
    assert torch.equal(load_checkpoint(tmp_path / "sim.pt", of_kind(into, net, x)).model(x), expected)
    for version in ("0.6.1", "1.0.0", "2.0.0"):
        saved.save_encodings_to_json(tmp_path, "sim", version)
        sim = of_kind(into, net, x)
        sim.load_encodings(tmp_path / "sim.json")
        assert torch.equal(sim.model(x), expected), version


def test_tied_weights_stay_tied_where_the_kind_changes():
    x = torch.randn(3, 4)
    saved, sim = simulation(8, net=Tied(), x=x), of_kind("int", Tied(), x)
    sim.model.load_state_dict(saved.model.state_dict())
    assert sim.model.first.param_quantizers["weight"] is sim.model.second.param_quantizers["weight"]
    assert torch.equal(sim.model(x), saved.model(x))


def test_copies_halves_replicas_and_folding_compute_the_same():
    x = data()
    sim = simulation("e4m3fn", "e5m2", x=x)
    expected = sim.model(x)
    assert torch.equal(copy.deepcopy(sim.model)(x), expected)
    replica = sim.model.head.output_quantizers[0]._replicate_for_data_parallel()
    assert torch.equal(replica(expected), sim.model.head.output_quantizers[0](expected))
    half = copy.deepcopy(sim.model).half()
    assert half.head.output_quantizers[0].maxval.dtype == torch.float32 and half(x.half()).dtype == torch.float16
    sim.fold_param_quantizers()
    assert torch.equal(sim.model(x), expected)
    assert torch.equal(sim.model.head.param_quantizers["weight"](sim.model.head.weight), sim.model.head.weight)


@pytest.mark.parametrize("types", [("float16", "float16"), ("e4m3fn", "e4m3fn")])
def test_compiles_as_one_graph(types):
    x = data()
    sim = simulation(*types, x=x)
    compiled = torch.compile(sim.model, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), sim.model(x))
    compiled(x).sum().backward()


def test_helpers_change_what_is_built():
    sim = simulation(8, 8, default_data_type=QuantizationDataType.int)
    set_activation_quantizers_to_float(sim, [nn.Linear], dtype=torch.bfloat16)
    assert str(sim.model.head.output_quantizers[0]) == "FloatQuantizeDequantize(bfloat16)"
    assert sim.model.head.output_quantizers[0]._label == "head.output_quantizers.0"
    with pytest.raises(ValueError, match="selects no layer whose inputs or outputs are quantized"):
        set_activation_quantizers_to_float(sim, [nn.LSTM], 5, 10)
    sim = simulation(16)
    set_blockwise_quantization_for_weights(sim, [nn.Linear], 4, True, block_size=16)
    assert isinstance(sim.model.head.param_quantizers["weight"], QuantizeDequantize)
    sim.compute_encodings(lambda model: model(data()))
    sim.model(data())


# --- files ------------------------------------------------------------------------------------------------------------


def test_files_say_bits_alone_where_those_are_enough():
    half = FloatEncoding(FloatFormat.of(torch.float16))
    assert v0_6_1.entry_of("x", half) == [{"bitwidth": 16, "dtype": "float"}]
    assert v1_0_0.entry_of("x", half) == {"name": "x", "enc_type": "PER_TENSOR", "dtype": "FLOAT", "bw": 16}
    assert v2_0_0.entry_of("x", half) == {"name": "x", "output_dtype": "float16"}
    scaled = FloatEncoding(ODD, torch.tensor([0.5]))
    assert v2_0_0.entry_of("x", scaled) == {
        "name": "x", "output_dtype": "float6", "exponent_bits": 3, "mantissa_bits": 2, "finite": True, "nan": False,
        "y_scale": 0.5,
    }  # fmt: skip


FLOAT_ENTRY = {"name": "output_0", "enc_type": "PER_TENSOR", "dtype": "FLOAT", "bw": 8}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"bw": 2}, "bw is 2, expected an integer from 3 to 32"),
        ({"bw": 16.5}, "bw is 16.5, expected an integer"),
        ({"bw": 12}, "is a float of 12 bits, expected exponent_bits and mantissa_bits"),
        ({"exponent_bits": 4}, "lacks mantissa_bits"),
        ({"exponent_bits": 9, "mantissa_bits": 3}, "exponent_bits is 9, expected an integer from 2 to 8"),
        ({"exponent_bits": 4, "mantissa_bits": 10**9}, "mantissa_bits is 1000000000, expected"),
        ({"exponent_bits": True, "mantissa_bits": 3}, "exponent_bits is True, expected"),
        ({"exponent_bits": 5, "mantissa_bits": 3}, "has 8 bits, expected 9"),
        ({"exponent_bits": 4, "mantissa_bits": 3, "finite": "yes"}, "finite is 'yes', expected true or false"),
        ({"exponent_bits": 4, "mantissa_bits": 3, "nan": False}, "Pass finite=True"),
        ({"scale": []}, "expected a list with at least one element"),
        ({"scale": 0.5}, "expected a list"),
        ({"scale": [0.0]}, "expected a positive number"),
        ({"scale": [-1.0]}, "expected a positive number"),
        ({"scale": [float("nan")]}, "expected a finite number"),
        ({"scale": [1e38]}, "that takes 448 to one that is finite in float32"),
        ({"scale": [1e-60]}, "expected a positive number"),
        ({"scale": ["1"]}, "expected a finite number"),
        ({"scale": [1.0, 2.0]}, "is PER_TENSOR and has 2 scales"),
        ({"enc_type": "LPBQ"}, "enc_type 'LPBQ', expected"),
        ({"enc_type": "PER_BLOCK", "scale": [1.0]}, "lacks block_size"),
        ({"offset": [0]}, "is of a float type and has offset"),
        ({"is_sym": True}, "is of a float type and has is_sym"),
        ({"bw": 16, "exponent_bits": 8, "mantissa_bits": 7, "scale": [1e-30]}, "bfloat16 came with a scale"),
        ({"enc_type": "PER_CHANNEL", "scale": [1.0, 2.0]}, "has 2 scales, expected 1"),
    ],
)
def test_hostile_entries_are_refused_and_change_nothing(change, message):
    x = torch.randn(5, 4)
    for sim in (simulation(8, net=nn.Linear(4, 2), x=x), of_kind("int", nn.Linear(4, 2), x)):
        before, kinds = sim.model(x), [str(quantizer) for quantizer in sim.quantizers()]
        good = {**FLOAT_ENTRY, "name": "input_0", "scale": [0.25]}
        content = {"version": "1.0.0", "activation_encodings": [good, {**FLOAT_ENTRY, **change}]}
        with pytest.raises(ValueError, match=message):
            sim.load_encodings(content)
        assert torch.equal(sim.model(x), before) and [str(quantizer) for quantizer in sim.quantizers()] == kinds


@pytest.mark.parametrize(
    "content, message",
    [
        ({"version": "2.0.0", "encodings": [{"name": "output_0", "output_dtype": "float7"}]}, "is a float of 7 bits"),
        (
            {"version": "2.0.0", "encodings": [{"name": "weight", "output_dtype": "float8e9m9", "y_scale": 1.0}]},
            "output_dtype is",
        ),
        (
            {"version": "2.0.0", "encodings": [{"name": "output_0", "output_dtype": "float16", "y_zero_point": 0}]},
            "has y_zero_point, expected none",
        ),
        (
            {"version": "2.0.0", "encodings": [{"name": "weight", "output_dtype": "float8e5m2", "y_scale": [1.0]}]},
            "lacks axis",
        ),
        (
            {"activation_encodings": {}, "param_encodings": {"weight": [{"bitwidth": 16, "dtype": "float"}] * 2}},
            "has 0 scales in 2 entries",
        ),
        (
            {"activation_encodings": {}, "param_encodings": {"weight": [
                {"bitwidth": 16, "dtype": "float", "scale": 1.0}, {"bitwidth": 8, "dtype": "float", "scale": 1.0}]}},
            "has 2 float formats, expected one",
        ),
        (
            {"activation_encodings": {}, "param_encodings": {"weight": [
                {"bitwidth": 16, "dtype": "float"}, {"bitwidth": 8, "dtype": "int"}]}},
            "dtype is 'float', expected 'int', or 'float' throughout",
        ),
    ],
)  # fmt: skip
def test_hostile_files_of_the_other_formats(content, message):
    sim = simulation(8, net=nn.Linear(4, 2), x=torch.randn(5, 4))
    with pytest.raises(ValueError, match=message):
        sim.load_encodings(content)


def test_aimet_files_of_half_floats_load():
    sim = of_kind("int", nn.Linear(4, 2), torch.randn(5, 4))
    entry = {"bitwidth": 16, "dtype": "float"}
    sim.load_encodings({
        "activation_encodings": {"": {"input": {"0": entry}, "output": {"0": entry}}},
        "param_encodings": {"weight": [entry]},
    })  # fmt: skip
    assert {str(quantizer) for quantizer in sim.quantizers()} == {"FloatQuantizeDequantize(float16)"}
