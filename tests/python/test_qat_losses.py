"""What stands beside training: losses, the guard, and resuming bit for bit."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import oracle
from detent import QuantizationSimModel, qat
from detent.quantizers import QuantizeDequantize
from qat_sims import MODES, SCHEMES, Residual, simulated, step

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


# --- freezing what oscillates -----------------------------------------------------------------------------------------


def frozen_by_paper(walk, scale, threshold, momentum):
    """Nagel 2022, algorithm 1, weight by weight in float64: the weights after each step, and which are frozen."""
    codes = [[min(max(round(w / s), -4), 3) for w in row] for row, s in zip(walk[0], scale)]
    places = [(i, j) for i in range(len(codes)) for j in range(len(codes[0]))]
    held = {(i, j): dict(code=codes[i][j], average=codes[i][j], f=0.0, up=0, frozen=False) for i, j in places}
    result = []
    for weights in walk[1:]:
        for (i, j), h in held.items():
            if h["frozen"]:
                continue
            code = min(max(round(weights[i][j] / scale[i]), -4), 3)
            change = (code > h["code"]) - (code < h["code"])
            h["f"] = momentum * (change * h["up"] < 0) + (1 - momentum) * h["f"]
            h["average"] = momentum * code + (1 - momentum) * h["average"]
            h["code"], h["up"] = code, change or h["up"]
            if h["f"] > threshold:
                h["frozen"], h["average"] = True, round(h["average"])
        result.append([scale[i] * held[i, j]["average"] if held[i, j]["frozen"] else weights[i][j] for i, j in places])
    return result, [held[place]["frozen"] for place in places]


def weighted(block_size=None):
    """A simulated layer whose weight has 3 bits and a range of its own."""
    sim = QuantizationSimModel(nn.Linear(8, 4, bias=False), torch.randn(2, 8), default_param_bw=3)
    quantizer = QuantizeDequantize((4, 1) if block_size is None else (4, 2), 3, True, block_size=block_size)
    quantizer.set_range(-0.5, 0.375)
    sim.model.param_quantizers["weight"] = quantizer
    return sim, quantizer


@pytest.mark.parametrize("block_size", [None, (1, 4)])
def test_freezing_is_the_papers_algorithm(block_size):
    sim, _ = weighted(block_size)
    walk = 0.2 * torch.randn(80, 4, 8) * torch.rand(4, 8) + 0.3 * torch.randn(4, 8)
    with torch.no_grad():
        sim.model.weight.copy_(walk[0])
    freezer = qat.OscillationFreezer(sim, threshold=0.27, momentum=0.05)
    expected, frozen = frozen_by_paper(walk.tolist(), [0.125] * 4, 0.27, 0.05)
    for weights, after in zip(walk[1:], expected):
        with torch.no_grad():
            sim.model.weight.copy_(weights)
        freezer.step()
        torch.testing.assert_close(sim.model.weight.flatten(), torch.tensor(after), rtol=0, atol=1e-6)
    (mask,) = freezer.frozen().values()
    assert mask.flatten().tolist() == frozen and 0.1 < freezer.share().item() < 0.9


def test_frozen_weights_move_with_their_scale_alone():
    sim, quantizer = weighted()
    with torch.no_grad():
        sim.model.weight.fill_(0.2)
    freezer = qat.OscillationFreezer(sim, threshold=0.0, momentum=1.0)
    for value in (0.05, 0.2):  # codes 2, 0, 2
        assert freezer.share() == 0
        with torch.no_grad():
            sim.model.weight.fill_(value)
        freezer.step()
    assert freezer.share() == 1 and torch.equal(sim.model.weight, torch.full((4, 8), 0.25))
    quantizer.set_range(-1.0, 0.75)
    with torch.no_grad():
        sim.model.weight.fill_(9.0)
    freezer.threshold = 1.0
    freezer.step()
    assert torch.equal(sim.model.weight, torch.full((4, 8), 0.5))
    assert torch.equal(quantizer(sim.model.weight), sim.model.weight)
    quantizer.enabled = False
    with torch.no_grad():
        sim.model.weight.fill_(9.0)
    freezer.step()
    assert (sim.model.weight == 9).all()


def test_wrong_freezers():
    sim = simulated("learned")
    for wrong in (dict(threshold=-1.0), dict(threshold=math.nan), dict(threshold=0.1, momentum=0.0)):
        with pytest.raises(ValueError, match="expected a number"):
            qat.OscillationFreezer(sim, **wrong)
    with pytest.raises(ValueError, match="expected a calibrated sim"):
        qat.OscillationFreezer(QuantizationSimModel(Residual(), torch.randn(2, 6), SCHEMES["learned"]), threshold=0.1)
    freezer, other = qat.OscillationFreezer(sim, threshold=0.1), qat.OscillationFreezer(weighted()[0], threshold=0.2)
    with pytest.raises(ValueError, match="only in the state|not in the state"):
        freezer.load_state_dict(other.state_dict())
    state = freezer.state_dict()
    state["weights"]["head.param_quantizers.weight"]["code"] = torch.zeros(2)
    with pytest.raises(ValueError, match=r"code of head.param_quantizers.weight has shape \(2,\), expected \(3, 8\)"):
        qat.OscillationFreezer(nn.DataParallel(sim.model), threshold=0.3).load_state_dict(state)


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
    freezer = qat.OscillationFreezer(sim, threshold=0.2, momentum=0.3)
    if checkpoint is not None:
        optimizer.load_state_dict(checkpoint["optimizer"])
        freezer.load_state_dict(checkpoint["freezer"])
    for number in steps:
        torch.manual_seed(100 + number)
        step(sim, optimizer, torch.randn(32, 6), torch.randint(3, (32,)))
        freezer.step()
    return {"model": sim.model.state_dict(), "optimizer": optimizer.state_dict(), "freezer": freezer.state_dict()}


def test_resuming_in_a_new_process_is_bit_exact(tmp_path):
    for mode in MODES:
        torch.save(_trained(mode, range(5)), tmp_path / f"{mode}.pt")
    code = "import sys; sys.path.insert(0, sys.argv[1]); import test_qat_losses; test_qat_losses.resume(sys.argv[2])"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", code, str(HERE.parent), str(tmp_path)], check=True, env=environment)
    for mode in MODES:
        expected, got = _trained(mode, range(10)), torch.load(tmp_path / f"{mode}_resumed.pt", weights_only=True)
        assert expected["model"].keys() == got["model"].keys()
        for name, value in expected["model"].items():
            other = got["model"][name]
            assert torch.equal(value, other), (mode, name)


def resume(folder):
    for mode in MODES:
        checkpoint = torch.load(f"{folder}/{mode}.pt", weights_only=True)
        torch.save(_trained(mode, range(5, 10), checkpoint), f"{folder}/{mode}_resumed.pt")
