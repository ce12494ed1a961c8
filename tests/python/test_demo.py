"""The demo's main path, shortened."""

import importlib.util
import json
from pathlib import Path

import pytest

pytest.importorskip("sklearn", reason="pip install scikit-learn")
pytest.importorskip("matplotlib", reason="pip install matplotlib")
pytest.importorskip("onnxruntime", reason="pip install onnxruntime")
pytest.importorskip("onnxscript", reason="pip install onnx onnxscript")

DEMO = Path(__file__).parents[2] / "examples" / "digits_qat.py"


def test_the_demo_runs_and_writes_what_it_says(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("digits_qat", DEMO)
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    results = demo.main(["--quick", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "results.json").read_text())["float"] == results["float"]
    for name in ("accuracy.png", "digits_w8a8.onnx", "digits_w8a8_qdq.onnx", "digits_w8a8.torchscript.pth"):
        assert (tmp_path / name).stat().st_size > 0, name
    printed = capsys.readouterr().out
    for row in ("float", "W8A8", "W4A4", "W2A2"):
        assert any(line.startswith(row) for line in printed.splitlines()), row
    compared = results["onnx_runtime_w8a8"]
    # A sum that falls on a rounding boundary may go the other way; more than a few would be another computation.
    assert compared["logits_on_another_step"] <= compared["logits"] // 200, compared
    assert compared["max_difference_in_steps"] <= 1.001, compared
