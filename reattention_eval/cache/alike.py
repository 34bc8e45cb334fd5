"""What the layers of a forward ask alike, made by the first of them."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

Made = TypeVar("Made")
MOST = 12  # kept at a time: of a few bands, each a mask and two tables


class Alike:
    """Keeps what was made last."""

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def __call__(self, what: Hashable, make: Callable[[], Made]) -> Made:
        """What `make` gave for `what`, if it is still kept; else what it gives now."""
        if what in self._made:
            found: Made = self._made[what]
            return found
        made = make()
        if len(self._made) >= MOST:
            del self._made[next(iter(self._made))]  # the oldest
        self._made[what] = made
        return made
