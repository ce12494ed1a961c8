"""Builds the compiled libraries with CMake and puts them into the package. Everything else is in pyproject.toml."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def torch_folder() -> Path:
    """Where torch lies, without importing it."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        sys.exit(
            "detent: torch is not importable while building. Install torch first, then run\n"
            "    pip install --no-build-isolation .\n"
            "(a build in isolation would not see your torch and would download another)."
        )
    return Path(spec.origin).parent


def tool(name: str) -> str:
    """An executable beside this Python, else on PATH."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        sys.exit(f"detent: {name} was not found. Install it first: pip install cmake ninja")
    return found


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        package = ROOT / "torch_ext" / "detent" if self.inplace else Path(self.build_lib).resolve() / "detent"
        build = Path(self.build_temp).resolve() / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                tool("cmake"), "-S", str(ROOT), "-B", str(build), "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
                "-DDETENT_TESTS=OFF",
                f"-DDETENT_CUDA={os.environ.get('DETENT_CUDA', 'AUTO')}",
                f"-DDETENT_TORCH_DIR={torch_folder()}",
                f"-DDETENT_LIBRARY_DIR={package / 'lib'}",
            ],
            check=True,
        )  # fmt: skip
        subprocess.run([tool("cmake"), "--build", str(build)], check=True)

    def get_outputs(self) -> list[str]:
        return [str(path) for path in (Path(self.build_lib) / "detent" / "lib").glob("*")]


class PythonAgnosticWheel(bdist_wheel):
    """The libraries do not know Python: one wheel for every version of it."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[Extension("detent.lib", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": PythonAgnosticWheel},
)
