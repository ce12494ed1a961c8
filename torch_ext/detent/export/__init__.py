"""Export of a simulation model: ONNX with and without Q/DQ, encodings, state_dict, TorchScript."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..quantsim import QuantizationSimModel

__all__ = ["export_sim", "read_state_dict"]


def export_sim(
    sim: QuantizationSimModel,
    path: str | PathLike[str],
    filename_prefix: str,
    dummy_input: Any,
    *,
    export_to_torchscript: bool = False,
    onnx_export_args: Any = None,
    filename_prefix_encodings: str | None = None,
    encoding_version: str = "1.0.0",
) -> None:
    """Write a calibrated simulation model for a runtime.

    ==================================  ===============================================================================
    ``prefix_qdq.onnx``                 QuantizeLinear/DequantizeLinear where the simulation rounds, Casts for float16
                                        and bfloat16; parameters as their codes (int8, int4 for 4 bits, float8, float16;
                                        rounded floats where no type fits). What ONNX has no type for, such as 20 bits
                                        or ``FloatFormat(3, 4)``, is written as a formula of elementary operators
    ``prefix.onnx``                     the same graph without them, parameters in float
    ``prefix.encodings``                keyed by the tensor names of both ONNX files
    ``prefix_torch.encodings``          keyed by module; ``sim.load_encodings`` reads both
    ``prefix.safetensors``              ``sim.model.state_dict()``; :func:`read_state_dict` reads it
    ``prefix.torchscript.pth``          with ``export_to_torchscript``: the traced simulation
    ==================================  ===============================================================================

    Tensors with a quantizer are called ``<module path>.input_<i>`` and ``.output_<i>`` in both ONNX files, parameters
    as in torch; inputs and outputs of the model keep their own names. Weights of a gigabyte and more go to
    ``<file>.data``.

    ONNX Runtime computes the same numbers; three of its options matter. With graph optimizations it runs 8-bit layers
    in integer arithmetic, and on an x86 CPU without VNNI these sums saturate unless the session option
    ``session.x64quantprecision`` is ``"1"``. Weights that have no Q/DQ, beside activations that do, it rounds to 8 bits
    of its own accord unless ``session.disable_quant_qdq`` is ``"1"``. ``ORT_DISABLE_ALL`` keeps the float arithmetic of
    the simulation.

    ``sim.model`` is not touched. The files appear together at the end, or none does.

    Args:
        sim: Calibrated.
        path: Folder, made if it is not there.
        filename_prefix: Start of every file's name.
        dummy_input: A tensor, a tuple or list of arguments, or a mapping of keyword arguments.
        export_to_torchscript: Also trace and save the model with its quantizers inside.
        onnx_export_args: A mapping, or an object whose ``kwargs`` is one: ``opset_version`` (``None``: 18, or 19 where
            float8, 21 where 4-bit or 16-bit integers or blocks need it), ``input_names``, ``output_names``,
            ``dynamic_shapes`` and what else ``torch.onnx.export`` takes.
        filename_prefix_encodings: Start of the encodings files' names; ``None``: ``filename_prefix``.
        encoding_version: Of both encodings files: ``"0.6.1"``, ``"1.0.0"`` or ``"2.0.0"``.
    Raises:
        RuntimeError: A quantizer has no range yet.
        ImportError: onnx, onnxscript or safetensors is missing.
        ValueError: Something the chosen opset or encodings version cannot say.
    Example:
        sim.export("out", "model", torch.randn(1, 3, 224, 224), onnx_export_args={"opset_version": 21})
    """
    onnx_args = _onnx_args(onnx_export_args)
    if Path(filename_prefix).name != filename_prefix:
        raise ValueError(
            f"export: filename_prefix is {filename_prefix!r}, expected a file name. Put folders into path."
        )

    from ..encodings import files as encodings_files
    from ..encodings import text
    from . import files, freeze, onnx, torchscript

    encodings_files.check_version(encoding_version)

    freeze.check_calibrated(sim)
    args, kwargs = freeze.call_arguments(dummy_input)
    prefix = filename_prefix if filename_prefix_encodings is None else filename_prefix_encodings
    with files.all_or_nothing(path) as folder:
        frozen, quantizations = freeze.freeze(sim, onnx.FIRST_NUMBER)
        graph = onnx.to_qdq(frozen, args, kwargs, quantizations, **onnx_args)
        onnx.save(graph.model, folder / f"{filename_prefix}_qdq.onnx")
        graph.strip()
        onnx.save(graph.model, folder / f"{filename_prefix}.onnx")
        named = tuple({name: q.encoding for name, q in part.items()} for part in (graph.activations, graph.parameters))
        for keyed_by, suffix, tensors in (("onnx", "", named), ("torch", "_torch", freeze.encodings(sim))):
            content = encodings_files.to_dict(
                encoding_version, *tensors, keyed_by=keyed_by, quantizer_args=sim.quantizer_args()
            )
            text.write(folder / f"{prefix}{suffix}.encodings", content)
        files.write_state_dict(sim._network, folder / f"{filename_prefix}.safetensors")
        if export_to_torchscript:
            model = freeze.cpu_copy(sim._network)
            torchscript.trace(model, args, kwargs, folder / f"{filename_prefix}.torchscript.pth")


def _onnx_args(given: Any) -> dict[str, Any]:
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        given = getattr(given, "kwargs", None)
    if not isinstance(given, Mapping):
        raise ValueError("export: onnx_export_args is no mapping, expected one such as {'opset_version': 21}.")
    return {key: value for key, value in given.items() if value is not None}


def __getattr__(name: str) -> Any:
    if name == "read_state_dict":
        from .files import read_state_dict

        return read_state_dict
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
