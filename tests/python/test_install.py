"""The package as a user installs it: a wheel from the source tree, in an environment with torch and numpy only."""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import requires
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

WORKFLOW = """
import sys, torch
from torch import nn
import detent
from detent import QuantizationSimModel, QuantScheme

assert {checkout!r} not in detent.__file__, detent.__file__
model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
images = torch.randn(8, 1, 8, 8)
sim = QuantizationSimModel(model, images[:1], QuantScheme.training_range_learning_with_tf_init)
sim.compute_encodings(lambda m: m(images))
sim.model(images).sum().backward()
assert all(p.grad is not None for p in sim.model.parameters())
QuantizationSimModel(model, images[:1], config_file="htp_v73")
heavy = {{"onnx", "onnxscript", "matplotlib", "torchvision", "tqdm"}} & set(sys.modules)
assert not heavy, heavy
try:
    sim.export(".", "model", images[:1])
except ImportError as error:
    assert "pip install" in str(error), error
else:
    raise AssertionError("export worked without onnx")
print(detent.build_info()["autograd"])
"""


def _runtime_needs(package: str, found: set[str]) -> set[str]:
    """Names of the distributions `package` needs, itself included."""
    from packaging.requirements import Requirement

    if package in found:
        return found
    found.add(package)
    for line in requires(package) or []:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            _runtime_needs(requirement.name, found)
    return found


def _environment(**changes: str) -> dict[str, str]:
    """As here, without the checkout on Python's path."""
    return {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | changes


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    built = ("build*", ".*", "lib", "*.egg-info", "__pycache__", "demo_output", "out")
    source = shutil.copytree(ROOT, folder / "source", ignore=shutil.ignore_patterns(*built))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "-w", folder, source],
        check=True,
        env=_environment(DETENT_CUDA="OFF"),
    )
    (built,) = folder.glob("detent-*.whl")
    return built


@pytest.fixture(scope="module")
def bare_python(wheel, tmp_path_factory) -> Path:
    """An environment that sees torch, numpy and what those need, nothing else of this one."""
    from importlib.metadata import distribution

    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, with_pip=True)
    site = folder / "lib" / f"python{sysconfig.get_python_version()}" / "site-packages"
    for name in _runtime_needs("torch", set()) | {"numpy"}:
        for top in {Path(str(file)).parts[0] for file in distribution(name).files or []} - {"..", "__pycache__"}:
            source = Path(str(distribution(name).locate_file(top)))
            if source.exists() and not (site / top).exists():
                (site / top).symlink_to(source)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel], check=True, env=_environment())
    return python


def test_wheel_serves_every_python(wheel):
    assert "-py3-none-" in wheel.name


def test_wheel_works_with_torch_and_numpy_only(bare_python, tmp_path):
    done = subprocess.run(
        [bare_python, "-c", WORKFLOW.format(checkout=str(ROOT))],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "C++"


def test_build_without_torch_says_what_to_do(tmp_path):
    done = subprocess.run(
        [sys.executable, "-S", "setup.py", "build_ext"],
        cwd=ROOT,
        env=_environment(PYTHONPATH=str(_setuptools_only(tmp_path))),
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "pip install --no-build-isolation ." in done.stderr, done.stderr


def _setuptools_only(folder: Path) -> Path:
    import setuptools

    source = Path(setuptools.__file__).parent.parent
    for name in ("setuptools", "pkg_resources", "_distutils_hack"):
        if (source / name).exists():
            (folder / name).symlink_to(source / name)
    return folder
