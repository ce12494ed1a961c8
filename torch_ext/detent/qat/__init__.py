"""Training a simulation model: what to hand the optimizer, how ranges are trained, and what to watch."""

from .caching import cached_weights
from .compression import compress_saved_tensors
from .debug import nan_guard
from .freezing import OscillationFreezer
from .groups import parameter_groups
from .losses import dampening_loss, distillation_loss
from .lsq import LsqObserver, use_lsq
from .memory import SavedBytes, saved_bytes
from .modes import freeze_batch_norm, set_modes
from .pact import use_pact

__all__ = [
    "LsqObserver",
    "OscillationFreezer",
    "SavedBytes",
    "cached_weights",
    "compress_saved_tensors",
    "dampening_loss",
    "distillation_loss",
    "freeze_batch_norm",
    "nan_guard",
    "parameter_groups",
    "saved_bytes",
    "set_modes",
    "use_lsq",
    "use_pact",
]
