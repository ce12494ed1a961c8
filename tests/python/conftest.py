"""Seeds, the two ways to gradients, and why a test is skipped.

Gradients come from C++ or, with DETENT_PYTHON_AUTOGRAD=1, from Python. A process has one of the two, so the modules
marked ``both_autograd_paths`` run in the default process and once more in one of their own (test_autograd_fallback.py).
"""

from __future__ import annotations

import os

import pytest
import torch

import detent


def pytest_configure(config):
    config.addinivalue_line("markers", "both_autograd_paths: also run with the gradients registered from Python")


def pytest_report_header(config):
    info = detent.build_info()
    return f"detent: autograd {info['autograd']}, CPU loops {info['cpu_dispatch']}, CUDA {info['cuda']}"


def pytest_collection_modifyitems(config, items):
    """Where the fallback is active only what is marked for it has something to say."""
    if os.environ.get("DETENT_PYTHON_AUTOGRAD", "") in ("", "0"):
        return
    kept = [item for item in items if item.get_closest_marker("both_autograd_paths")]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


@pytest.fixture
def seed() -> int:
    return 20240607


@pytest.fixture(autouse=True)
def _seeded_and_restored(seed):
    threads = torch.get_num_threads()
    torch.manual_seed(seed)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def cuda() -> torch.device:
    """The CUDA device; skips where there is none."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    if detent.build_info()["cuda"] != "loaded":
        pytest.skip(f"CUDA kernels: {detent.build_info()['cuda']}")
    return torch.device("cuda")
