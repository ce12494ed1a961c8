"""Loads the compiled operators and says what was loaded.

Three libraries lie in ``detent/lib``: ``libdetent`` (schemas and CPU kernels, for torch 2.10 and later),
``libdetent_cuda`` (CUDA kernels, where torch has CUDA) and ``libdetent_autograd`` (gradients in C++, for the torch it was
built with). Where the last one does not match, :mod:`detent._autograd` registers the same formulas from Python.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

_FOLDER = Path(__file__).parent / "lib"
_MINIMUM = (2, 10)

#: Why a library was not loaded, by name; empty string where it was.
status: dict[str, str] = {}


def _release(version: str) -> tuple[int, int]:
    major, minor = version.split("+")[0].split(".")[:2]
    return int(major), int(minor)


def _load(name: str) -> str:
    path = _FOLDER / f"lib{name}.so"
    if not path.exists():
        return f"{path.name} was not built"
    try:
        torch.ops.load_library(str(path))
    except OSError as error:
        return f"{path.name} did not load: {error}"
    return ""


def _load_autograd() -> str:
    if os.environ.get("DETENT_PYTHON_AUTOGRAD", "") not in ("", "0"):
        return "DETENT_PYTHON_AUTOGRAD is set"
    built_for = _FOLDER / "autograd_torch_version.txt"
    if not built_for.exists():
        return "libdetent_autograd.so was not built"
    version = built_for.read_text().strip()
    if _release(version) != _release(torch.__version__):
        return f"libdetent_autograd.so is for torch {version}, this is {torch.__version__}"
    return _load("detent_autograd")


def load() -> None:
    """Load what fits the running torch; raise ImportError where the CPU operators cannot be had."""
    if _release(torch.__version__) < _MINIMUM:
        raise ImportError(f"detent needs torch 2.10 or later, found {torch.__version__}. Upgrade torch.")
    status["detent"] = _load("detent")
    if status["detent"]:
        raise ImportError(
            f"detent: {status['detent']}. Install it with: pip install --no-build-isolation . "
            "(torch must be importable while it builds)."
        )
    status["detent_cuda"] = _load("detent_cuda") if torch.version.cuda else "this torch was built without CUDA"
    status["detent_autograd"] = _load_autograd()


def build_info() -> dict[str, str]:
    """Versions, what was loaded and why not, which gradients are active, what the CPU loops dispatch to.

    Example:
        >>> sorted(build_info())[:3]
        ['autograd', 'cpu_dispatch', 'cublas']
    """
    cuda = status["detent_cuda"]
    return {
        "detent": _version(),
        "torch": torch.__version__,
        "cpu_dispatch": torch.ops.detent.cpu_dispatch(),
        "autograd": "C++" if not status["detent_autograd"] else f"Python ({status['detent_autograd']})",
        "cuda": "loaded" if not cuda else f"not loaded: {cuda}",
        "cublas": "not used yet" if not cuda else f"not used: {cuda}",
        "nccl": ".".join(map(str, torch.cuda.nccl.version())) if not cuda else f"not used: {cuda}",
    }


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("detent")
    except PackageNotFoundError:
        from . import __version__

        return __version__
