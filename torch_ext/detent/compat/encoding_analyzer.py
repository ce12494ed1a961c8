"""``aimet_torch.quantization.encoding_analyzer``: our observers under its names, with its arguments."""

from __future__ import annotations

from collections.abc import Sequence

from ..observers import MinMaxObserver, PercentileObserver, SqnrObserver

__all__ = [
    "MinMaxEncodingAnalyzer",
    "PercentileEncodingAnalyzer",
    "SqnrEncodingAnalyzer",
    "TfEnhancedEncodingAnalyzer",
]

MinMaxEncodingAnalyzer = MinMaxObserver


class PercentileEncodingAnalyzer(PercentileObserver):
    """:class:`detent.observers.PercentileObserver`; ``num_bins`` is its ``bins``.

    Example:
        >>> PercentileEncodingAnalyzer((1,), num_bins=512, percentile=99.9).percentile
        99.9
    """

    def __init__(self, shape: int | Sequence[int], num_bins: int = 2048, percentile: float = 100.0):
        super().__init__(shape, bins=num_bins, percentile=percentile)

    def set_percentile(self, percentile: float) -> None:
        """Set :attr:`percentile`."""
        self.percentile = percentile


class SqnrEncodingAnalyzer(SqnrObserver):
    """:class:`detent.observers.SqnrObserver`; ``num_bins`` is its ``bins``, and the numbers of candidates its
    ``asymmetric_deltas``, ``symmetric_deltas`` and ``offsets``.

    Example:
        >>> SqnrEncodingAnalyzer((1,), symmetric_delta_candidates=50).candidates
        (17, 21, 50)
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        num_bins: int = 2048,
        *,
        asymmetric_delta_candidates: int = 17,
        symmetric_delta_candidates: int = 101,
        offset_candidates: int = 21,
        gamma: float = 3.0,
    ):
        super().__init__(
            shape, bins=num_bins, gamma=gamma, asymmetric_deltas=asymmetric_delta_candidates,
            offsets=offset_candidates, symmetric_deltas=symmetric_delta_candidates,
        )  # fmt: skip


class TfEnhancedEncodingAnalyzer(SqnrEncodingAnalyzer):
    """:class:`SqnrEncodingAnalyzer` with 512 bins.

    Example:
        >>> TfEnhancedEncodingAnalyzer((1,)).bins
        512
    """

    def __init__(self, shape: int | Sequence[int]):
        super().__init__(shape, 512)
