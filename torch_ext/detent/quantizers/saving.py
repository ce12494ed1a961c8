"""A quantizer's state_dict: its tensors, and beside them all that says how to read them."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

_VERSION = 1
#: States have the same number of bytes whatever they say: torch.distributed.checkpoint reads into a state_dict at hand.
_UNIT = 512


class Saving:
    """Part of :class:`Quantizer`."""

    def get_extra_state(self) -> Tensor:
        """What state_dict holds besides the range: JSON of plain values as a uint8 tensor, blanks at its end.

        Example:
            >>> state = QuantizeDequantize((1,), 4, symmetric=True).get_extra_state()
            >>> json.loads(bytes(state.tolist()))["qmin"]
            -8
        """
        text = json.dumps({"version": _VERSION, **self._state()}).encode()
        return torch.tensor(list(text.ljust(-len(text) // _UNIT * -_UNIT)), dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Take over whether there is a range; everything else was taken over before the tensors were loaded."""
        values = self._read_state(self._title(), state)
        self._initialized, self._unseen = bool(values["initialized"]), bool(values["unseen"])
        self._note_versions()
        self._refresh()

    def _read_state(self, owner: str, state: Any) -> dict[str, Any]:
        if not isinstance(state, Tensor) or state.dtype != torch.uint8:
            raise ValueError(
                f"{owner}: _extra_state is a {type(state).__name__}, expected the uint8 tensor that state_dict() "
                "wrote. Leave it out, with strict=False, to load the range alone."
            )
        try:
            values = json.loads(bytes(state.tolist()))
            version = values.pop("version")
        except (ValueError, TypeError, LookupError, AttributeError):
            raise ValueError(f"{owner}: _extra_state is damaged, expected what state_dict() wrote.") from None
        if version != _VERSION:
            raise ValueError(f"{owner}: _extra_state has version {version!r}, expected {_VERSION}.")
        return values

    def _suit(self, owner: str, state: dict[str, Any]) -> None:
        """Be of the kind that a state speaks of, if it is whole."""
        from .kinds import suit_state

        suit_state(self, state)
        missing = self._state().keys() - state.keys()
        if missing:
            raise ValueError(
                f"{owner}: _extra_state lacks {', '.join(sorted(missing))}, expected that of a {type(self).__name__}."
            )

    def _state(self) -> dict[str, Any]:
        return {
            "shape": list(self.shape),
            "block_size": None if self._layout.block_size is None else list(self._layout.block_size),
            "mode": self.mode,
            "initialized": self.is_initialized(),
            "unseen": self._unseen,
        }

    def _remember(self) -> tuple:
        """All that loading an encoding changes, for :meth:`_recall`."""
        tensors = [
            (tensor, tensor.detach().clone(), tensor.requires_grad) for tensor in (*self.parameters(), *self.buffers())
        ]
        held = {**self.__dict__, "_parameters": dict(self._parameters), "_buffers": dict(self._buffers)}
        return type(self), held, tensors, self.is_initialized()

    @torch.no_grad()
    def _recall(self, remembered: tuple) -> None:
        """Be as at :meth:`_remember`: the same kind, the same tensor objects with the same values."""
        self.__class__, held, tensors, initialized = remembered
        object.__setattr__(self, "__dict__", held)
        for tensor, value, requires_grad in tensors:
            tensor.copy_(value)
            tensor.requires_grad_(requires_grad)
        self._initialized = initialized
        self._note_versions()
        self._refresh()

    def _load_from_state_dict(
        self, state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
    ):
        mine = {key: value for key, value in state_dict.items() if key.startswith(prefix)}
        state, before = mine.get(prefix + "_extra_state"), self._remember()
        try:
            if state is not None:
                values = self._read_state(prefix[:-1], state)
                self._suit(prefix[:-1], values)
                self._take_over(values, mine, prefix)
            for name, held in (*self.named_parameters(), *self.named_buffers()):
                value = mine.get(prefix + name)
                if value is not None:
                    mine[prefix + name] = self._fitted(prefix + name, value, held)
        except (ValueError, TypeError) as error:
            self._recall(before)
            error_msgs.append(str(error))
            return
        super()._load_from_state_dict(mine, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        names = list(self._held())
        if prefix + "_extra_state" not in mine and names and all(prefix + name in mine for name in names):
            self._initialized, self._unseen = True, False
            self._refresh()

    def _fit_clip(self, clip: Tensor | None) -> None:
        """Make room for the factors of a dynamic range that are about to be loaded."""
        if self.clip is not None and clip is not None and clip.numel() != self.clip.numel():
            self._clip_per_group = clip.numel() > 1
            shape = self.shape if self._clip_per_group else (1,)
            self.clip = torch.ones(shape, dtype=torch.float32, device=self.clip.device)

    @staticmethod
    def _fitted(key: str, value: Tensor, held: Tensor) -> Tensor:
        if value.numel() != held.numel():
            raise ValueError(
                f"{key} has shape {tuple(value.shape)}, expected {tuple(held.shape)}. Load it into a quantizer of "
                "the same shape, or keep the _extra_state beside it, which says the shape."
            )
        return value.reshape(held.shape).to(torch.float32)
