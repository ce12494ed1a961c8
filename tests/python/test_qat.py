"""Training of a simulation model: groups, gradients against the oracle, ranges under any optimizer, modes."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import oracle
from detent import qat
from detent.quantizers import QuantizeDequantize
from qat_sims import MODES, simulated, step

# --- parameter groups -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_every_trainable_parameter_is_in_one_group(mode):
    sim = simulated(mode)
    sim.model.head.bias.requires_grad_(False)
    sim.model.second.weight = sim.model.head.weight = nn.Parameter(torch.randn(8, 8))
    options = dict(range_weight_decay=1e-4) if mode == "pact" else {}
    groups = qat.parameter_groups(
        sim, lr=0.1, range_lr=0.01, weight_decay=1e-3, decay_norms_and_biases=False, **options
    )
    listed = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in sim.model.parameters() if p.requires_grad)
    by_name = {group["name"]: group for group in groups}
    assert [id(p) for p in by_name["weights"]["params"]] == [id(sim.model.first.weight), id(sim.model.second.weight)]
    assert len(by_name["norms_and_biases"]["params"]) == 4
    assert [by_name[name]["weight_decay"] for name in ("weights", "norms_and_biases")] == [1e-3, 0.0]
    assert ("ranges" in by_name) == (mode != "dynamic")
    if mode != "dynamic":
        assert by_name["ranges"]["lr"] == 0.01 and by_name["ranges"]["weight_decay"] == 0.0
    if mode == "pact":
        assert by_name["pact"]["lr"] == 0.01 and by_name["pact"]["weight_decay"] == 1e-4
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


@pytest.mark.parametrize(
    "wrong",
    [
        dict(lr=-1.0),
        dict(lr=0.1, range_lr=math.nan),
        dict(lr=0.1, weight_decay=-1),
        dict(lr=0.1, range_weight_decay=1e-4),
    ],
)
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
        elif quantizer.parametrization == "pact":
            scale, point = first.detach().double() / (grid[1] - grid[0]), torch.tensor([float(grid[0])])
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
        if quantizer.parametrization == "pact":  # Choi 2018, section 3
            beyond = x >= first.double()
            return torch.where((x > 0) & ~beyond, g, 0), torch.where(beyond, g, 0).sum().reshape(1), None, None
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
    ranges = sum(parameter.requires_grad for quantizer in sim.quantizers() for parameter in quantizer.parameters())
    assert checked >= 6 + max(ranges - 4, 0)


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


@pytest.mark.parametrize("mode", ["learned", "lsq", "pact"])
@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, Signs]
)
@pytest.mark.parametrize("rate", [1.0, 1e4])
def test_ranges_stay_valid(mode, optimizer, rate):
    sim = simulated(mode)
    groups = qat.parameter_groups(sim, lr=0.0, range_lr=rate)
    ranges = [group for group in groups if group["name"] in ("ranges", "pact")]
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
