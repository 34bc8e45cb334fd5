"""Ctrl-C that ends what is going on, not the command."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

INTERRUPTED = 130  # a shell's status of a command that was ended so


class CtrlC:
    """Inside the block the first Ctrl-C is noted in `pressed`; a second one interrupts as ever."""

    pressed = False

    def __enter__(self) -> CtrlC:
        self._before: Any = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def ends(self, tokens: list[int]) -> bool:
        """For `generate`: whether the answer ends with these."""
        return self.pressed

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.pressed:
            raise KeyboardInterrupt
        self.pressed = True
