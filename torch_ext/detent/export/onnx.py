"""From a frozen simulation model to two ONNX models that share every name.

``torch.onnx.export`` turns each call of ``detent::fake_quantize`` into one ``detent::FakeQuantize`` placeholder,
numbered through the operator's ``grad_scale`` argument, which the forward pass does not read. :mod:`detent.export.qdq`
does the rest.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

try:
    import onnx
    import onnx_ir as ir
    import onnxscript
    from onnx_ir.passes import common as passes
    from onnxscript import optimizer, rewriter
except ImportError as error:
    raise ImportError(
        f"export to ONNX needs onnx and onnxscript ({error}). Install them with: pip install onnx onnxscript"
    ) from error

from .qdq import DOMAIN, PLACEHOLDER, QdqRewriter
from .quantization import Quantization, opset_needed

__all__ = ["FIRST_NUMBER", "save", "to_qdq"]

#: Quantizers count from here: 1.0 is the default of ``grad_scale``, which torch.export drops.
FIRST_NUMBER = 2

_EXTERNAL_DATA_BYTES = 2**30  # protobuf ends at 2 GiB
_FLOATS = [f"tensor({name})" for name in ("float", "float16", "bfloat16", "double")]


def _placeholder() -> onnxscript.values.Op:
    schema = onnx.defs.OpSchema(
        PLACEHOLDER,
        DOMAIN,
        1,
        inputs=[onnx.defs.OpSchema.FormalParameter("x", "T")],
        outputs=[onnx.defs.OpSchema.FormalParameter("y", "T")],
        type_constraints=[("T", _FLOATS, "")],
        attributes=[onnx.defs.OpSchema.Attribute("number", onnx.defs.OpSchema.AttrType.INT, required=True)],
    )
    return onnxscript.values.Op(onnxscript.values.Opset(DOMAIN, 1), PLACEHOLDER, schema)


def _translate(x, scale, zero_point=None, qmin=0, qmax=0, axis=None, block_size=None, grad_scale=1.0):
    number = int(grad_scale)
    if number < FIRST_NUMBER:
        raise ValueError("export: fake_quantize was called by a module that is no quantizer of the simulation.")
    return _placeholder()(x, number=number)


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither the exporter's progress nor its notes on packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", DeprecationWarning)
            yield
    finally:
        logger.setLevel(level)


def to_qdq(
    model: nn.Module,
    args: tuple,
    kwargs: Mapping[str, Any] | None,
    quantizations: dict[int, Quantization],
    **onnx_args: Any,
) -> QdqRewriter:
    """Export a model whose quantizers are frozen; the result's ``model`` holds Q/DQ, ``strip()`` takes them out.

    Args:
        model: Calls ``torch.ops.detent.fake_quantize`` with ``grad_scale`` = the key in ``quantizations``.
        args, kwargs: One sample input.
        quantizations: Every quantizer, by number.
        onnx_args: ``opset_version``, ``input_names``, ``output_names``, ``dynamic_shapes``, ``dynamic_axes``: as
            ``torch.onnx.export`` takes them.
    """
    if onnx_args.get("opset_version") is None:
        onnx_args["opset_version"] = opset_needed(quantizations.values())
    reserved = {"f", "dynamo", "verbose", "optimize", "custom_translation_table", "report", "kwargs"} & set(onnx_args)
    if reserved:
        raise ValueError(f"export: onnx_export_args has {sorted(reserved)}, which export sets itself. Leave them out.")
    table = {torch.ops.detent.fake_quantize.default: _translate}
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            model,
            args,
            kwargs=dict(kwargs) if kwargs else None,
            dynamo=True,
            verbose=False,
            optimize=False,
            custom_translation_table=table,
            **onnx_args,
        )
        _simplify(program.model)
    rewriter_ = QdqRewriter(program.model, quantizations)
    rewriter_.insert()
    return rewriter_


def _simplify(model: ir.Model) -> None:
    """The exporter's own clean-up, but equal parameters are not merged: each keeps its name."""
    optimizer.inline(model)
    for _ in range(2):
        optimizer.fold_constants(model, onnx_shape_inference=True)
        rewriter.RewritePass(rewriter._DEFAULT_REWRITE_RULES)(model)
        passes.RemoveUnusedNodesPass()(model)
    for clean in (
        passes.RemoveUnusedFunctionsPass(),
        passes.RemoveUnusedOpsetsPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
        # Stack traces name folders of the machine that exported.
        passes.ClearMetadataAndDocStringPass(),
    ):
        clean(model)


def save(model: ir.Model, path: Path) -> None:
    """Write one file, or one file and ``<name>.data`` where the weights reach a gigabyte; check what was written."""
    size = sum(value.const_value.nbytes for value in model.graph.initializers.values())
    external = f"{path.name}.data" if size > _EXTERNAL_DATA_BYTES else None
    ir.save(model, path, external_data=external)
    onnx.checker.check_model(str(path), full_check=True)
