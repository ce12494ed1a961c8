"""Capture: which tensors flow where in a user's model, and quantizers at the functions its forwards call."""

from .graph import record
from .placement import install
from .sites import CallSite

__all__ = ["CallSite", "install", "record"]
