"""What a view method offers beside its views so that its decode steps are one CUDA graph."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod

from reattention_eval.methods.base import Method

ANY_LENGTH = sys.maxsize


class Repeats(ABC):
    """Inherited beside `ViewMethod` by a method whose decode steps are the same work at many
    lengths, read from the device: its `view` then takes rows with a `device_length`."""

    @abstractmethod
    def repeats_until(self, length: int) -> int:
        """Tokens up to which decode steps, with a cache of `length` tokens and more, are one and
        the same work; 0 where they are not."""

    @abstractmethod
    def fixed_view(self, length: int) -> int:
        """Keys of a repeated step's view, of a cache of `length` tokens, besides those that the
        device counts."""


def repeats_until(method: Method, length: int) -> int:
    """See `Repeats.repeats_until`; 0 for a method that offers no repeats."""
    return method.repeats_until(length) if isinstance(method, Repeats) else 0


def fixed_view(method: Method, length: int) -> int:
    """See `Repeats.fixed_view`."""
    return method.fixed_view(length) if isinstance(method, Repeats) else 0
