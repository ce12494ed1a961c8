"""The workflow: build, calibrate, train, save, switch off."""

import copy
import io
import pickle
import warnings

import detent.nn
import pytest
import torch
from detent.defs import QuantScheme
from detent.quantsim import QuantizationSimModel, quantization_disabled
from torch import nn
from torch.utils.checkpoint import checkpoint

LEARNED = QuantScheme.training_range_learning_with_tf_init


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.drop = nn.Dropout(0.5)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2, groups=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flat = nn.Flatten()
        self.fc = nn.Linear(6, 5)

    def forward(self, x):
        return self.fc(self.flat(self.pool(self.up(self.drop(self.relu(self.bn(self.conv(x))))))))


@pytest.fixture
def x():
    torch.manual_seed(0)
    return torch.randn(4, 3, 8, 8)


@pytest.fixture
def net():
    torch.manual_seed(1)
    return Net().eval()


def calibrated(net, x, scheme="min_max", **options):
    sim = QuantizationSimModel(net, x, scheme, **options)
    sim.compute_encodings(lambda model: model(x))
    return sim


def test_placement(net, x):
    sim = QuantizationSimModel(net, x, default_output_bw=6, default_param_bw=4)
    assert [name for name, _ in sim.named_quantizers()] == [
        "conv.param_quantizers.weight", "conv.input_quantizers.0", "relu.output_quantizers.0",
        "up.param_quantizers.weight", "up.output_quantizers.0", "pool.output_quantizers.0",
        "fc.param_quantizers.weight", "fc.output_quantizers.0",
    ]  # fmt: skip
    quantizers = dict(sim.named_quantizers())
    weight, entry = quantizers["conv.param_quantizers.weight"], quantizers["conv.input_quantizers.0"]
    assert weight.shape == (8, 1, 1, 1) and weight.symmetric and weight.signed and weight.bitwidth == 4
    assert entry.shape == (1,) and not entry.symmetric and not entry.signed and entry.bitwidth == 6
    assert quantizers["up.param_quantizers.weight"].shape == (1, 3, 1, 1) and quantizers[
        "fc.param_quantizers.weight"
    ].shape == (5, 1)


@pytest.mark.parametrize(
    "scheme, weights, activations",
    [
        (None, "dynamic", "fixed"),
        ("tf", "dynamic", "fixed"),
        (LEARNED, "learned", "learned"),
        ("training_range_learning", "learned", "learned"),
    ],
)
def test_modes_of_the_schemes(net, x, scheme, weights, activations):
    sim = calibrated(net, x, scheme)
    for name, quantizer in sim.named_quantizers():
        assert quantizer.mode == (weights if "param" in name else activations)
    sim.model(x).sum().backward()
    learned = [
        name for name, parameter in sim.model.named_parameters() if "quantizers" in name and parameter.grad is not None
    ]
    assert bool(learned) == (activations == "learned")
    assert all(p.grad is not None for n, p in sim.model.named_parameters() if "quantizers" not in n)


def test_model_is_left_alone_or_quantized_in_place(net, x):
    net.train()
    net.bn.eval()
    before = copy.deepcopy(net.state_dict())
    generator = torch.get_rng_state()
    sim = QuantizationSimModel(net, x)
    assert torch.equal(generator, torch.get_rng_state())
    assert type(net.conv) is nn.Conv2d and sim.model is not net
    assert sim.model.training and not sim.model.bn.training and net.training
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
    assert set(before) <= set(sim.model.state_dict())
    weight, conv = net.conv.weight, net.conv
    inplace = QuantizationSimModel(net, x, in_place=True)
    assert (
        inplace.model is net
        and net.conv is conv
        and net.conv.weight is weight
        and isinstance(conv, detent.nn.QuantizedConv2d)
    )
    with pytest.raises(RuntimeError, match="quantized already.*original model"):
        QuantizationSimModel(net, x)


def test_failing_sample_leaves_an_in_place_model_alone(net):
    with pytest.raises(RuntimeError):
        QuantizationSimModel(net, torch.randn(1, 5, 8, 8), in_place=True)
    assert type(net.conv) is nn.Conv2d and not net.conv._forward_hooks and not net.training


@pytest.mark.parametrize("sample", ["tensor", "tuple", "list", "mapping"])
def test_forms_of_the_sample(net, x, sample):
    form = {"tensor": x, "tuple": (x,), "list": [x], "mapping": {"x": x}}[sample]
    assert len(list(QuantizationSimModel(net, form).quantizers())) == 8


def test_forward_before_calibration_raises_and_names_the_quantizer(net, x):
    with pytest.raises(RuntimeError, match="'conv.input_quantizers.0' has no range yet"):
        QuantizationSimModel(net, x).model(x)


def test_calibration_forms(net, x):
    one, two, none = (QuantizationSimModel(net, x) for _ in range(3))
    one.compute_encodings(lambda model: model(x))
    two.compute_encodings(lambda model, batches: [model(batch) for batch in batches], [x])
    none.compute_encodings(lambda model, nothing: model(x) if nothing is None else None, None)
    assert torch.equal(one.model(x), two.model(x)) and torch.equal(one.model(x), none.model(x))


def test_calibration_observes_float_activations_in_eval_mode(net, x):
    sim = QuantizationSimModel(net, x)
    sim.model.train()
    seen = []

    def callback(model):
        seen.append((model.training, torch.is_grad_enabled()))
        seen.append(model.conv.input_quantizers[0](x) is x)

        model(x)

    mean = sim.model.bn.running_mean.clone()
    sim.compute_encodings(callback)
    assert seen == [(False, False), True] and sim.model.training and torch.equal(mean, sim.model.bn.running_mean)
    assert sim.model.conv.input_quantizers[0].min.item() == x.min().item()


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
@pytest.mark.parametrize("scheme", ["min_max", LEARNED])
@pytest.mark.parametrize("before", [False, True])
def test_interrupted_calibration_leaves_everything_as_it_was(net, x, error, scheme, before):
    sim = calibrated(net, x, scheme) if before else QuantizationSimModel(net, x, scheme)
    sim.model.train()
    state = copy.deepcopy(sim.model.state_dict())

    def callback(model):
        model(x * 10)
        raise error

    with torch.no_grad():
        sim.model.fc.weight.mul_(1)
    with pytest.raises(error):
        sim.compute_encodings(callback)
    after = sim.model.state_dict()
    assert sim.model.training and list(after) == list(state)
    for key, value in state.items():
        assert torch.equal(after[key], value) if isinstance(value, torch.Tensor) else after[key] == value
    sim.model.eval()
    if before:
        sim.model(x)
    else:
        with pytest.raises(RuntimeError, match="no range yet"):
            sim.model(x)
    sim.compute_encodings(lambda model: model(x))
    sim.model(x)


def test_a_callback_that_runs_nothing_is_noticed(net, x):
    sim = QuantizationSimModel(net, x)
    with pytest.warns(UserWarning, match="no quantizer saw any data"):
        sim.compute_encodings(lambda model: None)


def test_a_layer_that_saw_nothing_passes_float_and_is_listed(x):
    class Branch(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.a(x) if x.shape[0] > 1 else self.b(x)

    sim = calibrated(Branch(), x)
    with pytest.warns(UserWarning, match="'b.input_quantizers.0' saw no data"):
        sim.model(x[:1])
    assert "saw no data" in str(sim)
    fresh = QuantizationSimModel(Branch(), x)
    fresh.model.load_state_dict(sim.model.state_dict())
    with pytest.warns(UserWarning, match="saw no data"):
        assert torch.equal(fresh.model(x[:1]), sim.model(x[:1]))


def test_recalibration_keeps_ranges_that_saw_nothing(net, x):
    sim = calibrated(net, x)
    before = sim.model.fc.output_quantizers[0].max.item()
    sim.compute_encodings(lambda model: model.conv(x * 2))
    assert sim.model.fc.output_quantizers[0].max.item() == before
    assert sim.model.conv.input_quantizers[0].max.item() == pytest.approx(2 * x.max().item())


@pytest.mark.parametrize("training", [False, True])
def test_off_equals_float_bit_for_bit(net, x, training):
    sim = calibrated(net, x)
    net.train(training), sim.model.train(training)
    with quantization_disabled(sim.model):
        torch.manual_seed(3)
        off = sim.model(x)
    torch.manual_seed(3)
    assert torch.equal(off, net(x)) and not torch.equal(sim.model(x), off)
    assert torch.equal(sim.model.bn.running_var, net.bn.running_var) or training
    if training:
        sim.model.bn.load_state_dict({**net.bn.state_dict()}, strict=False)


def test_subclasses_and_parametrized_layers_are_quantized_where_they_call(x):
    class Special(nn.Conv2d):
        def forward(self, x):
            return super().forward(x) * 2

    net = nn.Sequential(
        Special(3, 3, 1), torch.nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1)), nn.Conv2d(3, 2, 1)
    ).eval()
    sim = calibrated(net, x)
    names = {name for name, _ in sim.named_quantizers()}
    assert isinstance(sim.model[0], Special) and {
        "0.param_quantizers.weight", "0.conv2d_0.input_quantizers.0", "0.conv2d_0.output_quantizers.0",
        "0.mul_0.output_quantizers.0", "1.conv2d_0.input_quantizers.1", "1.conv2d_0.output_quantizers.0",
    } <= names  # fmt: skip
    assert "0.conv2d_0.input_quantizers.1" not in names
    assert torch.unique(sim.model(x)).numel() <= 256 and torch.equal(copy.deepcopy(sim.model)(x), sim.model(x))
    with quantization_disabled(sim.model):
        assert torch.equal(sim.model(x), net(x))


def test_hooks_and_attributes_survive(net, x):
    calls = []
    net.conv.register_forward_hook(lambda *_: calls.append(1))
    net.conv.note = "mine"
    sim = calibrated(net, x, in_place=True)
    calls.clear()
    sim.model(x)
    assert calls == [1] and sim.model.conv.note == "mine"


def test_tied_weights_share_one_quantizer(x):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.head = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, tokens):
            return self.head(self.embedding(tokens))

    tokens = torch.randint(11, (2, 5))
    sim = calibrated(Tied(), tokens)
    model = sim.model
    assert model.embedding.param_quantizers["weight"] is model.head.param_quantizers["weight"]
    assert {"embedding.param_quantizers.weight.clip", "head.param_quantizers.weight.clip"} <= set(model.state_dict())
    copied = copy.deepcopy(model)
    assert copied.embedding.param_quantizers["weight"] is copied.head.param_quantizers["weight"]
    assert torch.equal(copied(tokens), model(tokens))


def test_a_reused_layer_has_quantizers_for_each_use(x):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv(self.conv(x))

    sim = calibrated(Twice(), x)
    assert [name for name, _ in sim.named_quantizers()] == [
        "conv.param_quantizers.weight", "conv.input_quantizers.0", "conv.output_quantizers.0",
        "conv.use_1.output_quantizers.0",
    ]  # fmt: skip
    assert sim.model.conv.output_quantizers[0].max != sim.model.conv.use_1.output_quantizers[0].max


def test_dynamic_weights_follow_training_and_learned_ones_are_trained(net, x):
    for scheme in ("min_max", LEARNED):
        sim = calibrated(net, x, scheme)
        quantizer, activation = sim.model.fc.param_quantizers["weight"], sim.model.pool.output_quantizers[0]
        scale, held = quantizer.get_scale().clone(), activation.max.clone()
        optimizer = torch.optim.SGD(sim.model.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            sim.model(x).square().sum().backward()
            optimizer.step()
        assert not torch.equal(quantizer.get_scale(), scale)
        assert torch.equal(activation.max, held) == (scheme == "min_max")
        if scheme == "min_max":
            expected = sim.model.fc.weight.abs().amax(1, keepdim=True)
            assert torch.allclose(quantizer.get_scale(), expected / 127, rtol=0.01)
            frozen = quantizer.get_scale().clone()
            quantizer.mode = "learned"
            assert torch.equal(quantizer.get_scale(), frozen) and quantizer.mode == "learned"


def test_dynamic_ranges_follow_copies(net, x):
    sim = calibrated(net, x)
    copied, pickled = copy.deepcopy(sim.model), pickle.loads(pickle.dumps(sim.model))
    scale = sim.model.fc.param_quantizers["weight"].get_scale()
    for model in (copied, pickled):
        with torch.no_grad():
            model.fc.weight.mul_(2)
        assert torch.equal(model.fc.param_quantizers["weight"].get_scale(), 2 * scale)
    assert torch.equal(sim.model.fc.param_quantizers["weight"].get_scale(), scale)


@pytest.mark.parametrize("scheme", ["min_max", LEARNED])
def test_state_dict_into_a_fresh_sim(net, x, scheme):
    sim = calibrated(net, x, scheme)
    file = io.BytesIO()
    torch.save(sim.model.state_dict(), file)
    file.seek(0)
    fresh = QuantizationSimModel(Net().eval(), x)
    fresh.model.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh.model(x), sim.model(x))
    assert [q.mode for q in fresh.quantizers()] == [q.mode for q in sim.quantizers()]


@pytest.mark.parametrize("scheme", ["min_max", LEARNED])
def test_encodings_file_into_a_fresh_sim(net, x, scheme, tmp_path):
    sim = calibrated(net, x, scheme)
    sim.save_encodings_to_json(tmp_path, "net")
    fresh = QuantizationSimModel(net, x, scheme)
    fresh.load_encodings(tmp_path / "net.json", requires_grad=False)
    assert torch.equal(fresh.model(x), sim.model(x)) and {q.mode for q in fresh.quantizers()} == {"fixed"}
    other = QuantizationSimModel(nn.Sequential(nn.Linear(3, 3)), torch.randn(2, 3))
    with pytest.raises(RuntimeError, match="no quantizer for conv.input_0"):
        other.load_encodings(tmp_path / "net.json")
    other.load_encodings(tmp_path / "net.json", strict=False, partial=False)
    assert list(other.quantizers()) == []


def test_same_bits_everywhere(net, x):
    sim = calibrated(net, x)
    model = sim.model
    expected = model(x)
    with torch.no_grad():
        assert torch.equal(model(x), expected)
    with torch.inference_mode():
        assert torch.equal(model(x), expected)
    assert torch.equal(checkpoint(model, x, use_reentrant=False), expected)
    assert torch.equal(checkpoint(model, x.clone().requires_grad_(), use_reentrant=True), expected)
    assert torch.equal(torch.export.export(model, (x,)).module()(x), expected)
    assert torch.equal(torch.jit.trace(model, x)(x), expected)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(model), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), expected)
    assert torch.equal(torch.func.functional_call(model, dict(model.named_parameters()), (x,)), expected)


def test_half_models_keep_float32_ranges(net, x):
    sim = calibrated(net, x, LEARNED)
    sim.model.bfloat16()
    y = sim.model(x.bfloat16())
    y.sum().backward()
    assert y.dtype == torch.bfloat16 and {q.min.dtype for q in sim.quantizers()} == {torch.float32}
    dynamic = calibrated(net, x)
    dynamic.model.half()
    assert torch.isfinite(dynamic.model.conv.param_quantizers["weight"].get_scale()).all()


@pytest.mark.parametrize("padded", [False, True])
def test_transformer_fast_path_does_not_skip_quantization(padded):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    net = nn.TransformerEncoder(layer, 2).eval()
    data = torch.randn(2, 5, 16)
    options = {"src_key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2])} if padded else {}
    sim = QuantizationSimModel(net, data, "min_max", default_param_bw=4)
    sim.compute_encodings(lambda model: model(data, **options))
    with_grad = sim.model(data, **options)
    with torch.no_grad():
        quantized, expected = sim.model(data, **options), net(data, **options)
        assert (quantized[0] - expected[0]).abs().max() > 1e-3
        assert torch.allclose(quantized[0], with_grad[0], atol=0.1)  # attention itself still has two paths
        with quantization_disabled(sim.model):
            assert torch.equal(sim.model(data, **options), expected)
    copied = pickle.loads(pickle.dumps(sim.model))
    torch._dynamo.reset()
    compiled = torch.compile(copied, fullgraph=True, backend="eager")
    with torch.no_grad():
        assert torch.allclose(compiled(data), sim.model(data), atol=0.1)


def test_averaged_model(net, x):
    sim = calibrated(net, x, LEARNED)
    averaged = torch.optim.swa_utils.AveragedModel(sim.model).eval()
    averaged.update_parameters(sim.model)
    assert torch.equal(averaged(x), sim.model(x))


def test_report_lists_every_quantizer(net, x):
    sim = QuantizationSimModel(net, x)
    assert sum("not calibrated yet" in row.note for row in sim.summary()) == 8
    sim.compute_encodings(lambda model: model(x))
    lines = str(sim).splitlines()
    assert lines[0].split() == ["layer", "kind", "slot", "bits", "grid", "scales", "mode", "range", "note"]
    assert any(line.startswith("conv ") and "dynamic" in line and "8 per channel" in line for line in lines)


@pytest.mark.parametrize(
    "options, error, text",
    [
        (dict(quant_scheme="max"), ValueError, "quant_scheme is 'max'"),
        (dict(quant_scheme=3), ValueError, "expected a QuantScheme"),
        (dict(rounding_mode="stochastic"), ValueError, "expected 'nearest'"),
        (dict(default_output_bw=1), ValueError, "default_output_bw is 1"),
        (dict(default_param_bw=8.0), ValueError, "default_param_bw is 8.0"),
        (dict(config_file="htp"), FileNotFoundError, "none of the names default, "),
    ],
)
def test_bad_arguments_change_nothing(net, x, options, error, text):
    with pytest.raises(error, match=text):
        QuantizationSimModel(net, x, in_place=True, **options)
    assert type(net.conv) is nn.Conv2d


def test_a_clean_run_prints_nothing(net, x, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sim = calibrated(net, x, LEARNED, rounding_mode="nearest")
        sim.model.train()
        sim.model(x).sum().backward()
        sim.save_encodings_to_json(tmp_path, "net")
        str(sim)
