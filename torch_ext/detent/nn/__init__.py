"""Quantized modules: each is its torch.nn twin with quantizers on its inputs, parameters and outputs.

The classes (``QuantizedConv2d``, ``QuantizedLinear``, ...) are generated from the table in :mod:`detent.nn.table`, to
which :func:`register` adds a user's own.
"""

from .base import QuantizedModule
from .fast_path import GUARDED, guard_fast_paths
from .registering import register
from .table import CLASSES, SLOTS, Slots, is_leaf, quantize_module, quantized_class

_generated = {made.__name__: made for made in (*CLASSES.values(), *GUARDED.values())}
globals().update(_generated)

__all__ = ["CLASSES", "GUARDED", "SLOTS", "QuantizedModule", "Slots", "guard_fast_paths", "is_leaf"]
__all__ += ["quantize_module", "quantized_class", "register"]
__all__ += list(_generated)
