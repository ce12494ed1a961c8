"""Looking at a simulation: its quantizers, its quantized modules, and the table of both."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from typing import Any

from torch import nn

from ._report import Summary
from ._rows import summarize
from .nn import QuantizedModule
from .quantizers import Quantizer


class Looking:
    """Part of :class:`QuantizationSimModel`."""

    def named_quantizers(self) -> Iterator[tuple[str, Quantizer]]:
        """``(name, quantizer)`` of every quantizer; one that is shared comes once, under its first name."""
        for name, module in self._network.named_modules():
            if isinstance(module, Quantizer):
                yield name, module

    def quantizers(self) -> Iterator[Quantizer]:
        """Every quantizer, once."""
        for _, quantizer in self.named_quantizers():
            yield quantizer

    def named_quantizer_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """``(name, parameter)`` of the ranges that quantizers hold; dynamic ones hold none."""
        for name, quantizer in self.named_quantizers():
            for key, parameter in quantizer.named_parameters(prefix=name):
                yield key, parameter

    def quantizer_parameters(self) -> Iterator[nn.Parameter]:
        """The ranges that quantizers hold, for an optimizer's parameter group of their own."""
        for _, parameter in self.named_quantizer_parameters():
            yield parameter

    def quantizer_state_dict(self) -> dict[str, Any]:
        """The part of ``sim.model.state_dict()`` that quantizers hold.

        Example:
            >>> sim = detent.QuantizationSimModel(torch.nn.Linear(4, 2), torch.randn(1, 4))
            >>> sim.compute_encodings(lambda model: model(torch.randn(32, 4)))
            >>> _ = sim.model.load_state_dict(sim.quantizer_state_dict(), strict=False)
        """
        prefixes = tuple(
            f"{name}." for name, module in self._network.named_modules(remove_duplicate=False)
            if isinstance(module, Quantizer)
        )  # fmt: skip
        return {key: value for key, value in self._network.state_dict().items() if key.startswith(prefixes)}

    def qmodules(self) -> Iterator[QuantizedModule]:
        """Every quantized module."""
        for _, module in self.named_qmodules():
            yield module

    def named_qmodules(self) -> Iterator[tuple[str, QuantizedModule]]:
        """``(name, module)`` of every quantized module."""
        for name, module in self._network.named_modules():
            if isinstance(module, QuantizedModule):
                yield name, module

    def summary(self) -> Summary:
        """Every quantizer, and everything that is float and why, as they are now: see :class:`detent.analysis.Summary`.

        Example:
            >>> sim = detent.QuantizationSimModel(torch.nn.Linear(4, 2), torch.randn(1, 4))
            >>> sim.compute_encodings(lambda model: model(torch.randn(32, 4)))
            >>> widest = max((row for row in sim.summary() if row.high is not None), key=lambda row: row.high.max())
        """
        return summarize(self._network, self._graph, self._reasons)

    def to_html(self, path: str | PathLike[str]) -> None:
        """Write :meth:`summary` as a page that needs nothing else, with the graph and a bar for each range."""
        self.summary().to_html(path)

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()

    def __str__(self) -> str:
        return str(self.summary())
