"""What ptxas said of every CUDA kernel: no spills, and few enough registers for the blocks that launches count on."""

import importlib.util
import os
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("DETENT_BUILD", ROOT / "build"))

REGISTERS = 65536  # of a multiprocessor
THREADS = 256
# Blocks that a multiprocessor holds at once, at least: enough to hide memory behind arithmetic. A sum over vectors has
# much in flight per thread; a search is bound by its arithmetic.
BLOCKS = {"reduce_wide": 2, "reduce_many": 2, "search_groups": 1}
OTHER_BLOCKS = 3
# Arrays that are indexed by numbers known at run time alone, so not in registers: the bounds of a search's steps.
STACK = {"search_groups": 128}


def script():
    spec = importlib.util.spec_from_file_location("cuda_resources", ROOT / "scripts" / "cuda_resources.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kernels():
    found = script().kernels(BUILD)
    if not found:
        pytest.skip(f"no CUDA kernels were compiled in {BUILD}; DETENT_BUILD names another build folder")
    return found


def architectures():
    """Those that were asked for, or all three."""
    cache = (BUILD / "CMakeCache.txt").read_text()
    asked = re.search(r"^CMAKE_CUDA_ARCHITECTURES:\w+=(\d[^\n]*)", cache, re.MULTILINE)
    return {f"sm_{number}" for number in (re.findall(r"\d+", asked[1]) if asked else (80, 90, 100))}


def most_registers(blocks):
    return min(255, REGISTERS // (THREADS * blocks) // 8 * 8)  # they are given out by eights


def test_every_kernel_of_every_family_is_compiled_for_every_architecture(kernels):
    sources = [*(ROOT / "kernels" / "cuda").glob("*.cu"), *(ROOT / "kernels" / "cuda").glob("*.cuh")]
    declared = {
        name
        for source in sources
        for name in re.findall(r"__global__ void (?:__launch_bounds__\([^)]*\)\s*)?(\w+)\(", source.read_text())
    }
    compiled = {report.name.split(".")[0] for report in script().reports(BUILD)}
    assert {source.stem for source in sources if source.suffix == ".cu"} - compiled == set()
    assert declared - {kernel.name for kernel in kernels} == set()
    found = defaultdict(set)
    for kernel in kernels:
        found[kernel.family, kernel.symbol].add(kernel.architecture)
    assert {symbol for symbol, those in found.items() if those != architectures()} == set()


def test_no_kernel_spills_and_none_takes_more_registers_than_its_blocks_leave(kernels):
    print(script().table(kernels))
    wrong = []
    for kernel in kernels:
        bound = most_registers(BLOCKS.get(kernel.name, OTHER_BLOCKS))
        if kernel.spill_stores or kernel.spill_loads:
            wrong.append((kernel, "spills"))
        if kernel.stack > STACK.get(kernel.name, 0):
            wrong.append((kernel, "has a stack"))
        if kernel.registers > bound:
            wrong.append((kernel, f"takes more than {bound} registers"))
    assert not wrong, "\n".join(f"{kernel.family}, {what}: {kernel}" for kernel, what in wrong)


def test_a_report_is_read_as_ptxas_writes_it(tmp_path, monkeypatch):
    module = script()
    folder = tmp_path / "detent_kernels_cuda.dir"
    folder.mkdir()
    (folder / "one.cu.o.ptxas").write_text(
        "ptxas info    : 0 bytes gmem\n"
        "ptxas info    : Compiling entry function '_ZN11detent_cuda3mapIfEEvNS_3JobIT_EE' for 'sm_80'\n"
        "ptxas info    : Function properties for _ZN11detent_cuda3mapIfEEvNS_3JobIT_EE\n"
        "    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 56 registers, used 1 barriers, 8 bytes cumulative stack size, 64 bytes smem\n"
    )
    (kernel,) = module.kernels(tmp_path)
    assert (kernel.family, kernel.name, kernel.architecture) == ("one", "map", "sm_80")
    assert (kernel.registers, kernel.shared, kernel.stack) == (56, 64, 8)
    assert (kernel.spill_stores, kernel.spill_loads) == (4, 12)
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    assert module.table([kernel]).splitlines()[1].split() == ["56", "64", "8", "16", "sm_80", "one:", kernel.symbol]
