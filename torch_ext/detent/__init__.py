"""Quantization-aware training for PyTorch models as they are.

>>> import torch, detent
>>> x = torch.tensor([-1.0, 0.25, 0.75, 9.0])
>>> detent.functional.fake_quantize(x, torch.tensor(0.5), qmin=-2, qmax=3)
tensor([-1.0000,  0.0000,  1.0000,  1.5000])
"""

from . import _library

_library.load()
