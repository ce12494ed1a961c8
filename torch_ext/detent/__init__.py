"""Quantization-aware training for PyTorch models as they are.

>>> import torch, detent
>>> x = torch.tensor([-1.0, 0.25, 0.75, 9.0])
>>> detent.functional.fake_quantize(x, torch.tensor(0.5), qmin=-2, qmax=3)
tensor([-1.0000,  0.0000,  1.0000,  1.5000])
"""

from . import _library

_library.load()

from . import _fake  # noqa: E402

_fake.register()
if _library.status["detent_autograd"]:
    from . import _autograd

    _autograd.register()

from . import analysis, compat, config, distributed, functional, observers, ptq, qat, quantizers  # noqa: E402
from ._library import build_info  # noqa: E402
from .block_format import BlockFormat  # noqa: E402
from .calibration import compute_encodings  # noqa: E402
from .config import Config  # noqa: E402
from .defs import QuantizationDataType, QuantScheme  # noqa: E402
from .float_format import FloatFormat  # noqa: E402
from .quantsim import (  # noqa: E402
    QuantizationSimModel,
    load_checkpoint,
    load_encodings_to_sim,
    quantization_disabled,
    save_checkpoint,
)

__version__ = "0.1.0"
__all__ = [
    "BlockFormat",
    "Config",
    "FloatFormat",
    "QuantScheme",
    "QuantizationDataType",
    "QuantizationSimModel",
    "analysis",
    "build_info",
    "compat",
    "config",
    "compute_encodings",
    "distributed",
    "functional",
    "load_checkpoint",
    "load_encodings_to_sim",
    "observers",
    "ptq",
    "qat",
    "quantization_disabled",
    "quantizers",
    "save_checkpoint",
]
