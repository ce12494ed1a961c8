"""Capture: which tensors flow where in a user's model, and quantizers at the functions its forwards call."""

from .exclude import call_sites, exclude
from .mode import place
from .placement import install
from .reasons import Reasons
from .recording import record
from .sites import CallSite
from .strip import float_class, strip

__all__ = ["CallSite", "Reasons", "call_sites", "exclude", "float_class", "install", "place", "record", "strip"]
