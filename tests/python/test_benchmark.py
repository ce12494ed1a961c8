"""The benchmark runs and writes what its README says; its times are nobody's promise."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).resolve().parents[2] / "benchmarks" / "run.py"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    command = [sys.executable, str(RUN), "--quick", "--device", "cpu", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("cpu_*.json")
    return json.loads(path.read_text()), done.stdout


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


@pytest.mark.parametrize(
    "kind, contenders",
    [
        ("forward", ["detent fake_quantize", "detent fake_quantize_range", "detent fake_quantize_dynamic",
                     "detent fake_quantize with mask", "aten fixed", "aten learnable", "formula, eager"]),
        ("learned backward alone", ["detent fake_quantize", "detent fake_quantize_range", "aten learnable"]),
        ("learned forward + backward", ["detent fake_quantize", "detent fake_quantize_range", "aten learnable"]),
        ("fixed backward alone", ["detent fake_quantize", "aten fixed"]),
        ("fixed forward + backward", ["detent fake_quantize", "aten fixed"]),
        ("ReLU, forward", ["detent fake_quantize, one pass", "detent fake_quantize_range, two passes"]),
        ("ReLU, learned forward + backward", ["detent fake_quantize, one pass", "detent fake_quantize, two passes"]),
        ("ReLU, fixed forward + backward", ["detent fake_quantize_range, one pass"]),
        ("quantize to int8", ["detent quantize"]),
        ("dequantize from int8", ["detent dequantize"]),
        ("observe_min_max", ["detent observe_min_max"]),
        ("sweep, forward", ["detent fake_quantize", "aten learnable"]),
        ("sweep, learned backward alone", ["detent fake_quantize", "aten learnable"]),
        ("small, learned forward", ["detent fake_quantize", "detent fake_quantize_range"]),
        ("small, learned forward + backward", ["detent fake_quantize", "detent fake_quantize_range"]),
    ],
)  # fmt: skip
def test_every_kind_is_measured(report, kind, contenders):
    found = [group for group in groups(report, kind) if group["dtype"] == "float32"]
    assert found
    for group in found:
        for name in ["unit", *contenders]:
            assert name in group["contenders"], group["missing"]


def test_ratios_are_relative_to_the_unit(report):
    for group in report[0]["groups"]:
        assert group["rounds"] >= 3
        unit = group["contenders"]["unit"]
        assert unit["ratio"] == unit["ratio_best"] == unit["ratio_cpu"] == 1
        for row in group["contenders"].values():
            assert all(math.isfinite(number) and number > 0 for number in row.values()), row
            assert math.isclose(row["ratio"], row["median_us"] / unit["median_us"])


def test_compiled_formula_is_there_or_says_why_not(report):
    for kind in ("forward", "learned backward alone", "learned forward + backward"):
        for group in groups(report, kind):
            assert "formula, compiled" in group["contenders"] or group["missing"]["formula, compiled"]


def test_small_tensors_are_measured_with_gradients_from_python(report):
    found = {group["autograd"].split()[0] for group in groups(report, "small, learned forward + backward")}
    assert "Python" in found, report[0].get("python_autograd_missing")


def test_goals_are_printed_and_never_fail_the_run(report):
    goals, printed = report[0]["goals"], report[1]
    assert len(goals) == 6
    for goal in goals:
        assert goal["result"] in ("met", "not met", "not measured")
        assert f"{goal['goal']} {goal['target']}: {goal['result']}" in printed


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
    assert set(group["contenders"]) == {"unit", *ways, *(f"{way}, compressed" for way in ways)}
    for way in ways:
        assert 0 < group["saved_ratio"][f"{way}, compressed"] < group["saved_ratio"][way]
        assert f"| encoder, eager | {way} |" in done.stdout
