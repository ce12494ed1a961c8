"""Training of a simulation model: groups, modes, LSQ, losses, the guard, and resuming bit for bit."""

import copy
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import oracle
from detent import QuantizationSimModel, qat
from detent.export.freeze import freeze
from detent.observers import MinMaxObserver
from detent.quantizers import QuantizeDequantize

MODES = ("dynamic", "learned", "lsq")
SCHEMES = {"dynamic": "min_max", "learned": "training_range_learning_with_tf_init", "lsq": "min_max"}


class Residual(nn.Module):
    """Negative and positive activations, a norm, an addition that a forward makes."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(6, 8)
        self.norm = nn.BatchNorm1d(8)
        self.second = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = F.gelu(self.norm(self.first(x)))
        return self.head(torch.relu(self.second(x) + x))


def simulated(mode, bits=4, dtype=torch.float32, model=None, data=None):
    model = (Residual() if model is None else model).to(dtype)
    data = torch.randn(64, 6, dtype=dtype) if data is None else data
    sim = QuantizationSimModel(model, data[:2], SCHEMES[mode], default_output_bw=bits, default_param_bw=bits)
    if mode == "lsq":
        qat.use_lsq(sim)
    sim.compute_encodings(lambda model: model(data))
    return sim


def step(sim, optimizer, x, target):
    optimizer.zero_grad(set_to_none=False)  # momentum moves whatever still has a gradient
    loss = F.cross_entropy(sim.model(x), target)
    loss.backward()
    optimizer.step()
    return loss.item()


# --- parameter groups -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_trainable_parameter_is_in_one_group(mode):
    sim = simulated(mode)
    sim.model.head.bias.requires_grad_(False)
    sim.model.second.weight = sim.model.head.weight = nn.Parameter(torch.randn(8, 8))
    groups = qat.parameter_groups(sim, lr=0.1, range_lr=0.01, weight_decay=1e-3, decay_norms_and_biases=False)
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in sim.model.parameters() if p.requires_grad)
    by_name = {group["name"]: group for group in groups}
    assert [id(p) for p in by_name["weights"]["params"]] == [id(sim.model.first.weight), id(sim.model.second.weight)]
    assert len(by_name["norms_and_biases"]["params"]) == 4
    assert [by_name[name]["weight_decay"] for name in ("weights", "norms_and_biases")] == [1e-3, 0.0]
    assert ("ranges" in by_name) == (mode != "dynamic")
    if mode != "dynamic":
        assert by_name["ranges"]["lr"] == 0.01 and by_name["ranges"]["weight_decay"] == 0.0
    for cls in (torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop):
        cls(groups)


def test_decay_leaves_ranges_alone():
    sim = simulated("learned")
    optimizer = torch.optim.SGD(qat.parameter_groups(sim, lr=0.1, weight_decay=0.5))
    weight, top = sim.model.head.weight.detach().clone(), sim.model.head.output_quantizers[0].max.detach().clone()
    (0.0 * sim.model(torch.randn(4, 6)).sum()).backward()
    optimizer.step()
    assert torch.equal(sim.model.head.output_quantizers[0].max, top)
    torch.testing.assert_close(sim.model.head.weight, weight * 0.95)


def test_groups_for_what_an_optimizer_lacks():
    sim = simulated("dynamic")
    optimizer = torch.optim.SGD(qat.parameter_groups(sim, lr=0.1), momentum=0.9)
    assert qat.parameter_groups(sim, lr=0.1, without=optimizer) == []
    qat.set_modes(sim, parameters="learned")
    added = qat.parameter_groups(sim, lr=0.1, range_lr=0.01, without=optimizer)
    assert [(group["name"], len(group["params"])) for group in added] == [("ranges", 6)]
    optimizer.add_param_group(added[0])
    before = sim.model.head.param_quantizers["weight"].max.detach().clone()
    step(sim, optimizer, torch.randn(16, 6), torch.randint(3, (16,)))
    assert not torch.equal(sim.model.head.param_quantizers["weight"].max, before)


@pytest.mark.parametrize("wrong", [dict(lr=-1.0), dict(lr=0.1, range_lr=math.nan), dict(lr=0.1, weight_decay=-1)])
def test_groups_of_wrong_rates(wrong):
    with pytest.raises(ValueError, match=f"{[*wrong][-1]} is .*expected"):
        qat.parameter_groups(nn.Linear(2, 2), **wrong)


def test_what_is_no_model():
    with pytest.raises(TypeError, match="got a dict, expected a QuantizationSimModel"):
        qat.parameter_groups({}, lr=0.1)
    for call in (qat.use_lsq, qat.set_modes, qat.dampening_loss, lambda model: qat.nan_guard(model).__enter__()):
        with pytest.raises(ValueError, match="holds no quantizers"):
            call(nn.Linear(2, 2))


# --- gradients against the oracle -------------------------------------------------------------------------------------


class Oracle(torch.autograd.Function):
    """A quantizer's forward and the gradients of its parameters, by the oracle alone."""

    @staticmethod
    def forward(ctx, x, first, second, quantizer):
        grid = quantizer.qmin, quantizer.qmax
        if quantizer.mode == "dynamic":
            groups = oracle.by_group(x.detach(), 0)
            ends = oracle.range_of_observed(groups.amin(-1), groups.amax(-1), *grid, quantizer.symmetric)
            scale, point = oracle.affine_of_range(*ends, *grid, quantizer.symmetric)
        elif quantizer.parametrization == "min_max":
            scale, point = oracle.affine_of_range(first, second, *grid, quantizer.symmetric)
        else:
            scale = first.detach().double().abs()
            point = torch.zeros_like(scale) if second is None else second.detach().double()
        ctx.axis = None if quantizer.axis is None else 0
        ctx.save_for_backward(x, first, second, scale.flatten(), point.flatten())
        ctx.quantizer = quantizer
        return oracle.fake_quantize(x, scale.flatten(), point.flatten(), *grid, ctx.axis)

    @staticmethod
    def backward(ctx, g):
        x, first, second, scale, point = ctx.saved_tensors
        quantizer = ctx.quantizer
        grid = quantizer.qmin, quantizer.qmax
        grad_x, scales, points = oracle.fake_quantize_gradients(g, x, scale, point, *grid, ctx.axis)
        if first is None:
            return grad_x, None, None, None
        grad_scale, grad_point = (oracle.reduced(terms, scale, ctx.axis) for terms in (scales, points))
        if quantizer.parametrization == "min_max":
            ends = first.flatten(), second.flatten()
            low, high = oracle.range_gradients(grad_scale, grad_point, *ends, *grid, quantizer.symmetric)
            return grad_x, low.reshape(first.shape), high.reshape(first.shape), None
        # Esser 2020, section 2.2: g = 1 / sqrt(N * Q_P)
        factor = 1.0 / math.sqrt(x.numel() / scale.numel() * quantizer.qmax)
        grad_point = None if second is None else (grad_point * factor).reshape(second.shape)
        return grad_x, (grad_scale * factor).reshape(first.shape), grad_point, None


def by_oracle(model):
    """A copy whose quantizers compute with the oracle."""
    made = copy.deepcopy(model)
    for quantizer in made.modules():
        if isinstance(quantizer, QuantizeDequantize):
            first, second = [*quantizer.parameters(), None, None][:2]
            quantizer.forward = lambda x, f=first, s=second, q=quantizer: Oracle.apply(x, f, s, q)
    return made


@pytest.mark.parametrize("mode", MODES)
def test_gradients_of_a_network_are_those_of_the_oracle(mode):
    sim = simulated(mode, dtype=torch.float64)
    x, target = 1.5 * torch.randn(32, 6, dtype=torch.float64), torch.randint(3, (32,))
    twin = by_oracle(sim.model)
    for model in (sim.model, twin):
        F.cross_entropy(model(x), target).backward()
    expected = dict(twin.named_parameters())
    checked = 0
    for name, parameter in sim.model.named_parameters():
        if parameter.requires_grad:
            want = expected[name].grad.to(parameter.dtype)
            tight = 1e-9 if parameter.dtype == torch.float64 else 1e-5
            torch.testing.assert_close(parameter.grad, want, rtol=tight, atol=tight * float(want.abs().max()), msg=name)
            checked += bool(want.abs().max() > 0)
    ranges = sum(len(list(quantizer.parameters())) for quantizer in sim.quantizers())
    assert checked >= 6 + (ranges - 4 if mode != "dynamic" else 0)


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


def test_lsq_state_and_encodings_load_into_a_fresh_sim(tmp_path):
    model, data = Residual(), torch.randn(64, 6)
    sim = simulated("lsq", model=model, data=data)
    optimizer = torch.optim.Adam(qat.parameter_groups(sim, lr=1e-2))
    for _ in range(3):
        step(sim, optimizer, data, torch.randint(3, (64,)))
    sim.model.eval()
    expected = sim.model(data)
    fresh = QuantizationSimModel(model, data[:1])
    fresh.model.load_state_dict(sim.model.state_dict())
    assert torch.equal(fresh.model.eval()(data), expected)
    assert [(q.grad_scale, q.mode) for q in fresh.quantizers()] == [("lsq", "learned")] * len(list(sim.quantizers()))
    sim.save_encodings_to_json(tmp_path, "lsq")
    sim.load_encodings(tmp_path / "lsq.json")
    torch.testing.assert_close(sim.model(data), expected)


def test_lsq_is_what_export_freezes():
    sim, x = simulated("lsq"), torch.randn(8, 6)
    frozen, _ = freeze(sim, 0)
    assert torch.equal(frozen(x), sim.model.eval()(x))


def test_lsq_of_an_unknown_kind_changes_nothing():
    sim = simulated("dynamic")
    with pytest.raises(ValueError, match="expected 'lsq' or 'lsq\\+'"):
        qat.use_lsq(sim, initialization="lsq2")
    assert {q.parametrization for q in sim.quantizers()} == {"min_max"}


# --- ranges under any optimizer ---------------------------------------------------------------------------------------


class Signs(torch.optim.Optimizer):
    """Lion without its memory."""

    def __init__(self, params, lr):
        super().__init__(params, dict(lr=lr))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter -= group["lr"] * parameter.grad.sign()


@pytest.mark.parametrize("mode", ["learned", "lsq"])
@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, Signs]
)
@pytest.mark.parametrize("rate", [1.0, 1e4])
def test_ranges_stay_valid(mode, optimizer, rate):
    sim = simulated(mode)
    ranges = [group for group in qat.parameter_groups(sim, lr=0.0, range_lr=rate) if group["name"] == "ranges"]
    steps = optimizer(ranges, lr=rate)
    for _ in range(6):
        step(sim, steps, torch.randn(16, 6), torch.randint(3, (16,)))
        for quantizer in sim.quantizers():
            scale, point = quantizer.get_scale(), quantizer.get_zero_point()
            ends = quantizer.get_min(), quantizer.get_max()
            assert torch.isfinite(scale).all() and (scale > 0).all()
            assert (quantizer.qmin <= point).all() and (point <= quantizer.qmax).all()
            assert all(torch.isfinite(end).all() for end in ends) and (ends[0] < ends[1]).all()
    assert torch.isfinite(sim.model.eval()(torch.randn(4, 6))).all()
    sim.encodings()


@pytest.mark.parametrize("parametrization", ["min_max", "scale_zero_point"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_collapsed_range_recovers(parametrization, symmetric):
    quantizer = QuantizeDequantize((), 4, symmetric, parametrization=parametrization)
    quantizer.set_range(-1.0, 1.0)
    with torch.no_grad():
        for parameter in quantizer.parameters():
            parameter.zero_()
    x = torch.linspace(-1, 1, 101)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.01 if parametrization == "scale_zero_point" else 0.05)
    assert quantizer(x).abs().max() < 1e-3
    for _ in range(150):
        optimizer.zero_grad()
        (quantizer(x) - x).square().mean().backward()
        optimizer.step()
    # with the zero point stuck at the end of the grid half of x is lost, and the best of that is 1/6
    assert (quantizer(x) - x).square().mean() < (0.01 if symmetric else 0.17)


# --- modes ------------------------------------------------------------------------------------------------------------


def test_modes_switch_in_mid_training():
    sim, x, target = simulated("dynamic"), torch.randn(32, 6), torch.randint(3, (32,))
    optimizer = torch.optim.SGD(qat.parameter_groups(sim, lr=0.05), momentum=0.9)
    step(sim, optimizer, x, target)
    evaluated = copy.deepcopy(sim.model).eval()(x)
    qat.set_modes(sim, activations="learned", parameters="learned")
    assert torch.equal(copy.deepcopy(sim.model).eval()(x), evaluated)
    for group in qat.parameter_groups(sim, lr=0.05, without=optimizer):
        optimizer.add_param_group(group)
    step(sim, optimizer, x, target)
    qat.set_modes(sim, activations="fixed", parameters="fixed")
    ranges = [p.detach().clone() for q in sim.quantizers() for p in q.parameters()]
    assert len(ranges) == 2 * len(list(sim.quantizers()))
    step(sim, optimizer, x, target)
    assert all(torch.equal(a, b) for a, b in zip(ranges, (p for q in sim.quantizers() for p in q.parameters())))
    qat.set_modes(sim, parameters="dynamic")
    assert {q.mode for q in sim.quantizers() if q._source is not None} == {"dynamic"}
    assert {q.mode for q in sim.quantizers() if q._source is None} == {"fixed"}


def test_frozen_for_good_stays_frozen():
    sim = simulated("dynamic")
    sim.model.head.output_quantizers[0].allow_overwrite(False)
    qat.set_modes(sim, activations="learned")
    assert sim.model.head.output_quantizers[0].mode == "fixed"


def test_wrong_modes_change_nothing():
    sim = simulated("lsq")
    both = dict(activations="fixed", parameters="dynamic")
    for wrong in (dict(activations="dynamic"), dict(parameters="frozen"), both):
        with pytest.raises(ValueError, match="expected"):
            qat.set_modes(sim, **wrong)
    assert {q.mode for q in sim.quantizers()} == {"learned"}


def test_frozen_batch_norms_keep_their_statistics():
    sim = simulated("learned")
    x = torch.randn(16, 6) + 3
    qat.freeze_batch_norm(sim)
    qat.freeze_batch_norm(sim)
    for model in (sim.model, copy.deepcopy(sim.model), pickle.loads(pickle.dumps(sim.model))):
        before = {name: buffer.clone() for name, buffer in model.norm.named_buffers()}
        trained = model.train()(x)
        assert all(torch.equal(buffer, before[name]) for name, buffer in model.norm.named_buffers())
        assert torch.equal(trained, model.eval()(x))
        trained.sum().backward()
        assert model.norm.weight.grad is not None and model.training is False
    sim.model.train()
    qat.freeze_batch_norm(sim, False)
    before = sim.model.norm.running_mean.clone()
    sim.model(x)
    assert sim.model.norm.training and not torch.equal(sim.model.norm.running_mean, before)
    assert not sim.model.norm._forward_pre_hooks


def test_frozen_batch_norms_compile():
    torch._dynamo.reset()
    sim = simulated("learned")
    qat.freeze_batch_norm(sim)
    x = torch.randn(16, 6)
    expected = sim.model.train()(x)
    compiled = torch.compile(sim.model.train(), fullgraph=True, backend="eager")
    before = sim.model.norm.running_mean.clone()
    torch.testing.assert_close(compiled(x), expected)
    assert torch.equal(sim.model.norm.running_mean, before)


# --- losses -----------------------------------------------------------------------------------------------------------


def test_distillation_loss_is_the_formula():
    student = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    teacher = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    got = qat.distillation_loss(student, teacher, temperature=3.0)
    p, q = (torch.softmax(logits / 3, -1) for logits in (teacher, student))
    torch.testing.assert_close(got, 9 * (p * (p / q).log()).sum(-1).mean())
    got.backward()
    assert teacher.grad is None
    torch.testing.assert_close(student.grad, (3 * (q - p) / 5).detach())  # the limit of Hinton 2015, eq. 2, times T**2
    dense = qat.distillation_loss(student.T, teacher.T, temperature=3.0, dim=0)
    torch.testing.assert_close(dense, got)


@pytest.mark.parametrize("wrong", [dict(temperature=0.0), dict(teacher=torch.zeros(2, 4)), dict(temperature=math.nan)])
def test_distillation_loss_of_wrong_arguments(wrong):
    with pytest.raises(ValueError, match="expected"):
        qat.distillation_loss(**{"student": torch.zeros(2, 3), "teacher": torch.zeros(2, 3), **wrong})


@pytest.mark.parametrize("block_size", [None, (1, 4)])
def test_dampening_loss_is_the_formula(block_size):
    sim = QuantizationSimModel(nn.Linear(8, 4, bias=False).double(), torch.randn(2, 8).double(), default_param_bw=3)
    weight = sim.model.weight
    quantizer = QuantizeDequantize((4, 1) if block_size is None else (4, 2), 3, True, block_size=block_size)
    quantizer.set_range(-0.2, 0.15)
    sim.model.param_quantizers["weight"] = quantizer
    got = qat.dampening_loss(sim)
    scale = quantizer.get_scale().detach().double().flatten()
    w = weight.detach()
    grouped = w.reshape(scale.numel(), -1)
    low, high = -4 * scale[:, None], 3 * scale[:, None]
    rounded = oracle.fake_quantize(grouped, scale, None, -4, 3, axis=0)
    clamped = torch.minimum(torch.maximum(grouped, low), high)
    torch.testing.assert_close(got, (rounded - clamped).square().sum())
    got.backward()
    inside = (grouped >= low) & (grouped <= high)
    torch.testing.assert_close(weight.grad.reshape(grouped.shape), torch.where(inside, 2 * (clamped - rounded), 0.0))
    assert not inside.all() and quantizer.max.grad is None
    quantizer.enabled = False
    assert qat.dampening_loss(sim).item() == 0


# --- the guard --------------------------------------------------------------------------------------------------------


def _spoil_input(sim, x):
    x[3, 1] = math.nan
    return "'first.input_quantizers.0' .* in its input: 1 of 48 values"


def _spoil_weight(sim, x):
    sim.model.second.weight.data[0] = math.nan
    return "'second.param_quantizers.weight' .* in its input, a parameter: 8 of 64"


def _spoil_range(sim, x):
    sim.model.second.param_quantizers["weight"].max.data[2] = math.nan
    return r"'second.param_quantizers.weight' .* in its range \(max\): 1 of 8"


def _spoil_norm(sim, x):
    sim.model.norm.weight.data[4] = math.nan
    return "'norm.(param|output)_quantizers"


@pytest.mark.parametrize("spoil", [_spoil_input, _spoil_weight, _spoil_range, _spoil_norm])
def test_guard_names_the_first_quantizer_that_saw_a_nan(spoil):
    sim, x = simulated("learned"), torch.randn(8, 6)
    with qat.nan_guard(sim.model):
        sim.model(x).sum().backward()
    expected = spoil(sim, x)
    with pytest.raises(FloatingPointError, match=expected), qat.nan_guard(sim):
        sim.model(x)
    sim.model(x)
    assert not any(q._forward_pre_hooks or q._forward_hooks for q in sim.quantizers())


def test_guard_sees_the_gradient():
    sim = simulated("learned")
    with pytest.raises(FloatingPointError, match="'head.output_quantizers.0' .* in its gradient: 24 of 24"):
        with qat.nan_guard(sim):
            (sim.model(torch.randn(8, 6)) * math.nan).sum().backward()


# --- resuming ---------------------------------------------------------------------------------------------------------

HERE = Path(__file__).resolve()


def _trained(mode, steps, checkpoint=None):
    """A sim and its optimizer after the steps ``steps``; the data of a step depend on its number alone."""
    torch.manual_seed(1)
    model, data = Residual(), torch.randn(64, 6)
    if checkpoint is None:
        sim = simulated(mode, model=model, data=data)
    else:
        sim = QuantizationSimModel(model, data[:2], SCHEMES[mode])
        sim.model.load_state_dict(checkpoint["model"])
    optimizer = torch.optim.AdamW(qat.parameter_groups(sim, lr=1e-2, range_lr=1e-3, weight_decay=1e-2))
    if checkpoint is not None:
        optimizer.load_state_dict(checkpoint["optimizer"])
    for number in steps:
        torch.manual_seed(100 + number)
        step(sim, optimizer, torch.randn(32, 6), torch.randint(3, (32,)))
    return {"model": sim.model.state_dict(), "optimizer": optimizer.state_dict()}


def test_resuming_in_a_new_process_is_bit_exact(tmp_path):
    for mode in MODES:
        torch.save(_trained(mode, range(5)), tmp_path / f"{mode}.pt")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_qat; test_qat.resume(sys.argv[2])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", code, str(HERE.parent), str(tmp_path)], check=True, env=environment)
    for mode in MODES:
        expected, got = _trained(mode, range(10)), torch.load(tmp_path / f"{mode}_resumed.pt", weights_only=True)
        assert expected["model"].keys() == got["model"].keys()
        for name, value in expected["model"].items():
            other = got["model"][name]
            same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
            assert same, (mode, name)


def resume(folder):
    for mode in MODES:
        checkpoint = torch.load(f"{folder}/{mode}.pt", weights_only=True)
        torch.save(_trained(mode, range(5, 10), checkpoint), f"{folder}/{mode}_resumed.pt")
