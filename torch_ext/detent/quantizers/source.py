"""Which parameter a quantizer follows."""

from __future__ import annotations

import weakref

from torch import Tensor, nn


class Source:
    """A parameter by its owner and name, without owning either.

    A copy made together with the owner points into the copy; a copy of the quantizer alone keeps pointing here.
    """

    def __init__(self, owner: nn.Module, name: str):
        self._owner = weakref.ref(owner)
        self._name = name

    def tensor(self) -> Tensor | None:
        owner = self._owner()
        return None if owner is None else getattr(owner, self._name, None)

    def __deepcopy__(self, memo: dict) -> Source:
        owner = self._owner()
        return self if owner is None else Source(memo.get(id(owner), owner), self._name)

    def __getstate__(self) -> dict:
        return {"owner": self._owner(), "name": self._name}

    def __setstate__(self, state: dict) -> None:
        self._name = state["name"]
        self._owner = weakref.ref(state["owner"]) if state["owner"] is not None else lambda: None
