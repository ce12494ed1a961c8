"""Placeholders of an ONNX graph become QuantizeLinear and DequantizeLinear, and go away again.

The exporter leaves one ``detent::FakeQuantize`` node per quantizer call (see :mod:`detent.export.onnx`), which names
its quantizer by a number. :class:`QdqRewriter` turns each into standard operators: an initializer of codes and
DequantizeLinear for a parameter, QuantizeLinear and DequantizeLinear for an activation, Casts for 16-bit floats.
:meth:`QdqRewriter.strip` then removes them from the same graph, so that both files share every name.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from .float_nodes import FloatNodes
from .quantization import BLOCKS_OPSET, FloatQuantization, IntegerQuantization, Quantization, is_cast

__all__ = ["DOMAIN", "PLACEHOLDER", "QdqRewriter"]

DOMAIN = "detent"
PLACEHOLDER = "FakeQuantize"


@dataclass
class _Pair:
    """What was put in for one placeholder, and how to take it out."""

    nodes: list[ir.Node]
    source: ir.Value
    result: ir.Value
    float_initializer: ir.Value | None = None


class QdqRewriter(FloatNodes):
    """Rewrites the placeholders of one model in place.

    Args:
        model: A model as the exporter left it; its opset decides which integer types there are.
        quantizations: What each placeholder's number means.
    Raises:
        ValueError: A grid or block that the model's opset has no operator for.
    """

    def __init__(self, model: ir.Model, quantizations: dict[int, Quantization]) -> None:
        self.model = model
        self.opset = model.opset_imports[""]
        self.quantizations = quantizations
        #: Tensor name in the graph -> its quantization: the keys of the ``.encodings`` file.
        self.parameters: dict[str, Quantization] = {}
        self.activations: dict[str, Quantization] = {}
        self._pairs: list[_Pair] = []
        self._claimed: set[ir.Value] = set()
        self._names: set[str] = set()

    def insert(self) -> None:
        """Put Q/DQ in the place of every placeholder."""
        placeholders = []
        for node in self.model.graph.all_nodes():
            values = [*node.outputs, *(v for v in node.inputs if v is not None)]
            self._names.update(v.name for v in values if v.name)
            if node.domain == DOMAIN and node.op_type == PLACEHOLDER:
                placeholders.append(node)
        for node in placeholders:
            q = self.quantizations[node.attributes["number"].value]
            if node.inputs[0].is_initializer():
                self._parameter(node, q)
            else:
                self._activation(node, q)
        self.model.opset_imports.pop(DOMAIN, None)

    def strip(self) -> None:
        """Take every Q/DQ out again: the plain model, with the names of the other."""
        for pair in reversed(self._pairs):
            graph = pair.nodes[-1].graph
            if pair.float_initializer is not None:
                integer = pair.source
                pair.source = pair.float_initializer
                if integer.name == pair.float_initializer.name:
                    graph.initializers.pop(integer.name)
                graph.initializers[pair.float_initializer.name] = pair.float_initializer
            self._short_circuit(pair)
        used = {v for node in self.model.graph.all_nodes() for v in node.inputs}
        used.update(self.model.graph.outputs)
        for name in [name for name, value in self.model.graph.initializers.items() if value not in used]:
            self.model.graph.initializers.pop(name)

    def _short_circuit(self, pair: _Pair) -> None:
        graph = pair.nodes[-1].graph
        if pair.result.is_graph_output():
            # The file's output keeps its name, the tensor in front of it its own.
            name = pair.result.name
            identity = _node("Identity", [pair.source], like=pair.result)
            graph.insert_before(pair.nodes[0], identity)
            ir.convenience.replace_all_uses_with(pair.result, identity.outputs[0], replace_graph_outputs=True)
            identity.outputs[0].name = name
        else:
            ir.convenience.replace_all_uses_with(pair.result, pair.source)
        graph.remove(pair.nodes, safe=True)

    # --- parameters -------------------------------------------------------------------------------------------------

    def _parameter(self, node: ir.Node, q: Quantization) -> None:
        graph, initializer, result = node.graph, node.inputs[0], node.outputs[0]
        weight = torch.from_numpy(np.array(initializer.const_value.numpy()))
        storage = q.storage(self.opset)
        alone = len(initializer.uses()) == 1 and not initializer.is_graph_output()
        name = initializer.name if alone else self._fresh(f"{initializer.name}_q")
        self.parameters[initializer.name] = q
        if storage is None or weight.dtype == torch.float64:
            # No type for these codes: the values themselves, rounded.
            stored = ir.Tensor(q.fake_quantize(weight).numpy(), name=name)
            nodes = [_node("Identity", [self._initializer(graph, name, stored, initializer)], like=result)]
        else:
            codes = _tensor(q.codes(weight), storage, name)
            source = self._initializer(graph, name, codes, initializer)
            if is_cast(storage):
                nodes = [_node("Cast", [source], {"to": result.dtype or ir.DataType.FLOAT}, like=result)]
                nodes[0].outputs[0].name = self._fresh(f"{initializer.name}_dq")
            else:
                nodes = self._dequantize(graph, source, initializer.name, q, storage, weight.shape, result)
        for new in nodes:
            graph.insert_before(node, new)
        self._replace(node, nodes, nodes[0].inputs[0], float_initializer=initializer)

    def _initializer(
        self, graph: ir.Graph, name: str, tensor: ir.TensorProtocol, old: ir.Value | None = None
    ) -> ir.Value:
        if old is not None and old.name == name:
            graph.initializers.pop(name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.initializers[name] = value
        self._names.add(name)
        return value

    # --- activations ------------------------------------------------------------------------------------------------

    def _activation(self, node: ir.Node, q: Quantization) -> None:
        graph, x, result = node.graph, node.inputs[0], node.outputs[0]
        name = self._fresh(q.name)
        if x.is_graph_input() or x.is_graph_output() or x in self._claimed:
            identity = _node("Identity", [x], like=x)  # x has a name already
            graph.insert_before(node, identity)
            x = identity.outputs[0]
        x.name = name
        self._claimed.add(x)
        self.activations[name] = q
        # ONNX Runtime (1.32) drops a Relu or Clip in front of a 4-bit QuantizeLinear even where its grid goes below 0.
        below_zero = isinstance(q, IntegerQuantization) and bool((q.zero_point != q.qmin).any())
        storage = q.storage(self.opset, four_bits=not (below_zero and _clamped_before(x)))
        if storage is None or x.dtype == ir.DataType.DOUBLE:
            formula = self._float_formula if isinstance(q, FloatQuantization) else self._integer_formula
            nodes = formula(graph, x, name, q, result)
        elif is_cast(storage):
            nodes = self._casts(graph, x, name, q, storage, result)
        else:
            nodes = self._quantize_dequantize(graph, x, name, q, storage, result)
        for new in nodes:
            graph.insert_before(node, new)
        self._replace(node, nodes, x)

    def _quantize_dequantize(self, graph, x, name, q, dtype, result) -> list[ir.Node]:
        nodes = []
        narrow = q.is_narrower(dtype)
        shape = None if x.shape is None else tuple(x.shape)
        y = x
        if x.dtype not in (ir.DataType.FLOAT, None):
            nodes.append(_node("Cast", [y], {"to": ir.DataType.FLOAT}, like=x, dtype=ir.DataType.FLOAT))
            y = nodes[-1].outputs[0]
        if narrow and q.scale.numel() == 1:
            # Clipping to the ends of the grid in real units gives the exact codes: end / scale rounds to the end.
            ends = [self._initializer(graph, self._fresh(f"{name}_{end}"), ir.Tensor(value)) for end, value in _ends(q)]
            nodes.append(_node("Clip", [y, *ends], like=y))
            y = nodes[-1].outputs[0]
        if isinstance(q, FloatQuantization) and _clamped_before(x):
            # ONNX Runtime (1.32) drops a Relu or Clip in front of a float8 QuantizeLinear as if 0 were its lowest code.
            lowest = ir.Tensor(np.array(np.finfo(np.float32).min))
            nodes.append(_node("Max", [y, self._initializer(graph, self._fresh(f"{name}_lowest"), lowest)], like=y))
            y = nodes[-1].outputs[0]
        parameters, attributes = self._grid(graph, name, q, dtype, shape)
        nodes.append(_node("QuantizeLinear", [y, *parameters], attributes, like=y, dtype=dtype))
        y = nodes[-1].outputs[0]
        y.name = self._fresh(f"{name}_q")
        if narrow and q.scale.numel() != 1:
            codes = [
                self._initializer(graph, self._fresh(f"{name}_{end}"), _tensor(torch.tensor(code), dtype))
                for end, code in (("qmin", q.qmin), ("qmax", q.qmax))
            ]
            nodes.append(_node("Clip", [y, *codes], like=y))
            y = nodes[-1].outputs[0]
        nodes.append(_node("DequantizeLinear", [y, *parameters], attributes, like=result, dtype=ir.DataType.FLOAT))
        if x.dtype not in (ir.DataType.FLOAT, None):
            nodes.append(_node("Cast", [nodes[-1].outputs[0]], {"to": x.dtype}, like=result))
        nodes[-1].outputs[0].name = self._fresh(f"{name}_dq")
        return nodes

    def _dequantize(self, graph, source, name, q, dtype, shape, result) -> list[ir.Node]:
        parameters, attributes = self._grid(graph, name, q, dtype, tuple(shape))
        nodes = [_node("DequantizeLinear", [source, *parameters], attributes, like=result, dtype=ir.DataType.FLOAT)]
        if result.dtype not in (ir.DataType.FLOAT, None):
            nodes.append(_node("Cast", [nodes[-1].outputs[0]], {"to": result.dtype}, like=result))
        nodes[-1].outputs[0].name = self._fresh(f"{name}_dq")
        return nodes

    def _grid(self, graph, name, q, dtype, shape) -> tuple[list[ir.Value], dict]:
        """Scale and zero point initializers, and the attributes that lay them over the tensor."""
        scale, zero_point = q.scale.float(), q.zero_point.float()
        attributes: dict = {}
        if q.layout.block_size is not None:
            scale, zero_point, attributes = self._blocks(name, q, shape)
        elif q.layout.axis is not None:
            # Counted from the left where the rank is known: some runtimes do not take a negative axis.
            attributes = {"axis": q.layout.axis + (0 if shape is None else len(shape))}
            scale, zero_point = scale.reshape(-1), zero_point.reshape(-1)
        else:
            scale, zero_point = scale.reshape(()), zero_point.reshape(())
        values = [
            self._initializer(graph, self._fresh(f"{name}_scale"), ir.Tensor(scale.numpy())),
            self._initializer(graph, self._fresh(f"{name}_zero_point"), _tensor(zero_point, dtype)),
        ]
        return values, attributes

    def _blocks(self, name, q, shape) -> tuple[torch.Tensor, torch.Tensor, dict]:
        """ONNX knows blocks along one axis; along the others the scales are repeated."""
        if self.opset < BLOCKS_OPSET:
            raise ValueError(
                f"export: {name} is quantized in blocks, which opset {self.opset} cannot say. "
                f"Pass onnx_export_args={{'opset_version': {BLOCKS_OPSET}}} or later, or none."
            )
        if shape is None or not all(isinstance(n, int) for n in shape):
            raise ValueError(
                f"export: {name} is quantized in blocks, but its shape {shape} is dynamic. Export it static."
            )
        (scale, zero_point), (_, given) = q.on(torch.empty(shape, device="meta"))
        scale, zero_point = scale.float(), zero_point.float()
        size = [n if block == -1 else block for n, block in zip(shape, given)]
        axis = max(range(len(shape)), key=lambda d: (1 < size[d] < shape[d], size[d] > 1, d))
        for d, block in enumerate(size):
            if d != axis and block > 1:
                scale, zero_point = scale.repeat_interleave(block, d), zero_point.repeat_interleave(block, d)
        return scale, zero_point, {"axis": axis, "block_size": size[axis]}

    def _integer_formula(self, graph, x, name, q, result) -> list[ir.Node]:
        """Grids that no integer type of QuantizeLinear holds: the formula itself, in float64."""
        axis = q.layout.axis
        if q.layout.block_size is not None or (axis is not None and x.shape is None):
            raise ValueError(
                f"export: {name}: grid {q.qmin} .. {q.qmax} in blocks has no ONNX form. Use at most 16 bits."
            )
        shape = () if axis is None else (-1,) + (1,) * (-axis - 1)
        constants = {
            "scale": q.scale.double().reshape(shape),
            "zero_point": q.zero_point.double().reshape(shape),
            "qmin": torch.tensor(float(q.qmin), dtype=torch.float64),
            "qmax": torch.tensor(float(q.qmax), dtype=torch.float64),
        }
        c = {
            k: self._initializer(graph, self._fresh(f"{name}_{k}"), ir.Tensor(v.numpy())) for k, v in constants.items()
        }
        steps: list[tuple[str, list[ir.Value]]] = [
            ("Div", [c["scale"]]),
            ("Round", []),
            ("Add", [c["zero_point"]]),
            ("Clip", [c["qmin"], c["qmax"]]),
            ("Sub", [c["zero_point"]]),
            ("Mul", [c["scale"]]),
        ]
        double = ir.DataType.DOUBLE
        nodes = [_node("Cast", [x], {"to": double}, like=x, dtype=double)]
        for op, extra in steps:
            nodes.append(_node(op, [nodes[-1].outputs[0], *extra], like=x, dtype=double))
        nodes.append(_node("Cast", [nodes[-1].outputs[0]], {"to": x.dtype}, like=result))
        nodes[-1].outputs[0].name = self._fresh(f"{name}_dq")
        return nodes

    # --- common -----------------------------------------------------------------------------------------------------

    def _replace(self, node: ir.Node, nodes: list[ir.Node], source: ir.Value, float_initializer=None) -> None:
        """Hand the placeholder's readers to the last of ``nodes`` and remember the pair."""
        graph, old, new = node.graph, node.outputs[0], nodes[-1].outputs[0]
        outputs = [i for i, value in enumerate(graph.outputs) if value is old]
        name = old.name
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        graph.remove(node, safe=True)
        if outputs:
            new.name = name
        self._pairs.append(_Pair(nodes, source, new, float_initializer))

    def _fresh(self, name: str) -> str:
        """``name``, or ``name_1``, ... where a quantizer stands on several tensors."""
        candidate, number = name, 0
        while candidate in self._names:
            number += 1
            candidate = f"{name}_{number}"
        self._names.add(candidate)
        return candidate


def _ends(q: Quantization) -> list[tuple[str, np.ndarray]]:
    scale, zero_point = q.scale.float().reshape(()), q.zero_point.float().reshape(())
    return [("min", ((q.qmin - zero_point) * scale).numpy()), ("max", ((q.qmax - zero_point) * scale).numpy())]


def _clamped_before(x: ir.Value) -> bool:
    """Whether a Relu or Clip stands in front, Identity aside."""
    node = x.producer()
    while node is not None and node.op_type == "Identity":
        node = node.inputs[0].producer()
    return node is not None and node.op_type in ("Relu", "Clip")


def _tensor(codes: torch.Tensor, dtype: ir.DataType, name: str | None = None) -> ir.TensorProtocol:
    """Codes as an ONNX tensor; 4-bit ones are packed when they are written."""
    return ir.Tensor(codes.numpy().astype(dtype.numpy()), dtype=dtype, name=name)


def _node(
    op_type: str, inputs: list[ir.Value], attributes: dict | None = None, *, like: ir.Value, dtype=None
) -> ir.Node:
    node = ir.node(op_type, inputs, attributes or {})
    node.outputs[0].shape = like.shape
    node.outputs[0].dtype = dtype if dtype is not None else like.dtype
    return node
