"""``aimet_torch.quantization.encoding_analyzer``: our observers under its names."""

from ..observers import MinMaxObserver as MinMaxEncodingAnalyzer

__all__ = ["MinMaxEncodingAnalyzer"]
