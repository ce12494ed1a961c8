"""Models that were written elsewhere, small, with random weights: what the coverage script runs through a sim.

Each file is a library's: it imports it when asked for cases, and raises ImportError where it is not installed.
"""

from .case import Case, cases, versions

__all__ = ["Case", "cases", "versions"]
