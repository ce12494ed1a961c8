"""What is done to a trained float model before it is quantized."""

from .batch_norm_fold import fold_all_batch_norms

__all__ = ["fold_all_batch_norms"]
