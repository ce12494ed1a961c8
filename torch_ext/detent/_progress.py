"""Progress of long work: a line on the terminal, after some seconds, where tqdm is installed."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

import torch.distributed as dist

__all__ = ["check_progress", "progress_bar"]

_AFTER = 3.0  # seconds: what is done sooner needs no line


def check_progress(function: str, progress: bool | None) -> None:
    """Raise where ``progress`` asks for what cannot be shown.

    Raises:
        ValueError: It is none of ``True``, ``False`` and ``None``. ImportError: it is ``True``, and tqdm is missing.
    """
    if progress is not None and not isinstance(progress, bool):
        raise ValueError(f"{function}: progress is {progress!r}, expected True, False or None.")
    if progress:
        try:
            import tqdm  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"{function}: progress=True needs tqdm ({error}). Install it with: pip install tqdm"
            ) from error


@contextlib.contextmanager
def progress_bar(
    title: str, *, total: int | None = None, unit: str, progress: bool | None
) -> Iterator[Callable[[], object] | None]:
    """What to call after each step of the block; ``None`` where nothing is shown.

    Args:
        title: What is done.
        total: How many steps there are, if that is known.
        unit: What a step is.
        progress: ``None``: after some seconds, and on a terminal alone, of rank 0 alone; ``True``: at once and
            anywhere; ``False``: nothing.
    """
    if not (_worth_it() if progress is None else progress):
        yield None
        return
    from tqdm import tqdm

    after = _AFTER if progress is None else 0
    with tqdm(desc=title, total=total, unit=f" {unit}", delay=after, leave=False) as bar:
        yield bar.update


def _worth_it() -> bool:
    if not sys.stderr.isatty() or (dist.is_available() and dist.is_initialized() and dist.get_rank() > 0):
        return False
    try:
        import tqdm  # noqa: F401
    except ImportError:
        return False
    return True
