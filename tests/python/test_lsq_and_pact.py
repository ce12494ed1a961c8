"""LSQ, LSQ+ and PACT: initial values, gradients, and what they are held as."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import oracle
from checks import same_bits
from detent import QuantizationSimModel, qat
from detent.export.freeze import freeze
from detent.observers import MinMaxObserver
from detent.quantizers import Quantize, QuantizeDequantize
from qat_sims import Residual, simulated, step

# --- LSQ --------------------------------------------------------------------------------------------------------------


def test_lsq_starts_where_the_papers_do():
    data = torch.randn(256, 6)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    for initialization in ("lsq", "lsq+"):
        sim = QuantizationSimModel(model, data[:1], default_output_bw=4, default_param_bw=4)
        qat.use_lsq(sim, initialization=initialization)
        sim.compute_encodings(lambda model: [model(part) for part in data.split(100)])
        weight = model[0].weight.detach().double()
        if initialization == "lsq":
            expected = 2 * weight.abs().mean(1) / math.sqrt(7)
        else:
            mean, deviation = weight.mean(1), weight.std(1, correction=0)
            expected = torch.maximum((mean - 3 * deviation).abs(), (mean + 3 * deviation).abs()) / 8
        quantizer = sim.model[0].param_quantizers["weight"]
        torch.testing.assert_close(quantizer.scale.detach().flatten(), expected.float(), rtol=1e-5, atol=0)
        # ReLU's output: an unsigned grid with zero point 0, Q_P = 15
        relu = sim.model[1].output_quantizers[0]
        with torch.no_grad():
            hidden = torch.relu(F.linear(data, quantizer(model[0].weight), model[0].bias))
        assert relu.zero_point.item() == 0
        if initialization == "lsq+":
            assert relu.get_max().item() == pytest.approx(relu.scale.item() * 15)
        assert 0 < relu.scale.item() < hidden.max() / 10
        assert all(q.mode == "learned" and q.grad_scale == "lsq" for q in sim.quantizers())


@pytest.mark.parametrize(
    "shape, block_size, grid",
    [((), None, (0, 15, False)), ((4, 1), None, (-8, 7, True)), ((4, 3), (1, 2), (-8, 7, True))],
    ids=["tensor", "channel", "block"],
)
def test_lsq_observer_sees_what_all_batches_hold(shape, block_size, grid):
    x = torch.randn(4, 6, dtype=torch.float64)
    x[1, 2] = math.inf
    for initialization in ("lsq", "lsq+"):
        whole = qat.LsqObserver(shape, block_size, initialization=initialization)
        whole.update(x)
        parts = [qat.LsqObserver(shape, block_size, initialization=initialization) for _ in range(2)]
        parts[0].update(torch.where(torch.arange(6) % 2 == 0, x, math.nan))
        parts[1].update(torch.where(torch.arange(6) % 2 == 1, x, math.nan))
        parts[0].merge(parts[1])
        for got, want in zip(parts[0].range(*grid), whole.range(*grid)):
            torch.testing.assert_close(got, want)
        size = oracle.by_group(x, 0 if block_size is None and shape else None, block_size)
        size = torch.where(size.isfinite(), size.abs(), math.nan).nanmean(-1).reshape(whole.shape)
        if initialization == "lsq" and grid[2]:
            torch.testing.assert_close(whole.range(*grid)[1] / 7, 2 * size / math.sqrt(7))
    with pytest.raises(ValueError, match="expected an LsqObserver"):
        whole.merge(MinMaxObserver(shape, block_size))
    whole.reset()
    assert not whole.seen


def test_lsq_observer_of_a_scalar():
    observer = qat.LsqObserver(())
    observer.update(torch.tensor(3.0))
    assert observer.range(-8, 7, True)[1].item() == pytest.approx(6 * math.sqrt(7))


def test_lsq_of_a_calibrated_sim_keeps_its_bits():
    sim = simulated("learned")
    pinned = sim.model.head.output_quantizers[0]
    pinned.allow_overwrite(False)
    x = torch.randn(8, 6)
    sim.model.eval()
    before = sim.model(x)
    qat.use_lsq(sim)
    assert torch.equal(sim.model(x), before)
    assert pinned.parametrization == "min_max"
    activations, parameters = sim.encodings()
    assert len(activations) + len(parameters) == len(list(sim.quantizers()))


def test_parametrization_goes_both_ways():
    x = torch.randn(4, 8)
    for shape, symmetric in (((), False), ((4, 1), True)):
        quantizer = QuantizeDequantize(shape, 4, symmetric)
        quantizer.parametrization = "scale_zero_point"
        assert not quantizer.is_initialized()
        quantizer.set_range(-2.0, 1.75)
        expected, held = quantizer(x), set(dict(quantizer.named_parameters()))
        quantizer.parametrization = "min_max"
        assert torch.equal(quantizer(x), expected) and set(dict(quantizer.named_parameters())) == {"min", "max"}
        quantizer.parametrization = "scale_zero_point"
        assert torch.equal(quantizer(x), expected) and set(dict(quantizer.named_parameters())) == held
        with pytest.raises(ValueError, match="parametrization is 'log'"):
            quantizer.parametrization = "log"


@pytest.mark.parametrize("mode", ["lsq", "pact"])
def test_state_and_encodings_load_into_a_fresh_sim(mode, tmp_path):
    model, data = Residual(), torch.randn(64, 6)
    sim = simulated(mode, model=model, data=data)
    optimizer = torch.optim.Adam(qat.parameter_groups(sim, lr=1e-2))
    for _ in range(3):
        step(sim, optimizer, data, torch.randint(3, (64,)))
    sim.model.eval()
    expected = sim.model(data)
    fresh = QuantizationSimModel(model, data[:1])
    fresh.model.load_state_dict(sim.model.state_dict())
    assert torch.equal(fresh.model.eval()(data), expected)
    held, ours = ([(q.grad_scale, q.mode, q.parametrization) for q in s.quantizers()] for s in (fresh, sim))
    assert held == ours and (mode != "lsq" or set(held) == {("lsq", "learned", "scale_zero_point")})
    sim.save_encodings_to_json(tmp_path, mode)
    sim.load_encodings(tmp_path / f"{mode}.json")
    torch.testing.assert_close(sim.model(data), expected)


@pytest.mark.parametrize("mode", ["lsq", "pact"])
def test_export_freezes_what_trains(mode):
    sim, x = simulated(mode), torch.randn(8, 6)
    frozen, _ = freeze(sim, 0)
    assert torch.equal(frozen(x), sim.model.eval()(x))


def test_lsq_of_an_unknown_kind_changes_nothing():
    sim = simulated("dynamic")
    with pytest.raises(ValueError, match="expected 'lsq' or 'lsq\\+'"):
        qat.use_lsq(sim, initialization="lsq2")
    assert {q.parametrization for q in sim.quantizers()} == {"min_max"}


# --- PACT -------------------------------------------------------------------------------------------------------------


def test_pact_goes_to_ranges_that_begin_at_zero():
    sim = simulated("dynamic")
    x = torch.randn(8, 6)
    before = sim.model.eval()(x)
    ranges = {
        name: quantizer.get_min().item() for name, quantizer in sim.named_quantizers() if quantizer._source is None
    }
    clipped = qat.use_pact(sim)
    assert clipped == [name for name, low in ranges.items() if low == 0] and 0 < len(clipped) < len(ranges)
    assert torch.equal(sim.model(x), before)
    for name, quantizer in sim.named_quantizers():
        if quantizer._source is not None:
            assert quantizer.mode == "dynamic"
        else:
            held = ["max"] if name in clipped else ["min", "max"]
            assert [key for key, parameter in quantizer.named_parameters() if parameter.requires_grad] == held
    with torch.no_grad():
        assert torch.equal(sim.model(x), before)
    qat.set_modes(sim, activations="fixed")
    assert torch.equal(sim.model(x), before) and not any(p.requires_grad for p in sim.quantizer_parameters())


def test_pact_needs_a_calibrated_sim():
    sim = QuantizationSimModel(Residual(), torch.randn(2, 6))
    with pytest.raises(RuntimeError, match="has no range yet, expected a calibrated sim"):
        qat.use_pact(sim)
    assert {quantizer.parametrization for quantizer in sim.quantizers()} == {"min_max"}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_pact_rounds_as_its_encoding_says_and_gives_its_bound_what_lies_beyond(dtype):
    """Within half a step of the bound, at it, far beyond it, below 0; NaN stays."""
    plain = QuantizeDequantize((), 4, False)
    plain.set_range(0.0, 1.5)
    quantizer = copy.deepcopy(plain)
    quantizer.parametrization = "pact"
    values = [-math.inf, -1.0, -0.03, -0.0, 0.0, 0.04, 0.05, 0.7, 1.46, 1.49, 1.5, 1.53, 1.6, 9.0, math.inf]
    x = torch.tensor(values, dtype=dtype, requires_grad=True)
    with torch.no_grad():
        spoilt = torch.cat([x, x.new_tensor([math.nan])])
        same_bits(quantizer(spoilt), plain(spoilt))
    same_bits(quantizer(spoilt), plain(spoilt))
    g = 2.0 ** torch.arange(len(values), dtype=dtype).fmod(5)
    quantizer(x).backward(g)
    beyond = x.detach() >= 1.5
    torch.testing.assert_close(quantizer.max.grad, g[beyond].sum().float().reshape(1))
    assert torch.equal(x.grad, torch.where((x > 0) & ~beyond, g, 0))
    assert beyond.sum() == 5


def test_pact_on_a_grid_below_zero():
    """An asymmetric signed grid's lowest code stands for 0 too."""
    quantizer = QuantizeDequantize((), -8, 7, False, parametrization="pact")
    quantizer.set_range(0.0, 3.0)
    x = torch.tensor([-1.0, 0.5, 2.0, 3.0, 4.0], requires_grad=True)
    quantizer(x).sum().backward()
    assert quantizer.max.grad.item() == 2 and x.grad.tolist() == [0, 1, 1, 0, 0]
    assert (quantizer.get_min().item(), quantizer.get_max().item()) == pytest.approx((0.0, 3.0))


def test_pact_recovers_from_any_bound():
    x = torch.rand(100)
    for start in (0.0, -0.5, 1e-20):
        quantizer = QuantizeDequantize((), 4, False, parametrization="pact")
        quantizer.set_range(0.0, 1.0)
        with torch.no_grad():
            quantizer.max.fill_(start)
        optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.05)
        for _ in range(100):
            optimizer.zero_grad()
            (quantizer(x) - x).square().mean().backward()
            optimizer.step()
        assert (quantizer(x) - x).square().mean() < 0.01, start


def test_pact_sums_in_one_order_whatever_the_threads():
    x, g = torch.rand(300_001), torch.randn(300_001)
    sums = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        quantizer = QuantizeDequantize((), 4, False, parametrization="pact")
        quantizer.set_range(0.0, 0.5)
        quantizer(x).backward(g)
        sums.append(quantizer.max.grad)
    assert torch.equal(sums[0], sums[1]) and torch.equal(sums[0], sums[2])


def test_pact_compiles_in_one_graph():
    torch._dynamo.reset()
    sim, x = simulated("pact"), torch.randn(16, 6)
    compiled = torch.compile(copy.deepcopy(sim.model).eval(), fullgraph=True, backend="aot_eager")
    for model in (sim.model.eval(), compiled):
        model(x).square().sum().backward()
    for one, other in zip(sim.model.parameters(), compiled.parameters()):
        assert (one.grad is None and other.grad is None) or torch.equal(one.grad, other.grad)


def test_pact_of_what_does_not_begin_at_zero_changes_nothing():
    signed, wide = QuantizeDequantize((), 8, True), QuantizeDequantize((3, 1), 8, False)
    below, codes = QuantizeDequantize((), 8, False), Quantize((), 8, False)
    below.set_range(-1.0, 1.0)
    for quantizer, says in (
        (signed, "symmetric"),
        (wide, "one scale per tensor"),
        (below, "zero point"),
        (codes, "'pact'"),
    ):
        with pytest.raises(ValueError, match=says):
            quantizer.parametrization = "pact"
        assert quantizer.parametrization == "min_max" and set(dict(quantizer.named_parameters())) == {"min", "max"}
    pact = QuantizeDequantize((), 8, False, parametrization="pact")
    pact.set_range(0.0, 2.0)
    for change in (
        lambda: pact.set_range(-1.0, 2.0),
        lambda: pact.set_encoding(below.get_encoding()),
        lambda: setattr(pact, "symmetric", True),
        lambda: setattr(pact, "mode", "dynamic"),
    ):
        with pytest.raises(ValueError, match="pact"):
            change()
        assert pact.get_max().item() == 2.0 and pact.mode == "learned" and not pact.symmetric
    with pact.compute_encodings():  # clip(x, 0, max) is what it computes, whatever it sees
        pact(torch.tensor([-5.0, 3.0]))
    assert (pact.get_min().item(), pact.get_max().item()) == (0.0, 3.0)
    fixed = QuantizeDequantize((), 8, False)
    fixed.set_encoding(pact.get_encoding())
    pact.parametrization = "min_max"
    assert torch.equal(pact(torch.linspace(-1, 4, 99)), fixed(torch.linspace(-1, 4, 99)))
