"""A user's own layers as leaves."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from . import forwards
from .table import SLOTS, Slots, add_leaf

__all__ = ["register"]


def register(
    *, inputs: int = 1, outputs: int = 1, params: tuple[str, ...] = (), onnx_op: str | None = None
) -> Callable[[type[nn.Module]], type[nn.Module]]:
    """Decorate a module class so that its instances are quantized as one operator.

    Tensors are quantized on the way in and on the way out, and parameters where torch functions read them; what the
    forward computes in between stays in float, and so do the modules below. Tensors are counted in the order of the
    arguments and of the result, in tuples, lists and dictionaries too; those that are not floats pass. Sims built later
    know the class.

    Args:
        inputs, outputs: How many tensors can be quantized; 0 for none.
        params: Names of the parameters that can be quantized, each with one scale per entry of its first axis; biases
            (``bias...``) are left as they are by default.
        onnx_op: The operator type that configurations and reports call it by; ``None``: the class's name.
    Raises:
        TypeError: What is decorated is no module class.
        ValueError: It is a leaf already, or an argument is out of its range.
    Example:
        >>> @detent.nn.register(inputs=2, params=("gain",))
        ... class Blend(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.gain = torch.nn.Parameter(torch.randn(4))
        ...     def forward(self, x, y):
        ...         return torch.exp(x) * self.gain + y
        >>> sample = (torch.randn(2, 4), torch.randn(2, 4))
        >>> sim = detent.QuantizationSimModel(Blend(), sample)
        >>> [name for name, _ in sim.named_quantizers()]
        ['param_quantizers.gain', 'input_quantizers.0', 'input_quantizers.1', 'output_quantizers.0']
    """
    for name, count in (("inputs", inputs), ("outputs", outputs)):
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError(f"register: {name} is {count!r}, expected how many tensors, an integer from 0.")
    if isinstance(params, str) or not all(isinstance(name, str) for name in params):
        raise ValueError(f"register: params is {params!r}, expected a tuple of names, as in params=('weight',).")

    def decorated(float_class: type[nn.Module]) -> type[nn.Module]:
        if not (isinstance(float_class, type) and issubclass(float_class, nn.Module)):
            raise TypeError(f"register: decorates {float_class!r}, expected a subclass of torch.nn.Module.")
        if float_class in SLOTS:
            raise ValueError(f"register: {float_class.__qualname__} is a leaf already, expected a class that is none.")
        slots = Slots(inputs, tuple(params), float_class.__name__ if onnx_op is None else onnx_op, outputs)
        add_leaf(float_class, slots, forwards.general)
        return float_class

    return decorated
