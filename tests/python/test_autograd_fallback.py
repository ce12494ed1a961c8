"""Every module marked both_autograd_paths once more, with the gradients registered from Python."""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

import detent

HERE = Path(__file__).parent


@pytest.mark.both_autograd_paths
def test_the_path_asked_for_is_active():
    asked = os.environ.get("DETENT_PYTHON_AUTOGRAD", "") not in ("", "0")
    active = detent.build_info()["autograd"]
    if not asked and active != "C++":
        pytest.skip(f"no C++ gradients here: {active}")
    assert active == ("Python (DETENT_PYTHON_AUTOGRAD is set)" if asked else "C++")


def test_marked_modules_pass_with_gradients_from_python(tmp_path):
    report = tmp_path / "report.xml"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "both_autograd_paths",
        f"--junitxml={report}",
        str(HERE),
    ]
    environment = {**os.environ, "DETENT_PYTHON_AUTOGRAD": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    suite = ElementTree.parse(report).getroot().find("testsuite")
    ran = int(suite.get("tests")) - int(suite.get("skipped"))
    assert ran > 100, f"{ran} tests ran, expected the marked modules:\n{done.stdout[-2000:]}"
    assert int(suite.get("failures")) + int(suite.get("errors")) == 0
