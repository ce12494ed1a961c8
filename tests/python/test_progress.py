"""Progress of calibration: what is shown where, nothing elsewhere, and what an interruption leaves."""

import contextlib
import copy
import io
import re
import signal
import sys

import pytest
import torch
from simulations import calibrated
from torch import nn

import detent
from detent import QuantizationSimModel, _progress
from detent.observers import MinMaxObserver


@pytest.fixture
def x():
    return torch.rand(4, 3, 8, 8)


@pytest.fixture
def sim(x):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(144, 5)).eval()
    return QuantizationSimModel(net, x, "tf_enhanced")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal():
    pytest.importorskip("tqdm")
    return Terminal()


@pytest.fixture
def ctrl_c():
    """Ctrl-C as a terminal sends it, also where it is ignored, as in what a shell starts in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def run(sim, x, stderr, **options):
    with contextlib.redirect_stderr(stderr):
        sim.compute_encodings(lambda model: [model(batch) for batch in x], **options)


def test_a_long_calibration_counts_forwards_and_ranges(sim, x, terminal, monkeypatch):
    monkeypatch.setattr(_progress, "_AFTER", 0)
    run(sim, x[:, None], terminal)
    text = terminal.getvalue()
    assert "calibrating: " in text and re.search(r"ranges of parameters: .*0/2", text)
    assert re.search(r"finding ranges: .*0/4", text)
    assert not any(module._forward_hooks for module in sim.model.modules())


def test_what_is_done_soon_shows_nothing(sim, x, terminal):
    run(sim, x[:, None], terminal)
    assert terminal.getvalue() == ""


def test_nothing_is_shown_where_there_is_no_terminal(sim, x, monkeypatch):
    monkeypatch.setattr(_progress, "_AFTER", 0)
    file = io.StringIO()
    run(sim, x[:, None], file)
    assert file.getvalue() == ""


def test_asked_for_and_asked_not_to(sim, x, terminal, monkeypatch):
    monkeypatch.setattr(_progress, "_AFTER", 0)
    run(sim, x[:, None], terminal, progress=False)
    assert terminal.getvalue() == ""
    file = io.StringIO()
    with contextlib.redirect_stderr(file), detent.compute_encodings(sim.model, progress=True):
        sim.model(x)
    assert "calibrating" in file.getvalue()


def test_without_tqdm_there_is_nothing_to_see(sim, x, terminal, monkeypatch):
    monkeypatch.setattr(_progress, "_AFTER", 0)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    run(sim, x[:, None], terminal)
    assert terminal.getvalue() == ""
    with pytest.raises(ImportError, match="progress=True needs tqdm .*pip install tqdm"):
        run(sim, x[:, None], terminal, progress=True)
    with pytest.raises(ValueError, match="progress is 'yes', expected True, False or None"):
        run(sim, x[:, None], terminal, progress="yes")


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("when", ["ranges of parameters", "forward", "finding ranges", "the last range"])
def test_ctrl_c_leaves_the_sim_as_it_was(x, when, before, terminal, ctrl_c, monkeypatch):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Linear(144, 5)).eval()
    sim = calibrated(net, x) if before else QuantizationSimModel(net, x)
    sim.model.train()
    for quantizer in sim.quantizers():
        quantizer.unsigned_symmetric = True
    state, shown = copy.deepcopy(sim.model.state_dict()), str(sim)
    left = {"ranges of parameters": 2, "forward": -1, "finding ranges": 5, "the last range": 6}[when]
    find = MinMaxObserver.range

    def interrupted(self, *args):
        nonlocal left
        left -= 1
        if left == 0:
            ctrl_c()
        return find(self, *args)

    monkeypatch.setattr(MinMaxObserver, "range", interrupted)

    def callback(model):
        model(x * 10)
        if when == "forward":
            ctrl_c()

    with pytest.raises(KeyboardInterrupt), contextlib.redirect_stderr(terminal):
        sim.compute_encodings(callback, progress=True)
    assert str(sim) == shown and sim.model.training
    assert not any(module._forward_hooks for module in sim.model.modules())
    for key, value in sim.model.state_dict().items():
        assert torch.equal(value, state[key]) if isinstance(value, torch.Tensor) else value == state[key]
    monkeypatch.undo()
    run(sim, x[:, None], terminal)
    assert not any(quantizer._observing for quantizer in sim.quantizers())
