"""Repeated decode steps where no GPU is.

A repeat runs the step's own code again instead of a captured graph: lengths then still come from
the device's side alone.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from reattention_eval.attention import repeated_steps
from reattention_eval.engine import decode_graph
from reattention_eval.engine.decode_graph import RepeatedDecode, _Captured


def repeat_without_gpu(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes float64 models on a CPU repeat their steps; the rooms that are captured."""
    rooms: list[int] = []

    def capture(self: Any, step: Any, forward: Any) -> _Captured:
        logits = forward().clone()

        def replay() -> None:
            with self._hook.repeats.repeating(step):
                logits.copy_(forward())

        rooms.append(step.capacity)
        return _Captured(step, replay, logits, [])

    monkeypatch.setattr(RepeatedDecode, "_capture", capture)
    monkeypatch.setattr(repeated_steps, "FLASH_DTYPES", (torch.float64,))  # to compare exactly
    original = RepeatedDecode.__init__

    def able(self: Any, *args: Any) -> None:
        original(self, *args)
        self._able = True

    monkeypatch.setattr(RepeatedDecode, "__init__", able)
    monkeypatch.setattr(decode_graph, "LEAST_CAPACITY", 16)
    return rooms
