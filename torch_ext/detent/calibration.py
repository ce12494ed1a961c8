"""Calibration of whole models: every quantizer observes, then takes the range of what it saw."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from torch import nn

from ._progress import check_progress, progress_bar
from ._running import evaluating
from .distributed import check_whole, is_sharded, merging
from .nn.base import parameters_of
from .nn.keeping import keeping_weights
from .quantizers import Quantizer

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

__all__ = ["compute_encodings"]

#: Parameters that take no more are quantized once, and kept for all the batches.
_MOST_KEPT_BYTES = 2**30


@contextlib.contextmanager
def compute_encodings(
    *models: nn.Module, process_group: ProcessGroup | bool = True, progress: bool | None = None
) -> Iterator[None]:
    """Calibrate quantized models with the data that runs through them inside; on leaving, they have their ranges.

    Inside, the models are in eval mode, no gradients are recorded, activations pass in float while they are observed,
    and parameters are quantized. Quantizers that are off, or that may not be overwritten, stay as they are.

    Args:
        models: ``sim.model`` of one simulation, or of several to be calibrated in one pass over the data.
        process_group, progress: As for :meth:`detent.QuantizationSimModel.compute_encodings`.
    Raises:
        Whatever the block raises; the models are then as they were before, ranges and training flags included.
    Example:
        >>> import detent
        >>> model, data = torch.nn.Linear(4, 2), torch.randn(8, 4)
        >>> coarse, fine = (detent.QuantizationSimModel(model, data, default_output_bw=bits) for bits in (4, 8))
        >>> with detent.compute_encodings(coarse.model, fine.model):
        ...     for batch in data.split(4):
        ...         _ = coarse.model(batch), fine.model(batch)
        >>> coarse.model.output_quantizers[0].get_max() == fine.model.output_quantizers[0].get_max()
        tensor([True])
    """
    check_progress("compute_encodings", progress)
    for model in models:
        check_whole(model, "compute_encodings")
    active = {
        module: None
        for model in models
        for module in model.modules()
        if isinstance(module, Quantizer) and module._calibrates()
    }
    before = [(quantizer, quantizer._snapshot()) for quantizer in active]
    try:
        with contextlib.ExitStack() as stack:
            for model in models:
                stack.enter_context(evaluating(model))
            of_params = _calibrate_params(models, active, progress)
            if not any(map(is_sharded, models)):
                stack.enter_context(keeping_weights(*models, most_bytes=_MOST_KEPT_BYTES))
            observing = [quantizer for quantizer in active if quantizer not in of_params]
            for quantizer in observing:
                quantizer._start_observing("pass")
            with (
                merging([quantizer._collector for quantizer in observing], process_group),
                _counting_forwards(models, progress),
            ):
                yield
            with progress_bar("finding ranges", total=len(observing), unit="quantizers", progress=progress) as step:
                found = []
                for quantizer in observing:
                    found.append(quantizer._finish_observing())
                    if step is not None:
                        step()
            for quantizer in observing:
                quantizer._mark_unseen()
    except BaseException:  # Ctrl-C too
        for quantizer, snapshot in before:
            quantizer._restore(snapshot)
        raise
    if observing and not any(found):
        warnings.warn(
            "compute_encodings: no quantizer saw any data, so activations stay float. Run your data through the "
            "quantized model: the one the callback is given, or sim.model.",
            stacklevel=4,
        )


def _calibrate_params(
    models: Sequence[nn.Module], active: dict[Quantizer, None], progress: bool | None
) -> set[Quantizer]:
    """Ranges of parameters come from the parameters alone."""
    of_params = {q: (owner, name) for model in models for q, owner, name in parameters_of(model) if q in active}
    with progress_bar("ranges of parameters", total=len(of_params), unit="parameters", progress=progress) as step:
        for quantizer, (owner, name) in of_params.items():
            quantizer._calibrate_on(getattr(owner, name))
            if step is not None:
                step()
    return set(of_params)


@contextlib.contextmanager
def _counting_forwards(models: Sequence[nn.Module], progress: bool | None) -> Iterator[None]:
    """Show how often the models ran; how often they will, only the callback knows."""
    with progress_bar("calibrating", unit="forward passes", progress=progress) as step, contextlib.ExitStack() as hooks:
        for model in models if step is not None else ():
            hooks.callback(model.register_forward_hook(lambda *_: step() and None).remove)
        yield
