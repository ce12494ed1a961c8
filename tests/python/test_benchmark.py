"""The benchmark runs and writes what its README says; its times are nobody's promise."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch

RUN = Path(__file__).resolve().parents[2] / "benchmarks" / "run.py"


@pytest.fixture(autouse=True)
def benchmarks_importable(monkeypatch):
    monkeypatch.syspath_prepend(str(RUN.parent))


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    command = [sys.executable, str(RUN), "--quick", "--device", "cpu", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("cpu_*.json")
    return json.loads(path.read_text()), done.stdout, path


def test_accuracy_is_written_for_every_way_of_training(tmp_path):
    script = RUN.parent / "qat_digits.py"
    quick = ["--float-epochs", "1", "--epochs", "1", "--seeds", "5", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, str(script), *quick], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "qat_digits.json").read_text())
    ways = ["ranges follow", "ranges learned", "LSQ", "LSQ+", "PACT"]
    assert sorted(written["accuracy"]) == sorted(["float", "float, trained on", "calibrated", *ways])
    assert all(len(values) == 1 and 0 <= values[0] <= 100 for values in written["accuracy"].values())
    assert written["settings"]["seeds"] == [5] and written["environment"]["commit"]
    for way in ways:
        assert f"| W4A4, {way} | {written['accuracy'][way][0]:.2f} |" in done.stdout


def groups(report, kind):
    return [group for group in report[0]["groups"] if group["kind"] == kind]


def test_environment_says_what_ran(report):
    environment = report[0]["environment"]
    for key in ("date", "device", "cpu", "torch", "threads", "commit", "build_info", "malloc", "load_average"):
        assert key in environment
    assert environment["threads"] == 1
    assert environment["build_info"]["detent"]
    assert all(environment["malloc"].values()), environment["malloc"]


OURS = ["detent fake_quantize", "detent fake_quantize_range"]


@pytest.mark.parametrize(
    "kind, contenders",
    [
        ("forward", ["copy", *OURS, "aten fixed", "aten learnable"]),
        ("learned backward", ["copy", *OURS, "aten learnable"]),
        ("fixed backward", ["copy", "detent fake_quantize", "aten fixed"]),
        ("learned forward + backward", [*OURS, "aten learnable", "formula, eager"]),
        ("fixed forward + backward", [*OURS, "aten fixed", "formula, eager"]),
        ("family: ReLU + fake_quantize", ["detent", "detent, two passes"]),
        ("family: quantize to int8", ["detent", "aten"]),
        ("family: dequantize from packed int4", ["detent"]),
        ("family: observe_min_max", ["detent", "aten aminmax"]),
        ("family: observe_histogram", ["detent", "aten histc"]),
        ("family: float_cast to float8_e4m3fn", ["detent"]),
        ("family: fake_quantize_stochastic", ["detent"]),
        ("small, fixed forward", OURS),
        ("small, fixed forward + backward", OURS),
        ("small, learned forward", OURS),
        ("small, learned forward + backward", OURS),
    ],
)  # fmt: skip
def test_every_kind_is_measured(report, kind, contenders):
    found = [group for group in groups(report, kind) if group["dtype"] == "float32"]
    assert found
    for group in found:
        for name in ["unit", *contenders]:
            assert name in group["contenders"], group["missing"]


def test_the_sweep_has_every_granularity_and_type(report):
    swept = {(g["granularity"], g["dtype"]) for g in report[0]["groups"] if g.get("part") == "sweep"}
    granularities = ("per_tensor", "per_channel_1", "per_block")
    assert swept == {(granularity, dtype) for granularity in granularities for dtype in ("float32", "bfloat16")}


def test_triton_takes_part_or_says_why_not(report):
    for kind in ("forward", "learned backward"):
        for group in groups(report, kind):
            assert "triton" in group["contenders"] or group["missing"]["triton"]


def test_ratios_are_relative_to_the_unit(report):
    for group in report[0]["groups"]:
        assert group["rounds"] >= 3
        unit = group["contenders"]["unit"]
        assert unit["ratio"] == unit["ratio_best"] == unit["ratio_cpu"] == 1
        for row in group["contenders"].values():
            assert all(math.isfinite(number) and number > 0 for number in row.values()), row
            assert math.isclose(row["ratio"], row["median_us"] / unit["median_us"], rel_tol=1e-3)


def test_speeds_follow_from_bytes_and_times(report):
    for group in report[0]["groups"]:
        for row in group["contenders"].values():
            if group["bytes_needed"]:
                assert math.isclose(row["gb_per_s"], group["bytes_needed"] / row["median_us"] / 1e3, rel_tol=1e-3)
    (forward,) = groups(report, "family: fake_quantize_dynamic")[:1]
    size = forward["mib"] * 2**20
    assert forward["bytes_moved"] == forward["bytes_needed"] + size  # the range, then the values
    assert 2 * size < forward["bytes_needed"] < 2 * size + 64  # x and y, and the two ends
    copy, ours = forward["contenders"]["copy"], forward["contenders"]["detent"]
    share = ours["gb_per_s"] / (2 * size / copy["median_us"] / 1e3)
    assert math.isclose(ours["copy_fraction"], share, rel_tol=1e-3)


def test_compiled_formula_is_there_or_says_why_not(report):
    for kind in ("forward", "learned backward", "fixed backward", "learned forward + backward"):
        for group in groups(report, kind):
            assert "formula, compiled" in group["contenders"] or group["missing"]["formula, compiled"]


def test_small_tensors_are_measured_with_gradients_from_python(report):
    found = {group["autograd"].split()[0] for group in groups(report, "small, learned forward + backward")}
    assert "Python" in found, report[0].get("python_autograd_missing")


def test_networks_are_the_sum_of_their_tensors(report):
    written = report[0]["networks"]
    assert written["sums"]
    for row in written["sums"]:
        tensors = [t for t in written["tensors"] if (t["network"], t["kind"]) == (row["network"], row["kind"])]
        assert row["tensors"] == sum(tensor["count"] for tensor in tensors) > row["different"] == len(tensors)
        for name, sums in row["contenders"].items():
            chosen = [tensor for tensor in tensors if name in tensor["median_us"]]
            time = sum(tensor["count"] * tensor["median_us"][name] for tensor in chosen)
            unit = sum(tensor["count"] * tensor["median_us"]["unit"] for tensor in chosen)
            assert math.isclose(sums["ratio"], time / unit, rel_tol=1e-3)
            assert sums["share"] <= 1


def test_tensors_of_a_network_are_counted():
    import models
    import networks

    found = networks.rounded(models.ResNet50().eval(), torch.randn(1, 3, 32, 32))
    weights = {tensor: count for tensor, count in found.items() if tensor.parameter}
    assert sum(weights.values()) == 54 and all(tensor.axis == 0 for tensor in weights)
    assert sum(count for tensor, count in weights.items() if tensor.shape == (256, 256, 3, 3)) == 6


def test_goals_are_printed_and_never_fail_the_run(report):
    goals, printed = report[0]["goals"], report[1]
    assert len(goals) == 14
    for goal in goals:
        assert goal["result"] in ("met", "not met", "not measured")
        assert f"{goal['goal']} {goal['target']}: {goal['result']}" in printed


def test_a_goal_is_met_by_the_slower_parametrization_at_every_size(report):
    import goals

    def group(ours: float, ranged: float, mib: float) -> dict:
        times = {"unit": 10.0, "detent fake_quantize": ours, "detent fake_quantize_range": ranged}
        rows = {name: {"median_us": us, "best_us": us, "cpu_us": us} for name, us in times.items()}
        shape = [int(mib * 2**18)]
        about = {"part": "sweep", "kind": "forward", "granularity": "per_tensor", "dtype": "float32"}
        return {**about, "shape": shape, "mib": mib, "contenders": rows}

    def result(*groups: dict) -> str:
        return goals.goals(list(groups), "cpu")[0]["result"]

    assert result(group(10.0, 11.0, 1), group(10.0, 50.0, 0.5)) == "met"
    assert result(group(10.0, 11.0, 1), group(10.0, 11.1, 4)) == "not met"
    assert result() == "not measured"


def test_plots_are_drawn_beside_the_json(report):
    pytest.importorskip("matplotlib")
    path = report[2]
    for name in ("sweep_float32", "sweep_bfloat16", "roofline", "networks"):
        plot = path.with_name(f"{path.stem}_{name}.svg")
        drawn = [element for element in ElementTree.parse(plot).iter() if element.tag.endswith("}path")]
        assert len(drawn) > 20 and plot.name in report[1]


def test_json_holds_no_folder_of_this_machine(report):
    assert str(RUN.parents[1]) not in json.dumps(report[0])


def test_a_training_step_is_measured(tmp_path):
    options = ["--quick", "--models", "encoder", "--how", "eager", "captured", "--threads", "1"]
    command = [sys.executable, str(RUN.parent / "step.py"), *options, "--device", "cpu", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("step_cpu_*.json")
    written = json.loads(path.read_text())
    assert written["quantizers"]["encoder"]["quantizers"] == 18
    assert written["quantizers"]["encoder"]["products"] == 8 and not written["quantizers"]["encoder"]["off_grid"]
    assert written["missing"] == {"encoder, captured": "CUDA graphs need --device cuda, this is cpu"}
    (group,) = written["groups"]
    ways = ["fixed", "learned", "LSQ"]
    compressed, aten = [f"{way}, compressed" for way in ways], ["fixed, ATen", "learned, ATen"]
    assert set(group["contenders"]) == {"unit", *ways, *compressed, *aten}, group["missing"]
    for way in ways:
        assert 0 < group["saved_ratio"][f"{way}, compressed"] < group["saved_ratio"][way]
        assert f"| encoder, eager | {way} |" in done.stdout
    assert group["saved_ratio"]["fixed"] < group["saved_ratio"]["fixed, ATen"]  # a bit an element, and a byte


@pytest.mark.parametrize("way", ["fixed", "learned"])
def test_rivals_compute_what_the_simulation_computes(way):
    import models
    import rivals
    import step

    torch.manual_seed(0)
    model, x = models.LlamaBlock(32, 64, 4, 2, 8), torch.randn(1, 8, 32)
    ours = step.simulated(model, x, way)
    expected = ours.model(x)
    for rival in (rivals.Aten, rivals.Formula):
        sim = step.simulated(model, x, way)
        rivals.replace(sim, rival)
        with torch.profiler.profile() as profile:
            y = sim.model(x)
        called = {event.key for event in profile.key_averages()}
        assert not [name for name in called if name.startswith("detent::") and "encode" not in name]
        y.square().mean().backward()
        # A value at the middle between two codes may go either way where ATen multiplies by 1 / scale.
        assert (y - expected).abs().max() < 0.1 * expected.abs().max()
        assert (y - expected).abs().mean() < 0.01 * expected.abs().mean()
        quantizers = list(sim.quantizers())
        assert all(type(quantizer) is rival for quantizer in quantizers)
        learned = [parameter for quantizer in quantizers for parameter in quantizer.parameters()]
        assert all((parameter.grad is not None) == (way == "learned") for parameter in learned)
