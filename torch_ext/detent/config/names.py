"""Configurations by name: the files beside this one, and variants of them."""

from __future__ import annotations

import re
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .model import Config

__all__ = ["NAMES", "find"]

_FILES = Path(__file__).parent / "files"
_HTP = ("v66", "v68", "v69", "v73", "v75", "v79", "v81")


def _nothing(config: Config) -> None:
    pass


def _per_channel(config: Config) -> None:
    config.defaults.per_channel_quantization = True


def _htp(version: str, per_channel_linear: bool) -> Callable[[Config], None]:
    def change(config: Config) -> None:
        config.defaults.hw_version = version.upper()
        if version == "v66":
            config.defaults.per_channel_quantization = False
        if per_channel_linear:
            for op in ("Gemm", "MatMul"):
                config.op_type[op].per_channel_quantization = True

    return change


#: Name -> file, and what differs from it.
_TABLE: dict[str, tuple[str, Callable[[Config], None]]] = {
    "default": ("default", _nothing),
    "default_per_channel": ("default", _per_channel),
    "aic100": ("default", _nothing),
    "aic100_per_channel": ("default", _per_channel),
    "backend_aware_aic100": ("default", _per_channel),
    "backend_aware_cpu": ("default", _per_channel),
    "backend_aware_htp_v75": ("htp", _htp("v75", False)),
    "backend_aware_lpai": ("lpai", _nothing),
    "dsp": ("default", _nothing),
    "eai": ("lpai", _nothing),
}
_TABLE |= {f"htp_{version}": ("htp", _htp(version, False)) for version in _HTP}
_TABLE |= {f"htp_{version}_per_channel_linear": ("htp", _htp(version, True)) for version in _HTP[1:]}

#: The configurations there are. AIMET's file names for them (``htp_quantsim_config_v73.json``) are understood too.
NAMES: tuple[str, ...] = tuple(_TABLE)


def find(source: str | PathLike[str]) -> tuple[Path, Callable[[Config], None]]:
    """The file for a path or a name, and what to change once it is read."""
    path = Path(source)
    if path.exists():
        return path, _nothing
    name = re.sub(r"(_quantsim)?_config", "", path.name.removesuffix(".json"))
    if str(path) != path.name or name not in _TABLE:
        raise FileNotFoundError(
            f"config_file is {str(source)!r}, which is no file, and none of the names {', '.join(NAMES)}."
        )
    file, changes = _TABLE[name]
    return _FILES / f"{file}.json", changes
