"""Files that appear complete or not at all, and a state_dict as safetensors."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor, nn

try:
    from safetensors import safe_open
    from safetensors.torch import save_file
except ImportError as error:
    raise ImportError(f"export needs safetensors ({error}). Install it with: pip install safetensors") from error

__all__ = ["all_or_nothing", "read_state_dict", "write_state_dict"]

_EXTRA = "extra_state"  # of the model's own modules, where it is no tensor


@contextmanager
def all_or_nothing(path: str | PathLike[str]) -> Iterator[Path]:
    """A hidden folder in ``path``; what was written there moves to ``path`` at the end, or goes if the block raises."""
    target = Path(path)
    made = [folder for folder in (target, *target.parents) if not folder.exists()]
    target.mkdir(parents=True, exist_ok=True)
    hidden = Path(tempfile.mkdtemp(prefix=".export-", dir=target))
    try:
        yield hidden
        for file in sorted(hidden.iterdir()):
            os.replace(file, target / file.name)
    except BaseException:
        shutil.rmtree(hidden, ignore_errors=True)
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()
        raise
    hidden.rmdir()


def write_state_dict(model: nn.Module, path: Path) -> None:
    """``model.state_dict()`` as one safetensors file; what is no tensor goes into its metadata, as JSON."""
    tensors: dict[str, Tensor] = {}
    extra: dict[str, Any] = {}
    held: set[int] = set()
    for key, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            extra[key] = value
            continue
        value = value.detach().cpu().contiguous()
        # Tied weights are written once per key: the format has no aliases.
        storage = value.untyped_storage().data_ptr()
        tensors[key] = value.clone() if storage in held else value
        held.add(storage)
    save_file(tensors, str(path), metadata={"format": "pt", _EXTRA: json.dumps(extra)})


def read_state_dict(path: str | PathLike[str]) -> dict[str, Any]:
    """The state_dict that :func:`detent.export.export_sim` wrote to ``prefix.safetensors``.

    Example:
        sim.model.load_state_dict(read_state_dict("out/model.safetensors"))
    """
    with safe_open(str(path), framework="pt") as file:
        state: dict[str, Any] = {key: file.get_tensor(key) for key in file.keys()}
        state.update(json.loads((file.metadata() or {}).get(_EXTRA, "{}")))
    return state
