"""The checks of benchmarks/coverage.py find what they are there to find."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from detent.quantsim import QuantizationSimModel

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import coverage_checks  # noqa: E402
from grids import inputs_off_grid  # noqa: E402
from zoo import Case, cases  # noqa: E402


def row(forward, *layers):
    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(layers)

    Made.forward = forward
    return coverage_checks.check(Case("none", "none", "made", Made, lambda batch: torch.randn(batch, 3, 8, 8)))


def test_a_model_that_works_has_no_failures():
    found = row(lambda self, x: self.layers[0](x).relu() + 1, nn.Conv2d(3, 4, 3))
    assert found["failures"] == [] and found["unknown"] == [] and found["used"] > 2 and found["products"] == 1


def test_failures_say_the_stage_and_the_reason():
    def raises(self, x):
        raise RuntimeError("no such thing")

    assert row(raises)["failures"] == ["float model: RuntimeError: no such thing"]

    def only_in_training(self, x):
        return self.layers[0](x).detach() if self.training else self.layers[0](x)

    found = row(only_in_training, nn.Conv2d(3, 4, 3))["failures"]
    assert len(found) == 1 and found[0].startswith("training step: ")


def test_an_input_on_no_grid_is_counted():
    x = torch.randn(2, 3, 8, 8)
    sim = QuantizationSimModel(nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1)), x)
    sim.compute_encodings(lambda model: model(x))
    sim.model[1].output_quantizers[0] = None
    off, seen = inputs_off_grid(sim.model, lambda: sim.model(x))
    assert seen == 2 and len(off) == 1 and off[0].startswith("2 conv2d")


def test_products_of_constants_are_not_looked_at():
    class Made(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.weight = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8, 8))

        def forward(self, x):
            return x @ (self.table @ self.table) + nn.functional.linear(self.table, self.weight)

    data = [torch.randn(8, 8) for _ in range(2)]
    sim = QuantizationSimModel(Made(), data[0])
    sim.compute_encodings(lambda model: [model(x) for x in data])
    off, seen = inputs_off_grid(sim.model, *(lambda x=x: sim.model(x) for x in data))
    assert seen == 3 and off == []
    off, seen = inputs_off_grid(sim.model, lambda: sim.model(data[0]))
    assert seen == 5 and [title.split()[0] for title in off] == ["matmul", "matmul"]


@pytest.mark.parametrize("library, models", [("torchvision", 40), ("timm", 60), ("transformers", 20)])
def test_enough_models_of_each_library(library, models):
    try:
        found = cases(library)
    except ImportError as error:
        pytest.skip(f"{library}: {error}")
    assert len(found) >= models and len({case.name for case in found}) == len(found)
