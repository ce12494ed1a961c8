"""Float formats as ONNX operators: casts where ONNX has the type, else the formula."""

from __future__ import annotations

import math

import onnx_ir as ir
import torch

from .quantization import FloatQuantization

__all__ = ["FloatNodes"]


class FloatNodes:
    """Part of :class:`QdqRewriter`."""

    def _casts(self, graph, x: ir.Value, name: str, q: FloatQuantization, dtype: ir.DataType, result) -> list[ir.Node]:
        """Numbers beyond the largest would become infinite, so they are clipped first."""
        chain = _Chain(self, graph, name, x, ir.DataType.FLOAT)
        chain.add("Clip", -q.format.max, q.format.max)
        chain.cast(dtype)
        return chain.finish(result)

    def _float_formula(self, graph, x: ir.Value, name: str, q: FloatQuantization, result) -> list[ir.Node]:
        """The formula of detent/float_cast.h, in its arithmetic.

        The power of two below a magnitude is found through a logarithm, which may miss by one, and then corrected.
        """
        axis, format = q.layout.axis, q.format
        if q.layout.block_size is not None or (axis is not None and x.shape is None):
            raise ValueError(
                f"export: {name}: {format} in blocks has no ONNX form for activations. Use one scale, or a float8 type."
            )
        dtype = ir.DataType.DOUBLE if x.dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
        chain = _Chain(self, graph, name, x, dtype)
        if q.scaled:
            scale = chain.constant(q.scale.reshape(() if axis is None else (-1,) + (1,) * (-axis - 1)))
            chain.add("Div", scale)
        value = chain.add("Clip", -format.max, format.max)
        size = chain.add("Abs")
        chain.add("Log")
        chain.add("Mul", 1 / math.log(2))
        chain.add("Floor")
        exponent = chain.add("Clip", float(format.min_exponent), 127.0)
        power = chain.node("Pow", 2.0, exponent)
        twice = chain.add("Mul", 2.0)
        power = chain.node("Where", chain.node("LessOrEqual", twice, size), twice, power)
        half = chain.add("Mul", 0.5)
        power = chain.node("Where", chain.node("Greater", power, size), half, power)
        chain.add("Max", 2.0**format.min_exponent)
        step = chain.add("Mul", 2.0**-format.mantissa_bits)
        chain.node("Div", value, step)
        chain.add("Round")
        chain.add("Mul", step)
        if q.scaled:
            chain.add("Mul", scale)
        return chain.finish(result)


class _Chain:
    """Nodes one after the other, from ``x`` cast to ``dtype`` to what ``result`` was."""

    def __init__(self, rewriter, graph, name: str, x: ir.Value, dtype: ir.DataType):
        self._rewriter, self._graph, self._name, self._x, self._dtype = rewriter, graph, name, x, dtype
        self._constants: dict[object, ir.Value] = {}
        self.nodes: list[ir.Node] = []
        self.last = x
        if x.dtype is not None:
            self.cast(dtype)

    def constant(self, value: float | torch.Tensor) -> ir.Value:
        key = value if isinstance(value, float) else id(value)
        if key not in self._constants:
            of = torch.float64 if self._dtype == ir.DataType.DOUBLE else torch.float32
            stored = ir.Tensor(torch.as_tensor(value, dtype=of).numpy())
            name = self._rewriter._fresh(f"{self._name}_constant")
            self._constants[key] = self._rewriter._initializer(self._graph, name, stored)
        return self._constants[key]

    def node(self, op: str, *inputs: ir.Value | float) -> ir.Value:
        """A node of these inputs; its output comes next."""
        values = [self.constant(value) if isinstance(value, float) else value for value in inputs]
        made = ir.node(op, values)
        made.outputs[0].shape = self._x.shape
        made.outputs[0].dtype = ir.DataType.BOOL if op in ("LessOrEqual", "Greater") else self._dtype
        self.nodes.append(made)
        self.last = made.outputs[0]
        return self.last

    def add(self, op: str, *inputs: ir.Value | float) -> ir.Value:
        """A node whose first input is what came last."""
        return self.node(op, self.last, *inputs)

    def cast(self, dtype: ir.DataType) -> None:
        if self.last.dtype == dtype:
            return
        made = ir.node("Cast", [self.last], {"to": dtype})
        made.outputs[0].shape, made.outputs[0].dtype = self._x.shape, dtype
        self.nodes.append(made)
        self.last = made.outputs[0]

    def finish(self, result: ir.Value) -> list[ir.Node]:
        self.cast(self._dtype if self._x.dtype is None else self._x.dtype)
        self.last.shape = result.shape
        self.last.name = self._rewriter._fresh(f"{self._name}_dq")
        return self.nodes
