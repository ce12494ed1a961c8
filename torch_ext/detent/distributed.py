"""Many processes and many devices: statistics of calibration joined across ranks, and models behind their wrappers."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from .observers import MinMaxObserver

__all__ = ["check_whole", "is_sharded", "merge_observers", "merging", "unwrap"]

# Observers that travel at a time: bounds what a rank holds of the others' statistics.
_CHUNK = 64


def merge_observers(
    observers: Sequence[MinMaxObserver], process_group: dist.ProcessGroup | bool = True
) -> Sequence[MinMaxObserver]:
    """Join what the ranks of a process group have seen, in place: afterwards each has seen what all of them saw.

    Statistics are joined by :meth:`MinMaxObserver.merge` in the order of the ranks, on the CPU, so every rank ends with
    the same bits. Minima, maxima and counts are those of one process that saw all the data; of moving averages, which
    depend on the order of the batches, the widest on each side is taken. A rank that saw nothing takes the others'.

    Args:
        observers: As many on every rank, of the same tensors in the same order.
        process_group: ``True``: the default group where one is initialized; ``False``: this process alone; or a group.
            Outside the group, and in one of one rank, nothing happens.
    Returns:
        ``observers``.
    Raises:
        RuntimeError: The ranks came with different observers; raised on each of them, and nothing has changed.
    Example:
        >>> observer = MinMaxObserver((1,))
        >>> observer.update(torch.tensor([-1.0, 2.0]))
        >>> merge_observers([observer])[0].max  # torch.distributed is not initialized: this process alone
        tensor([2.])
    """
    with merging(observers, process_group):
        return observers


@contextlib.contextmanager
def merging(observers: Sequence[MinMaxObserver], process_group: dist.ProcessGroup | bool = True) -> Iterator[None]:
    """:func:`merge_observers` on leaving the block; a rank whose block raises says so to the others, which raise too.

    Raises:
        Whatever the block raises. RuntimeError: another rank's block raised, or as :func:`merge_observers`.
    """
    group = _group(process_group)
    if group is None:
        yield
        return
    try:
        yield
    except Exception as error:
        _gathered((f"{type(error).__name__}: {error}", None), group)
        raise
    _check_together(_gathered((None, [str(observer) for observer in observers]), group))
    for first in range(0, len(observers), _CHUNK):
        mine = observers[first : first + _CHUNK]
        of_ranks = _gathered([_on_cpu(observer) for observer in mine], group)
        for observer, *parts in zip(mine, *of_ranks):
            observer.reset()
            for part in parts:
                observer.merge(part)


def _group(process_group: dist.ProcessGroup | bool) -> dist.ProcessGroup | None:
    """The group to talk to; ``None`` where there is nobody to talk to."""
    if process_group is False or not (dist.is_available() and dist.is_initialized()):
        return None
    group = dist.group.WORLD if process_group is True else process_group
    if group == dist.GroupMember.NON_GROUP_MEMBER:  # what new_group gives to those who are not in it
        return None
    if not isinstance(group, dist.ProcessGroup):
        raise TypeError(f"process_group is {process_group!r}, expected a process group, True or False.")
    return group if dist.get_world_size(group) > 1 else None


def _gathered(mine, group: dist.ProcessGroup) -> list:
    """What every rank hands in, in the order of the ranks."""
    of_ranks = [None] * dist.get_world_size(group)
    dist.all_gather_object(of_ranks, mine, group=group)
    return of_ranks


def _check_together(of_ranks: list[tuple[str | None, list[str] | None]]) -> None:
    for rank, (failure, _) in enumerate(of_ranks):
        if failure is not None:
            raise RuntimeError(
                f"calibration across ranks: rank {rank} of {len(of_ranks)} raised {failure}. No rank has new ranges; "
                "see that rank's traceback."
            )
    expected = of_ranks[0][1]
    for rank, (_, got) in enumerate(of_ranks):
        if got != expected:
            at = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
            raise RuntimeError(
                f"calibration across ranks: rank {rank} has {len(got)} observers, rank 0 has {len(expected)}, and they "
                f"differ from number {at} on, expected the same on every rank. Build the same sim and switch the same "
                "quantizers off everywhere, or calibrate with process_group=False."
            )


def _on_cpu(observer: MinMaxObserver) -> MinMaxObserver:
    """What travels: the observer with its statistics joined on the CPU."""
    made = copy.copy(observer)
    seen = [tensor.cpu() for tensor in observer._collected()] if observer._statistics else None
    made._statistics = {} if seen is None else {torch.device("cpu"): seen}
    return made


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside DataParallel, DistributedDataParallel and what ``torch.compile`` returns; else ``model``.

    Example:
        >>> model = nn.Linear(4, 2)
        >>> unwrap(nn.DataParallel(model)) is model
        True
    """
    while True:
        if isinstance(model, (DataParallel, DistributedDataParallel)):
            model = model.module
        elif "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]
        else:
            return model


def is_sharded(model: nn.Module) -> bool:
    """Whether FSDP, of either kind, has split parameters of it."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    kinds = () if fsdp is None else (fsdp.FullyShardedDataParallel, fsdp.FSDPModule)
    return any(isinstance(module, kinds) for module in model.modules())


def check_whole(model: nn.Module, what: str) -> None:
    """Raise RuntimeError where parameters are sharded over ranks, so that nobody has a range to read or to write."""
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "full_tensor"):  # a DTensor
            raise RuntimeError(
                f"{what}: {name} is sharded over ranks, expected a whole model. Calibrate or load encodings before "
                "fully_shard(); for encodings and export gather the state_dict "
                "(torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict=True) and load it "
                "into a sim of one process."
            )
