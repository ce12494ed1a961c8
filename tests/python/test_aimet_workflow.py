"""The example that follows AIMET's published one, shortened."""

import importlib.util
import os
from pathlib import Path

import pytest

pytest.importorskip("safetensors", reason="pip install safetensors")
pytest.importorskip("PIL", reason="pip install pillow")
pytest.importorskip("onnxscript", reason="pip install onnx onnxscript")

EXAMPLE = Path(__file__).parents[2] / "examples" / "aimet_workflow.py"


@pytest.fixture
def example():
    spec = importlib.util.spec_from_file_location("aimet_workflow", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_published_workflow_runs_on_an_unedited_network(example, tmp_path, capsys, monkeypatch):
    if not (Path(os.environ.get("DETENT_DATA") or "nowhere") / "cifar10_jpeg.tar.xz").is_file():
        pytest.skip("DETENT_DATA does not name a folder with cifar10_jpeg.tar.xz")
    whole = example.load_images

    def few(folder, counts, size):  # the archive begins with the airplanes to train on
        images = whole(folder, {"train": 200}, size, members=250)["train"]
        return {"train": images, "test": images}

    monkeypatch.setattr(example, "load_images", few)
    results = example.main(["--out", str(tmp_path), "--steps", "2"])
    assert list(results) == ["float", "calibrated", "trained"]
    assert results["float"] > 0.9 and abs(results["calibrated"] - results["float"]) <= 0.05
    assert abs(results["trained"] - results["calibrated"]) <= 0.05
    for name in ("resnet20.onnx", "resnet20_qdq.onnx", "resnet20.encodings", "report.html"):
        assert (tmp_path / name).stat().st_size > 0, name
    printed = capsys.readouterr().out
    assert "float" in printed and "calibrated" in printed and "trained" in printed


def test_no_layer_of_the_network_has_an_input_on_no_grid(example):
    import torch
    from detent import QuantizationSimModel
    from detent.ptq import fold_all_batch_norms

    torch.manual_seed(0)
    model, x = example.ResNet20().eval(), torch.randn(4, 3, 32, 32)
    fold_all_batch_norms(model, x.shape)
    sim = QuantizationSimModel(model, x)
    sim.compute_encodings(lambda model: model(x))
    counts = []
    for module in sim.model.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            own = module.input_quantizers[0]
            module.register_forward_pre_hook(
                lambda module, args, own=own: counts.append((args[0] if own is None else own(args[0])).unique().numel())
            )
    sim.model(x)
    assert len(counts) == 20 and max(counts) <= 256
