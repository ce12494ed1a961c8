"""A quantizer's state_dict: its tensors, and beside them all that says how to read them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class Saving:
    """Part of :class:`Quantizer`."""

    def get_extra_state(self) -> dict[str, Any]:
        """What state_dict holds besides tensors: plain types only."""
        return {
            "shape": list(self.shape),
            "block_size": None if self.block_size is None else list(self.block_size),
            "mode": self.mode,
            "initialized": self.is_initialized(),
            "unseen": self._unseen,
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Take over whether there is a range; everything else was taken over before the tensors were loaded."""
        if isinstance(state, dict) and "mode" in state:
            self._initialized, self._unseen = bool(state["initialized"]), bool(state["unseen"])
        self._note_versions()
        self._refresh()

    def _remember(self) -> tuple:
        """All that loading an encoding changes, for :meth:`_recall`."""
        tensors = [
            (tensor, tensor.detach().clone(), tensor.requires_grad) for tensor in (*self.parameters(), *self.buffers())
        ]
        held = {key: value for key, value in self.__dict__.items() if key not in ("_parameters", "_buffers")}
        return held, dict(self._parameters), dict(self._buffers), tensors, self.is_initialized()

    @torch.no_grad()
    def _recall(self, remembered: tuple) -> None:
        """Be as at :meth:`_remember`: the same tensor objects with the same values."""
        held, parameters, buffers, tensors, initialized = remembered
        self.__dict__.update(held)
        self._parameters.update(parameters)
        self._buffers.update(buffers)
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
        state = mine.get(prefix + "_extra_state")
        try:
            if isinstance(state, dict) and "mode" in state:
                self._take_over(state, mine, prefix)
            for name, held in (*self.named_parameters(), *self.named_buffers()):
                value = mine.get(prefix + name)
                if value is not None:
                    mine[prefix + name] = self._fitted(prefix + name, value, held)
        except ValueError as error:
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
