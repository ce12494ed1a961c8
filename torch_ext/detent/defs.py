"""The enumerations that name a scheme, a data type and a granularity."""

from __future__ import annotations

import enum

__all__ = ["Granularity", "QuantScheme", "QuantizationDataType"]


class QuantScheme(enum.Enum):
    """How ranges are found, and whether they are trained afterwards. Members and values up to 6 are AIMET's.

    ``min_max`` (alias ``post_training_tf``) and the ``post_training`` members calibrate: activation ranges are then
    fixed, parameter ranges follow the parameters. The ``training_range_learning`` members calibrate in the way they
    name (``training_range_learning``: as ``min_max``) and then train every range. ``tf_enhanced`` is the search for the
    best ratio of signal to noise; the observers say what each does (:mod:`detent.observers`).

    Example:
        >>> QuantScheme.from_str("tf") is QuantScheme.min_max
        True
    """

    min_max = 1
    post_training_tf = 1
    post_training_tf_enhanced = 2
    training_range_learning_with_tf_init = 3
    training_range_learning_with_tf_enhanced_init = 4
    training_range_learning = 5
    post_training_percentile = 6
    post_training_mse = 7
    post_training_entropy = 8
    post_training_moving_average = 9

    @classmethod
    def from_str(cls, name: str) -> QuantScheme:
        """The scheme called ``name``: a member's name, or the end of one: ``"tf"``,
        ``"tf_enhanced"``, ``"percentile"``, ``"mse"``, ``"entropy"``, ``"moving_average"``.

        Raises:
            ValueError: There is no such scheme.
        """
        member = cls.__members__.get(_SHORT_NAMES.get(name, name))
        if member is None:
            known = ", ".join(repr(known) for known in [*_SHORT_NAMES, *cls.__members__])
            raise ValueError(f"quant_scheme is {name!r}, expected one of {known}.")
        return member

    @property
    def learns_ranges(self) -> bool:
        """Whether ranges are trained after calibration."""
        return self.name.startswith("training_range_learning")


_SHORT_NAMES = {
    "tf": "min_max",
    "tf_enhanced": "post_training_tf_enhanced",
    "percentile": "post_training_percentile",
    "mse": "post_training_mse",
    "entropy": "post_training_entropy",
    "moving_average": "post_training_moving_average",
}


class QuantizationDataType(enum.Enum):
    """What a quantized tensor holds; AIMET's members and values."""

    undefined = 0
    int = 1
    float = 2


class Granularity(enum.Enum):
    """How many scales a tensor has."""

    per_tensor = "per_tensor"
    per_channel = "per_channel"
    per_block = "per_block"
