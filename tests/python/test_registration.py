"""What the libraries register and need: schemas are frozen, kernels are there, symbols are the stable ABI's."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

import detent
from detent import _library

LIBRARIES = Path(_library.__file__).parent / "lib"

# Exported programs and TorchScript files hold these. Append arguments with defaults; change nothing else.
SCHEMAS = {
    "fake_quantize": (
        "(Tensor x, Tensor scale, Tensor? zero_point, int qmin, int qmax, int? axis=None, int[]? "
        "block_size=None, float grad_scale=1., float? activation_min=None, float? activation_max=None, bool "
        "trained=False, Tensor? residual=None) -> Tensor"
    ),
    "fake_quantize_stochastic": (
        "(Tensor x, Tensor scale, Tensor? zero_point, Tensor random, int qmin, int qmax, int? axis=None, int[]? "
        "block_size=None) -> Tensor"
    ),
    "fake_quantize_mask": (
        "(Tensor x, Tensor scale, Tensor? zero_point, int qmin, int qmax, int? axis=None, int[]? "
        "block_size=None, float? activation_min=None, float? activation_max=None, bool trained=False, Tensor? "
        "residual=None) -> (Tensor y, Tensor mask)"
    ),
    "fake_quantize_sum": (
        "(Tensor x, Tensor residual, Tensor scale, Tensor? zero_point, int qmin, int qmax, int? axis=None, int[]? "
        "block_size=None, float? activation_min=None, float? activation_max=None, bool trained=False) -> (Tensor y, "
        "Tensor sum)"
    ),
    "fake_quantize_backward": (
        "(Tensor grad_y, Tensor x, Tensor scale, Tensor? zero_point, int qmin, int qmax, int? axis=None, "
        "int[]? block_size=None, float grad_scale=1., float? activation_min=None, float? activation_max=None, "
        "bool trained=False) -> (Tensor grad_x, Tensor grad_scale, Tensor grad_zero_point)"
    ),
    "fake_quantize_range": (
        "(Tensor x, Tensor min, Tensor max, int qmin, int qmax, bool symmetric, int? zero_point=None, int? "
        "axis=None, int[]? block_size=None, float? activation_min=None, float? activation_max=None, Tensor? "
        "residual=None) -> Tensor"
    ),
    "fake_quantize_range_mask": (
        "(Tensor x, Tensor min, Tensor max, int qmin, int qmax, bool symmetric, int? zero_point=None, int? "
        "axis=None, int[]? block_size=None, float? activation_min=None, float? activation_max=None, Tensor? "
        "residual=None) -> (Tensor y, Tensor mask)"
    ),
    "fake_quantize_range_sum": (
        "(Tensor x, Tensor residual, Tensor min, Tensor max, int qmin, int qmax, bool symmetric, int? "
        "zero_point=None, int? axis=None, int[]? block_size=None, float? activation_min=None, float? "
        "activation_max=None) -> (Tensor y, Tensor sum)"
    ),
    "fake_quantize_range_backward": (
        "(Tensor grad_y, Tensor x, Tensor min, Tensor max, int qmin, int qmax, bool symmetric, int? "
        "zero_point=None, int? axis=None, int[]? block_size=None, float? activation_min=None, float? "
        "activation_max=None) -> (Tensor grad_x, Tensor grad_min, Tensor grad_max)"
    ),
    "fake_quantize_dynamic": (
        "(Tensor x, Tensor? clip, int qmin, int qmax, bool symmetric, int? axis=None, int[]? block_size=None, "
        "int? zero_point=None) -> (Tensor y, Tensor min, Tensor max)"
    ),
    "fake_quantize_dynamic_mask": (
        "(Tensor x, Tensor? clip, int qmin, int qmax, bool symmetric, int? axis=None, int[]? block_size=None, "
        "int? zero_point=None) -> (Tensor y, Tensor min, Tensor max, Tensor mask)"
    ),
    "fake_quantize_mask_backward": "(Tensor grad_y, Tensor mask, int[]? order=None, int[]? block_size=None) -> Tensor",
    "fake_quantize_many": (
        "(Tensor[] x, Tensor[] scale, Tensor[] zero_point, int qmin, int qmax, int[]? axis=None, int[]? "
        "block_size=None, float[]? grad_scale=None, bool trained=False) -> Tensor[]"
    ),
    "fake_quantize_many_mask": (
        "(Tensor[] x, Tensor[] scale, Tensor[] zero_point, int qmin, int qmax, int[]? axis=None, int[]? "
        "block_size=None, bool trained=False) -> (Tensor[] y, Tensor[] mask)"
    ),
    "fake_quantize_many_backward": (
        "(Tensor[] grad_y, Tensor[] x, Tensor[] scale, Tensor[] zero_point, int qmin, int qmax, int[]? "
        "axis=None, int[]? block_size=None, float[]? grad_scale=None, bool trained=False) -> (Tensor[] grad_x, "
        "Tensor[] grad_scale, Tensor[] grad_zero_point)"
    ),
    "fake_quantize_range_many": (
        "(Tensor[] x, Tensor[] min, Tensor[] max, int qmin, int qmax, bool symmetric, int? zero_point=None, "
        "int[]? axis=None, int[]? block_size=None) -> Tensor[]"
    ),
    "fake_quantize_range_many_mask": (
        "(Tensor[] x, Tensor[] min, Tensor[] max, int qmin, int qmax, bool symmetric, int? zero_point=None, "
        "int[]? axis=None, int[]? block_size=None) -> (Tensor[] y, Tensor[] mask)"
    ),
    "fake_quantize_range_many_backward": (
        "(Tensor[] grad_y, Tensor[] x, Tensor[] min, Tensor[] max, int qmin, int qmax, bool symmetric, int? "
        "zero_point=None, int[]? axis=None, int[]? block_size=None) -> (Tensor[] grad_x, Tensor[] grad_min, "
        "Tensor[] grad_max)"
    ),
    "fake_quantize_dynamic_many": (
        "(Tensor[] x, Tensor[] clip, int qmin, int qmax, bool symmetric, int[]? axis=None, int[]? "
        "block_size=None, int? zero_point=None) -> (Tensor[] y, Tensor[] min, Tensor[] max)"
    ),
    "fake_quantize_dynamic_many_mask": (
        "(Tensor[] x, Tensor[] clip, int qmin, int qmax, bool symmetric, int[]? axis=None, int[]? "
        "block_size=None, int? zero_point=None) -> (Tensor[] y, Tensor[] min, Tensor[] max, Tensor[] mask)"
    ),
    "fake_quantize_mask_many_backward": (
        "(Tensor[] grad_y, Tensor[] mask, int[]? order=None, int[]? block_size=None) -> Tensor[]"
    ),
    "float_cast": (
        "(Tensor x, Tensor scale, int mantissa_bits, int min_exponent, float max, int? axis=None, int[]? "
        "block_size=None) -> Tensor"
    ),
    "float_cast_mask": (
        "(Tensor x, Tensor scale, int mantissa_bits, int min_exponent, float max, int? axis=None, int[]? "
        "block_size=None) -> (Tensor y, Tensor mask)"
    ),
    "block_cast": (
        "(Tensor x, int mantissa_bits, int min_exponent, float max, int axis=-1, int block_size=32, Tensor? "
        "tensor_scale=None) -> Tensor"
    ),
    "block_cast_mask": (
        "(Tensor x, int mantissa_bits, int min_exponent, float max, int axis=-1, int block_size=32, Tensor? "
        "tensor_scale=None) -> (Tensor y, Tensor mask)"
    ),
    "pack_mask": "(Tensor inside) -> Tensor",
    "unpack_mask": "(Tensor mask, int[] size) -> Tensor",
    "quantize": (
        "(Tensor x, Tensor scale, Tensor? zero_point, int qmin, int qmax, ScalarType? dtype=None, int? "
        "axis=None, int[]? block_size=None, bool packed=False) -> Tensor"
    ),
    "quantize_backward": (
        "(Tensor grad_q, Tensor x, Tensor scale, Tensor? zero_point, int qmin, int qmax, int? axis=None, "
        "int[]? block_size=None) -> (Tensor grad_x, Tensor grad_scale, Tensor grad_zero_point)"
    ),
    "dequantize": (
        "(Tensor q, Tensor scale, Tensor? zero_point, ScalarType? dtype=None, int? axis=None, int[]? "
        "block_size=None, bool packed=False) -> Tensor"
    ),
    "dequantize_backward": (
        "(Tensor grad_x, Tensor q, Tensor scale, Tensor? zero_point, int? axis=None, int[]? block_size=None, bool "
        "packed=False) -> (Tensor grad_q, Tensor grad_scale, Tensor grad_zero_point)"
    ),
    "observe_min_max": "(Tensor x, int? axis=None, int[]? block_size=None) -> (Tensor min, Tensor max, Tensor ignored)",
    "observe_min_max_update_": (
        "(Tensor x, Tensor(a!) min, Tensor(b!) max, Tensor(c!) ignored, float? momentum=None, int? axis=None, "
        "int[]? block_size=None) -> ()"
    ),
    "observe_moments_update_": (
        "(Tensor x, Tensor(a!) min, Tensor(b!) max, Tensor(c!) ignored, Tensor(d!) moments, int? axis=None, int[]? "
        "block_size=None) -> ()"
    ),
    "observe_histogram_update_": (
        "(Tensor x, Tensor(a!) min, Tensor(b!) max, Tensor(c!) ignored, Tensor(d!) counts, int? axis=None, int[]? "
        "block_size=None) -> ()"
    ),
    "observe_histogram_merge_": (
        "(Tensor(a!) min, Tensor(b!) max, Tensor(c!) ignored, Tensor(d!) counts, Tensor other_min, Tensor other_max, "
        "Tensor other_ignored, Tensor other_counts) -> ()"
    ),
    "encode_percentile": (
        "(Tensor lo, Tensor hi, Tensor counts, float percentile, int qmin, int qmax, bool symmetric, int? "
        "zero_point=None) -> (Tensor min, Tensor max)"
    ),
    "encode_sqnr": (
        "(Tensor lo, Tensor hi, Tensor counts, int qmin, int qmax, bool symmetric, int? zero_point=None, float "
        "gamma=3., int asymmetric_deltas=17, int offsets=21, int symmetric_deltas=101) -> (Tensor min, Tensor max)"
    ),
    "encode_mse": (
        "(Tensor lo, Tensor hi, Tensor counts, int qmin, int qmax, bool symmetric, int? zero_point=None) -> "
        "(Tensor min, Tensor max)"
    ),
    "encode_entropy": (
        "(Tensor lo, Tensor hi, Tensor counts, int qmin, int qmax, bool symmetric, int? zero_point=None) -> "
        "(Tensor min, Tensor max)"
    ),
    "encode_min_max": (
        "(Tensor lo, Tensor hi, int qmin, int qmax, bool symmetric, int? zero_point=None) -> (Tensor min, Tensor max)"
    ),
    "encode_affine": (
        "(Tensor min, Tensor max, int qmin, int qmax, bool symmetric, int? zero_point=None) -> (Tensor scale, "
        "Tensor zero_point)"
    ),
    "encode_trained": "(Tensor scale, Tensor zero_point, int qmin, int qmax) -> (Tensor scale, Tensor zero_point)",
    "cpu_dispatch": "() -> str",
}
OPERATORS = [name for name in SCHEMAS if name != "cpu_dispatch"]  # those that take tensors


def has_kernel(name: str, key: str) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(f"detent::{name}", key)


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_frozen(name):
    assert str(torch._C._get_schema(f"detent::{name}", "")) == f"detent::{name}{SCHEMAS[name]}"


def test_every_operator_stands_in_this_file():
    registered = {
        name.removeprefix("detent::").split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("detent::")
    }
    assert registered == set(SCHEMAS)


@pytest.mark.parametrize("key", ["CPU", "Meta"])
@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_has_a_kernel(name, key):
    assert has_kernel(name, key), f"detent::{name} has no kernel for {key}"


@pytest.mark.both_autograd_paths
@pytest.mark.parametrize("name", [name for name in OPERATORS if not name.endswith("_")])
def test_every_operator_has_an_autograd_kernel(name):
    """Without one a gradient would be cut silently; what has none raises (those that end in _ work in place)."""
    assert has_kernel(name, "Autograd"), f"detent::{name} has no kernel for Autograd"


@pytest.mark.parametrize("name", OPERATORS)
def test_every_operator_has_a_cuda_kernel(name):
    if detent.build_info()["cuda"] != "loaded":
        pytest.skip(f"CUDA kernels: {detent.build_info()['cuda']}")
    assert has_kernel(name, "CUDA"), f"detent::{name} has no kernel for CUDA"


def test_build_info_says_what_is_loaded():
    info = detent.build_info()
    assert info["torch"] == torch.__version__ and info["cpu_dispatch"] == torch.ops.detent.cpu_dispatch()
    assert all(isinstance(value, str) and value for value in info.values())


# --- what the compiled libraries ask of others ------------------------------------------------------------------------

# By the stable ABI: aoti_torch_* and torch_*. libc, libm and libgcc are plain C; libstdc++ is std:: and its own ABI.
STABLE = ("aoti_torch_", "torch_")
STANDARD_CXX = (
    "_ZNSt",
    "_ZNKSt",
    "_ZSt",
    "_ZTISt",
    "_ZTVSt",
    "_ZTVN10__cxxabiv1",
    "_ZNSo",
    "_ZNSi",
    "_ZNOSt",
    "_ZNKRSt",
    "_ZNKSo",
    "_ZTT",
    "_Zn",
    "_Zd",
)
RUNTIMES = ("GLIBC", "GCC", "CXXABI")


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def library(name: str) -> Path:
    path = LIBRARIES / f"{name}.so"
    if not path.exists():
        pytest.skip(f"{path.name} was not built")
    return path


def undefined_symbols(path: Path) -> list[str]:
    lines = subprocess.run(
        [tool("nm"), "-D", "--undefined-only", str(path)], capture_output=True, text=True, check=True
    ).stdout
    return [line.split()[-1] for line in lines.splitlines() if line.strip()]


def allowed(symbol: str) -> bool:
    name, _, version = symbol.partition("@")
    if name.startswith("_Z"):
        of_torch = any(part in name for part in ("N2at", "N3c10", "N5torch", "2at6", "3c10"))
        return name.startswith(STANDARD_CXX) and not of_torch
    weak = ("_ITM_", "__gmon_start__", "__cxa_", "__gxx_", "_Unwind_")
    return name.startswith(STABLE + weak) or version.lstrip("@").startswith(RUNTIMES)


@pytest.mark.parametrize("name", ["libdetent", "libdetent_cuda"])
def test_undefined_symbols_are_the_stable_abi_and_the_language_runtimes(name):
    symbols = undefined_symbols(library(name))
    assert any(symbol.startswith("aoti_torch_") for symbol in symbols)
    foreign = [symbol for symbol in symbols if not allowed(symbol)]
    assert not foreign, f"{name}: {foreign}"


def test_the_audit_knows_torchs_own_symbols():
    for symbol in (
        "_ZN2at5emptyE",
        "_ZNK3c1010TensorImpl4sizeEl",
        "_ZN5torch8autogradE",
        "_ZNSt6vectorIN2at6TensorESaIS1_EED1Ev",
        "PyList_New",
        "omp_get_num_threads",
    ):
        assert not allowed(symbol), symbol


@pytest.mark.parametrize("name", ["libdetent", "libdetent_cuda", "libdetent_autograd"])
def test_no_library_needs_openmp_or_python(name):
    lines = subprocess.run(
        [tool("readelf"), "-d", str(library(name))], capture_output=True, text=True, check=True
    ).stdout
    needed = [line.split("[")[1].rstrip("]") for line in lines.splitlines() if "(NEEDED)" in line]
    assert needed, lines
    unwanted = [
        entry
        for entry in needed
        if entry.startswith(("libgomp", "libomp", "libiomp", "libpython", "libtorch_python", "libcudart"))
    ]
    assert not unwanted, f"{name} needs {needed}"


@pytest.mark.parametrize("name", ["libdetent", "libdetent_cuda"])
def test_the_c_core_is_hidden(name):
    """Two copies of the C functions in one process must never mix."""
    lines = subprocess.run(
        [tool("nm"), "-D", "--defined-only", str(library(name))], capture_output=True, text=True, check=True
    ).stdout
    exported = [line.split()[-1] for line in lines.splitlines() if line.split()[-1].startswith("detent_")]
    assert not exported, exported
