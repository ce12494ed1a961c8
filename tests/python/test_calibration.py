"""Calibration of whole models: every scheme, every form, and what becomes of a dynamic range."""

import copy

import detent
import pytest
import torch
from detent import QuantizationSimModel, QuantScheme
from detent.observers import EntropyObserver, MinMaxObserver, MovingAverageObserver, MseObserver, SqnrObserver, observer_of
from detent.quantizers import QuantizeDequantize, calibration
from torch import nn

import oracle

SCHEMES = [scheme for scheme in QuantScheme]
HISTOGRAM_SCHEMES = ["tf_enhanced", "percentile", "mse", "entropy"]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)).mean((2, 3)))


@pytest.fixture
def net():
    torch.manual_seed(3)
    return Net()


@pytest.fixture
def batches():
    torch.manual_seed(4)
    return [torch.randn(4, 3, 8, 8) * spread for spread in (0.5, 3.0, 1.0)]


def run(batches):
    def callback(model):
        for batch in batches:
            model(batch)

    return callback


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_every_scheme_calibrates_trains_and_survives_a_state_dict(net, batches, scheme):
    sim = QuantizationSimModel(net, batches[0], scheme, default_output_bw=4, default_param_bw=4)
    sim.compute_encodings(run(batches))
    y = sim.model(batches[0])
    y.sum().backward()
    learned = scheme.name.startswith("training_range_learning")
    assert all((q.mode == "learned") == learned for q in sim.quantizers())
    other = QuantizationSimModel(net, batches[0], scheme)
    other.model.load_state_dict(sim.model.state_dict())
    assert torch.equal(other.model(batches[0]), y)
    assert torch.equal(copy.deepcopy(sim.model)(batches[0]), y)


@pytest.mark.parametrize("scheme", SCHEMES, ids=lambda scheme: scheme.name)
def test_activation_ranges_are_those_of_the_schemes_observer(net, batches, scheme):
    sim = QuantizationSimModel(net, batches[0], scheme)
    sim.compute_encodings(run(batches))
    quantizer, alone = sim.model.first.input_quantizers[0], observer_of(scheme)
    for batch in batches:
        alone.update(batch)
    low, high = alone.range(0, 255, False)
    assert torch.equal(quantizer.min.detach(), low) and torch.equal(quantizer.max.detach(), high)


@pytest.mark.parametrize("scheme", HISTOGRAM_SCHEMES)
def test_batch_order_and_size_change_no_bit(batches, scheme):
    scales = []
    for order in (batches, batches[::-1], [torch.cat(batches)]):
        quantizer = QuantizeDequantize((1,), 8, False, observer=observer_of(QuantScheme.from_str(scheme)))
        with quantizer.compute_encodings():
            for batch in order:
                quantizer(batch)
        scales.append(quantizer.get_scale())
    assert torch.equal(scales[0], scales[1]) and torch.equal(scales[0], scales[2])


# --- dynamic ranges ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["tf_enhanced", "mse", "entropy"])
def test_a_dynamic_range_keeps_the_schemes_choice_while_the_weights_move(net, batches, scheme):
    sim = QuantizationSimModel(net, batches[0], scheme, default_param_bw=4)
    with torch.no_grad():
        sim.model.first.weight[0, 0, 0, 0] = 3.0  # an outlier
    sim.compute_encodings(run(batches))
    quantizer = sim.model.first.param_quantizers["weight"]
    alone = observer_of(sim.quant_scheme, quantizer.shape)
    alone.update(sim.model.first.weight)
    low, high = alone.range(quantizer.qmin, quantizer.qmax, True)
    assert quantizer.mode == "dynamic" and quantizer.clip.shape == (8, 1, 1, 1)
    assert float(quantizer.clip[0]) < 1 or scheme == "entropy"
    torch.testing.assert_close(quantizer.get_scale(), (high - low) / 15, rtol=1e-6, atol=0)
    before = quantizer.get_scale()
    with torch.no_grad():
        sim.model.first.weight *= 2
    torch.testing.assert_close(quantizer.get_scale(), 2 * before, rtol=1e-6, atol=0)
    expected = oracle.fake_quantize(
        sim.model.first.weight, quantizer.get_scale().flatten(), None, -8, 7, axis=0, real=torch.float32
    )
    assert torch.equal(quantizer(sim.model.first.weight).detach(), expected)


def test_min_max_leaves_one_clip_of_one(net, batches):
    for scheme in ("min_max", "moving_average", "percentile"):
        sim = QuantizationSimModel(net, batches[0], scheme)
        sim.compute_encodings(run(batches))
        clip = sim.model.first.param_quantizers["weight"].clip
        torch.testing.assert_close(clip, torch.ones_like(clip), rtol=1e-6, atol=0)


@pytest.mark.parametrize("calibrated", [True, False])
def test_failing_calibration_leaves_the_clip_as_it_was(net, batches, calibrated):
    sim = QuantizationSimModel(net, batches[0], "mse", default_param_bw=4)
    if calibrated:
        sim.compute_encodings(run(batches))
    before = copy.deepcopy(sim.model.state_dict())
    with pytest.raises(ZeroDivisionError):
        sim.compute_encodings(lambda model: (model(batches[0] * 100), 1 / 0))
    after = sim.model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) for key, value in before.items() if isinstance(value, torch.Tensor))


def test_a_parameter_of_many_blocks_is_observed_piece_by_piece(monkeypatch):
    torch.manual_seed(5)
    weight = torch.randn(12, 32)
    whole = QuantizeDequantize((12, 4), 4, True, block_size=(1, 8), observer=SqnrObserver((12, 4), (1, 8)))
    pieces = copy.deepcopy(whole)
    assert whole._calibrate_on(weight)
    monkeypatch.setattr(calibration, "_MOST_BINS", 5 * 4 * 2048)
    assert len(list(pieces._observed_pieces(weight))) == 3 and pieces._calibrate_on(weight)
    assert torch.equal(whole.min, pieces.min) and torch.equal(whole.max, pieces.max)


# --- forms ------------------------------------------------------------------------------------------------------------


def test_the_three_forms_give_the_same_ranges(net, batches):
    sims = [QuantizationSimModel(net, batches[0], "tf_enhanced") for _ in range(3)]
    sims[0].compute_encodings(run(batches))
    sims[1].compute_encodings(lambda model, data: run(data)(model), batches)
    sims[2].model.train()
    with detent.compute_encodings(sims[2].model):
        assert not sims[2].model.training and not torch.is_grad_enabled()
        run(batches)(sims[2].model)
    assert sims[2].model.training and torch.is_grad_enabled()
    states = [sim.model.state_dict() for sim in sims]
    for key, value in states[0].items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, states[1][key]) and torch.equal(value, states[2][key]), key


def test_several_sims_calibrate_in_one_pass(net, batches):
    schemes = ("min_max", "tf_enhanced", "mse")
    together = [QuantizationSimModel(net, batches[0], scheme) for scheme in schemes]
    with detent.compute_encodings(*(sim.model for sim in together)):
        for batch in batches:
            for sim in together:
                sim.model(batch)
    for scheme, sim in zip(schemes, together):
        alone = QuantizationSimModel(net, batches[0], scheme)
        alone.compute_encodings(run(batches))
        for key, value in alone.model.state_dict().items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, sim.model.state_dict()[key]), (scheme, key)


def test_a_block_that_raises_or_sees_nothing_changes_nothing(net, batches):
    sim = QuantizationSimModel(net, batches[0], "entropy")
    with pytest.raises(KeyError), detent.compute_encodings(sim.model):
        sim.model(batches[0])
        raise KeyError
    assert not sim.model.first.input_quantizers[0].is_initialized()
    with pytest.warns(UserWarning, match="no quantizer saw any data"), detent.compute_encodings(sim.model):
        pass


def test_percentile_value(net, batches):
    sim = QuantizationSimModel(net, batches[0], QuantScheme.post_training_percentile)
    full = None
    for percentile in (100, 99.0):
        sim.set_percentile_value(percentile)
        sim.compute_encodings(run(batches))
        width = sim.model.first.input_quantizers[0].get_scale().item()
        assert full is None or width < full
        full = width
    with pytest.raises(ValueError, match="from 50 to 100"):
        sim.set_percentile_value(49)
    with pytest.raises(RuntimeError, match="scheme is min_max, expected post_training_percentile"):
        QuantizationSimModel(net, batches[0]).set_percentile_value(99)


@pytest.mark.parametrize(
    "name, kind",
    [("tf", MinMaxObserver), ("tf_enhanced", SqnrObserver), ("mse", MseObserver), ("entropy", EntropyObserver),
     ("moving_average", MovingAverageObserver)],
)  # fmt: skip
def test_schemes_by_name(name, kind):
    assert type(observer_of(QuantScheme.from_str(name))) is kind


def test_an_observer_follows_its_quantizer_to_another_shape():
    quantizer = QuantizeDequantize((1,), 8, True, observer=MseObserver((1,), bins=64))
    other = QuantizeDequantize((3, 1), 8, True)
    with other.compute_encodings():
        other(torch.randn(3, 4))
    quantizer.load_state_dict(other.state_dict())
    made = quantizer._new_observer()
    assert type(made) is MseObserver and made.shape == (3, 1) and made.bins == 64
