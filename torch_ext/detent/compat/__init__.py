"""AIMET's names where they are not ours, so that code written for it runs with its import lines changed.

``import detent.compat as Q`` stands for ``import aimet_torch.quantization as Q``: ``Q.affine``,
``Q.float``, ``Q.encoding_analyzer``. The table of all imports is ``docs/from_aimet.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..nn import QuantizedModule as QuantizationMixin
from . import affine, elementwise_ops, encoding_analyzer, float

__all__ = ["CallbackFunc", "QuantizationMixin", "affine", "elementwise_ops", "encoding_analyzer", "float"]


@dataclass
class CallbackFunc:
    """A function and its second argument.

    Example:
        >>> CallbackFunc(lambda model, factor: model * factor, 3)(2)
        6
    """

    func: Callable[..., Any]
    args: Any = None

    def __call__(self, model: Any) -> Any:
        return self.func(model, self.args)
