"""The examples of the docstrings and the code of the README and docs run as they stand."""

import doctest
import importlib
import pkgutil
import re
import socket
from pathlib import Path

import pytest
import torch

import detent

ROOT = Path(__file__).resolve().parents[2]


def _modules() -> list[str]:
    names = [module.name for module in pkgutil.walk_packages(detent.__path__, "detent.")]
    return sorted(name for name in names if not name.startswith("detent.lib"))


@pytest.mark.parametrize("name", ["detent", *_modules()])
def test_docstring_examples_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    module = importlib.import_module(name)
    given = {"torch": torch, "detent": detent, "nn": torch.nn, "folder": str(tmp_path)}
    given["QuantizeDequantize"] = detent.quantizers.QuantizeDequantize
    results = doctest.testmod(module, extraglobs=given, optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    assert results.failed == 0


def test_public_functions_have_examples():
    for name in detent.functional.__all__:
        assert ">>>" in getattr(detent.functional, name).__doc__, name


def _python_blocks() -> list:
    files = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
    return [
        pytest.param(block, id=f"{file.name}-{number}")
        for file in files
        for number, block in enumerate(re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL))
    ]


@pytest.mark.parametrize("block", _python_blocks())
def test_code_in_the_documents_runs(block, tmp_path, monkeypatch):
    """Each alone, as torchrun would start the only rank."""
    monkeypatch.chdir(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rank = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in {**rank, "GLOO_SOCKET_IFNAME": "lo"}.items():
        monkeypatch.setenv(name, str(value))
    exec(compile(block, "document", "exec"), {"__name__": "document"})
